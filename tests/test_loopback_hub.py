"""The hub over loopback is to the unmodified client what the real one is: what is published, what is there, what comes back."""

import concurrent.futures
import os
from pathlib import Path

import pytest
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.errors import (
    HfHubHTTPError,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from support.hub import STRANGER, Hub

CARD = "---\nlicense: mit\ntags: [mlx]\n---\n# Tiny\n"
REPO = "acme/tiny"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """What is published: two regular files, and two that belong into LFS, by name and by their bytes."""
    folder = tmp_path / "tiny"
    (folder / "onnx").mkdir(parents=True)
    (folder / "README.md").write_text(CARD)
    (folder / "config.json").write_text("{}")
    (folder / "onnx/model.onnx").write_bytes(os.urandom(300_000))
    (folder / "a map.png").write_bytes(b"\x89PNG\0" + os.urandom(100))
    return folder


@pytest.fixture
def published(api: HfApi, folder: Path) -> str:
    """The commit by which the folder lies on the hub."""
    api.create_repo(REPO)
    return api.upload_folder(repo_id=REPO, folder_path=folder).oid


def contents(folder: Path | str) -> dict[str, bytes]:
    """All files of a folder, but the one that the hub adds."""
    files = [path for path in Path(folder).rglob("*") if path.is_file() and path.name != ".gitattributes"]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def test_what_is_published_comes_back(hub: Hub, api: HfApi, folder: Path) -> None:
    assert api.whoami()["name"] == "somebody"
    (folder / "tokenizer.json").write_text("x" * 10_000_001)  # too large for git
    api.create_repo(REPO)
    published = api.upload_folder(repo_id=REPO, folder_path=folder).oid
    info = api.model_info(REPO, files_metadata=True)
    assert (info.sha, info.private, info.tags, info.card_data["license"]) == (published, False, ["mlx"], "mit")
    stored = {file.rfilename: file for file in info.siblings}
    assert {name for name, file in stored.items() if file.lfs} == {"onnx/model.onnx", "a map.png", "tokenizer.json"}
    assert {name: file.size for name, file in stored.items() if name != ".gitattributes"} == {
        name: len(content) for name, content in contents(folder).items()
    }
    assert contents(api.snapshot_download(REPO)) == contents(folder)
    attributes = Path(api.hf_hub_download(REPO, ".gitattributes")).read_text()
    assert "\na[[:space:]]map.png filter=lfs" in attributes
    assert "\ntokenizer.json filter=lfs" in attributes
    assert attributes.count(".onnx ") == 1
    assert not [entry for entry in hub.log if "xet" in entry.path]


def test_the_same_again_is_no_commit_and_a_change_sends_itself_alone(
    hub: Hub, api: HfApi, folder: Path, published: str
) -> None:
    assert len(hub.requests("PUT", "/lfs/")) == 2
    assert api.upload_folder(repo_id=REPO, folder_path=folder).oid == published
    (folder / "onnx/model.onnx").write_bytes(os.urandom(1000))
    changed = api.upload_folder(repo_id=REPO, folder_path=folder, commit_message="Other weights").oid
    sent = hub.requests("PUT", "/lfs/")
    assert [entry.received for entry in sent[2:]] == [1000]
    assert [commit.title for commit in api.list_repo_commits(REPO)] == [
        "Other weights",
        "Upload folder using huggingface_hub",
        "initial commit",
    ]
    api.create_tag(REPO, tag="v1", revision=published)
    api.create_branch(REPO, branch="next/one", revision="v1")
    for revision, size in ((published, 300_000), ("v1", 300_000), ("next/one", 300_000), (changed[:7], 1000), (None, 1000)):
        path = Path(api.hf_hub_download(REPO, "onnx/model.onnx", revision=revision))
        assert path.stat().st_size == size
    refs = api.list_repo_refs(REPO)
    assert {ref.name: ref.target_commit for ref in [*refs.branches, *refs.tags]} == {
        "main": changed,
        "next/one": published,
        "v1": published,
    }


def test_equal_contents_lie_there_once_but_go_to_each_repository(hub: Hub, api: HfApi, folder: Path, published: str) -> None:
    api.create_repo("acme/other")
    api.upload_folder(repo_id="acme/other", folder_path=folder)
    assert [len(hub.requests("PUT", f"/lfs/{repo}/")) for repo in (REPO, "acme/other")] == [2, 2]
    stored = [path.stat().st_size for path in (hub.store.folder / "objects").iterdir()]
    assert stored.count(300_000) == 1


def test_a_listing_comes_in_pages(hub: Hub, api: HfApi, published: str) -> None:
    whole = api.list_repo_files(REPO)
    hub.page = 2
    assert api.list_repo_files(REPO) == whole
    assert [entry.path for entry in api.list_repo_tree(REPO, "onnx")] == ["onnx/model.onnx"]
    assert [entry.query[-1] for entry in hub.requests("GET", "cursor=")] == ["2", "4"]
    assert [entry.path for entry in api.get_paths_info(REPO, ["onnx", "config.json", "none"])] == ["onnx", "config.json"]


@pytest.mark.parametrize("at_once", [True, False])
def test_a_pull_request_leaves_main_as_it_is(hub: Hub, folder: Path, api: HfApi, published: str, at_once: bool) -> None:
    """By a stranger, with the commit that makes it, or opened first and then filled."""
    stranger = HfApi(endpoint=hub.url, token=STRANGER)
    change = [CommitOperationAdd("config.json", b"[]"), CommitOperationAdd("more.bin", b"more")]
    if at_once:
        made = stranger.create_commit(REPO, change, commit_message="Better", create_pr=True)
        assert (made.pr_num, made.pr_revision, made.pr_url) == (1, "refs/pr/1", f"{hub.url}/{REPO}/discussions/1")
    else:
        opened = stranger.create_pull_request(REPO, title="Better")
        stranger.create_commit(REPO, change, commit_message="Better", revision=opened.git_reference)
    assert api.get_discussion_details(REPO, 1).title == "Better"
    assert api.model_info(REPO).sha == published
    assert [ref.ref for ref in api.list_repo_refs(REPO, include_pull_requests=True).pull_requests] == ["refs/pr/1"]
    assert Path(api.hf_hub_download(REPO, "config.json", revision="refs/pr/1")).read_text() == "[]"
    assert Path(api.hf_hub_download(REPO, "more.bin", revision="refs/pr/1")).read_text() == "more"


def test_a_collection(api: HfApi, published: str) -> None:
    made = api.create_collection("Sealed models!", namespace="acme")
    assert made.slug.startswith("acme/sealed-models-")
    assert api.create_collection("Sealed models!", namespace="acme", exists_ok=True).slug == made.slug
    for _ in range(2):
        api.add_collection_item(made.slug, REPO, "model", note="sealed", exists_ok=True)
    items = api.get_collection(made.slug).items
    assert [(item.item_id, item.note) for item in items] == [(REPO, "sealed")]
    for again in (
        lambda: api.create_collection("Sealed models!", namespace="acme"),
        lambda: api.add_collection_item(made.slug, REPO, "model"),
    ):
        with pytest.raises(HfHubHTTPError, match="409"):
            again()


def test_what_is_not_there_is_named(hub: Hub, api: HfApi, published: str) -> None:
    with pytest.raises(RepositoryNotFoundError):
        api.model_info("acme/none")
    with pytest.raises(RevisionNotFoundError):
        api.model_info(REPO, revision="none")
    with pytest.raises(RevisionNotFoundError):
        api.create_commit(REPO, [CommitOperationAdd("a", b"a")], commit_message="a", revision=published)
    with pytest.raises(RemoteEntryNotFoundError):
        api.hf_hub_download(REPO, "none.json")
    with pytest.raises(RemoteEntryNotFoundError, match="A file with this name doesn't exist"):
        api.create_commit(REPO, [CommitOperationDelete("none.json")], commit_message="a")
    assert api.model_info(REPO).sha == published


def test_what_is_there_stays(hub: Hub, api: HfApi, published: str) -> None:
    with pytest.raises(HfHubHTTPError, match="409"):
        api.create_repo(REPO)
    assert api.create_repo(REPO, exist_ok=True).repo_id == REPO
    with pytest.raises(HfHubHTTPError, match="409"):
        api.create_branch(REPO, branch="main")
    first = api.list_repo_commits(REPO)[-1].commit_id
    with pytest.raises(HfHubHTTPError, match="412"):
        api.create_commit(REPO, [CommitOperationAdd("a", b"a")], commit_message="a", parent_commit=first)
    assert api.model_info(REPO).sha == published


def test_commits_at_the_same_time_lose_nothing(api: HfApi, published: str) -> None:
    def add(number: int) -> None:
        api.create_commit(REPO, [CommitOperationAdd(f"{number}.txt", b"a")], commit_message=str(number))

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        list(pool.map(add, range(8)))
    assert {f"{number}.txt" for number in range(8)} < set(api.list_repo_files(REPO))


@pytest.mark.parametrize(
    ("front", "said"),
    [
        ("license: mine", '"license" must be one of'),
        ("license: [", "YAML cannot be read"),
        ("language: english", '"language" with value "english"'),
        ("license: other\nlicense_link: here", '"license_link" must be'),
        ("base_model: bge", '"base_model" with value "bge"'),
        ("base_model_relation: shrunk", '"base_model_relation" must be'),
        ("tags: mlx", '"tags" must be an array'),
        ("model-index: [{name: a, results: [{task: {type: b}, metrics: [{type: c}]}]}]", 'metrics[0].value" is required'),
    ],
)
def test_a_card_is_checked_before_anything_is_sent(hub: Hub, api: HfApi, folder: Path, front: str, said: str) -> None:
    api.create_repo(REPO)
    (folder / "README.md").write_text(f"---\n{front}\n---\n")
    with pytest.raises(ValueError, match="Invalid metadata in README.md") as caught:
        api.upload_folder(repo_id=REPO, folder_path=folder)
    assert said in str(caught.value)
    assert not hub.requests("PUT", "") + hub.requests("POST", "/commit/")


def test_a_card_without_front_matter_or_with_an_unknown_task_is_warned_of(api: HfApi) -> None:
    api.create_repo(REPO)
    for card, said in ((b"# Tiny\n", "empty or missing yaml"), (b"---\npipeline_tag: sealing\n---\n", '"sealing" is not in')):
        with pytest.warns(UserWarning, match=said):
            api.upload_file(repo_id=REPO, path_in_repo="README.md", path_or_fileobj=card)


def test_names_that_no_client_would_send_can_be_put_there(hub: Hub, api: HfApi) -> None:
    """For the tests of those who load."""
    hub.put(REPO, {"../../x": b"out", "a/b.json": b"{}"})
    assert set(api.list_repo_files(REPO)) == {".gitattributes", "../../x", "a/b.json"}
