"""The hub over loopback is to the unmodified client what the real one is: publishing, loading, rights, and what goes wrong."""

import concurrent.futures
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.errors import (
    HfHubHTTPError,
    LocalEntryNotFoundError,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from support.hub import READ, STRANGER, WRITE, Fault, Hub

CARD = "---\nlicense: mit\ntags: [mlx]\n---\n# Tiny\n"
REPO = "acme/tiny"


@pytest.fixture
def api(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> HfApi:
    """The client of an owner; its cache is new."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    return HfApi(endpoint=hub.url, token=WRITE)


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


READING: list[Callable[[HfApi], object]] = [
    lambda api: api.model_info(REPO),
    lambda api: api.list_repo_files(REPO),
    lambda api: api.hf_hub_download(REPO, "config.json"),
]
WRITING: list[Callable[[HfApi], object]] = [
    lambda api: api.create_commit(REPO, [CommitOperationAdd("a.txt", b"a")], commit_message="a"),
    lambda api: api.create_commit(REPO, [CommitOperationDelete("config.json")], commit_message="a"),
    lambda api: api.create_branch(REPO, branch="b"),
    lambda api: api.create_repo("acme/more"),
    lambda api: api.delete_repo(REPO),
]


@pytest.mark.parametrize(
    ("private", "token", "reads", "writes"),
    [
        (False, False, 200, 401),
        (False, READ, 200, 403),
        (False, STRANGER, 200, 403),
        (False, "hf_unknown", 401, 401),
        (True, False, 401, 401),
        (True, READ, 200, 403),
        (True, STRANGER, 404, 404),
        (True, WRITE, 200, 200),
    ],
)
def test_who_may_read_and_write(hub: Hub, api: HfApi, private: bool, token: str | bool, reads: int, writes: int) -> None:
    """A private repository is not there for others: without a token it is 401, with a stranger's 404."""
    hub.put(REPO, {"config.json": b"{}"}, private=private)
    before = api.list_repo_commits(REPO)[0]
    client = HfApi(endpoint=hub.url, token=token)
    for calls, expected in ((READING, reads), (WRITING, writes)):
        for call in calls:
            hub.log.clear()
            if expected == 200:
                call(client)
                continue
            with pytest.raises(HfHubHTTPError):
                call(client)
            creates = expected == 404 and hub.log[-1].path == "/api/repos/create"  # that is no secret
            assert hub.log[-1].status == (403 if creates else expected)
    if writes != 200:
        assert api.list_repo_commits(REPO)[0] == before
        assert not api.repo_exists("acme/more")


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


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_fault_is_answered_once(hub: Hub, api: HfApi, published: str, status: int) -> None:
    hub.faults.append(Fault("GET", f"/api/models/{REPO}", status, {"Retry-After": "7"}))
    with pytest.raises(HfHubHTTPError) as caught:
        api.model_info(REPO)
    assert caught.value.response.status_code == status
    assert caught.value.response.headers["Retry-After"] == "7"
    assert api.model_info(REPO).sha == published


def test_a_lost_answer_leaves_the_commit(hub: Hub, api: HfApi, published: str) -> None:
    hub.faults.append(Fault("POST", "/commit/", lose_answer=True))
    with pytest.raises(Exception, match="disconnected"):
        api.create_commit(REPO, [CommitOperationAdd("a.txt", b"a")], commit_message="a")
    assert api.list_repo_commits(REPO)[0].title == "a"


def test_an_upload_that_is_cut_or_put_off_is_sent_again_and_no_other_is(hub: Hub, api: HfApi, folder: Path) -> None:
    """The three wait for their second try at the same time."""
    (folder / "more.bin").write_bytes(b"more")
    api.create_repo(REPO)
    hub.faults += [Fault("PUT", "/lfs/", cut_after=3), Fault("PUT", "/lfs/", 500)]
    hub.faults += [Fault("PUT", "/lfs/", 429, {"Retry-After": "0"})]
    api.upload_folder(repo_id=REPO, folder_path=folder)
    sent = hub.requests("PUT", "/lfs/")
    assert sorted(entry.status for entry in sent) == [0, 200, 200, 200, 429, 500]
    assert [entry.received for entry in sent if entry.status == 0] == [3]
    assert contents(api.snapshot_download(REPO)) == contents(folder)


def test_of_an_upload_in_parts_the_one_that_is_cut_is_sent_again(hub: Hub, api: HfApi) -> None:
    api.create_repo(REPO)
    hub.part = 100_000
    hub.faults.append(Fault("PUT", r"/2\?", cut_after=65_000))
    content = os.urandom(250_000)
    api.upload_file(repo_id=REPO, path_in_repo="model.onnx", path_or_fileobj=content)
    assert [(entry.path[-2:], entry.received) for entry in hub.requests("PUT", "/lfs/")] == [
        ("/1", 100_000),
        ("/2", 65_000),
        ("/2", 100_000),
        ("/3", 50_000),
    ]
    assert Path(api.hf_hub_download(REPO, "model.onnx")).read_bytes() == content


def test_a_download_that_is_cut_goes_on_where_it_was(hub: Hub, api: HfApi) -> None:
    """The client keeps whole pieces of 10 MiB of a transfer: of a smaller one nothing."""
    files, kept = {"model.onnx": os.urandom(11_000_000), "vocab.txt": b"abcdef"}, 10 << 20
    hub.put(REPO, files)
    hub.faults += [Fault("GET", "model.onnx", cut_after=10_900_000), Fault("GET", "vocab.txt", cut_after=3)]
    assert contents(api.snapshot_download(REPO)) == files
    transfers = {name: [(entry.status, entry.range, entry.sent) for entry in hub.requests("GET", name)] for name in files}
    assert transfers["model.onnx"] == [(200, "", 10_900_000), (206, f"{kept}-", len(files["model.onnx"]) - kept)]
    assert transfers["vocab.txt"] == [(200, "", 3), (200, "", 6)]


def test_the_storage_takes_its_own_addresses_alone_and_no_token(hub: Hub, api: HfApi, published: str) -> None:
    """The client sends it none; whoever has no address that the hub gave gets nothing."""
    with httpx.Client() as client:
        given = client.head(f"{hub.url}/{REPO}/resolve/main/onnx/model.onnx").headers["Location"]
        assert given.startswith(hub.storage_url)
        assert client.get(given).status_code == 200
        assert client.get(given.split("?")[0]).status_code == 403
        assert client.put(given, content=b"x").status_code == 403
        assert client.get(given, headers={"Authorization": f"Bearer {WRITE}"}).status_code == 400
        assert client.get(given, headers={"Range": "bytes=300000-"}).status_code == 416
        assert client.get(given, headers={"Range": "bytes=9-9"}).headers["Content-Range"] == "bytes 9-9/300000"


def test_a_commit_names_only_what_was_sent_and_stays_inside(hub: Hub, api: HfApi) -> None:
    api.create_repo(REPO)
    commit = f"{hub.url}/api/models/{REPO}/commit/main"
    header = '{"key": "header", "value": {"summary": "a", "description": ""}}\n'
    for line, said in (
        ('{"key": "lfsFile", "value": {"path": "a.bin", "oid": "' + "0" * 64 + '"}}', "does not exist"),
        ('{"key": "file", "value": {"path": "../a", "content": ""}}', "Invalid path"),
        ('{"key": "file", "value": {"path": "/a", "content": ""}}', "Invalid path"),
        ('{"key": "file", "value": {"path": "a", "content": "AAAA"}}', "must be sent by LFS"),
    ):
        answer = httpx.post(commit, content=header + line, headers={"Authorization": f"Bearer {WRITE}"}, verify=False)
        assert (answer.status_code, said in answer.text) == (400, True), answer.text
    assert len(api.list_repo_commits(REPO)) == 1


def test_a_process_takes_it_for_the_real_one_and_one_that_is_killed_leaves_nothing(
    hub: Hub, api: HfApi, folder: Path, tmp_path: Path
) -> None:
    program = (
        "import sys, huggingface_hub as hub\n"
        "hub.create_repo('acme/tiny', private=True, exist_ok=True)\n"
        "hub.upload_folder(repo_id='acme/tiny', folder_path=sys.argv[1])\n"
        "print(hub.snapshot_download('acme/tiny'))\n"
    )
    command = [sys.executable, "-c", program, str(folder)]
    environment = hub.environment(tmp_path / "home", WRITE)
    hub.faults.append(fault := Fault("PUT", "/lfs/", cut_after=50, hold=True))
    first = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
    assert fault.reached.wait(60)
    first.kill()
    first.wait()
    assert len(api.list_repo_commits(REPO)) == 1
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert Path(done.stdout.strip()).is_relative_to(tmp_path / "home/hf/hub")
    assert contents(done.stdout.strip()) == contents(folder)
    with Hub(hub.store.folder) as again:
        assert HfApi(endpoint=again.url, token=READ).model_info(REPO).private


def test_names_that_no_client_would_send_can_be_put_there(hub: Hub, api: HfApi) -> None:
    """For the tests of those who load."""
    hub.put(REPO, {"../../x": b"out", "a/b.json": b"{}"})
    assert set(api.list_repo_files(REPO)) == {".gitattributes", "../../x", "a/b.json"}


def test_a_mistake_in_the_hub_itself_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = Hub(tmp_path / "hub").__enter__()
    monkeypatch.setattr(hub.store, "repo", lambda repo_id: 1 / 0)
    with pytest.raises(Exception, match="disconnected"):
        HfApi(endpoint=hub.url).model_info(REPO)
    with pytest.raises(AssertionError, match="the hub itself failed"):
        hub.__exit__(None, None, None)


def test_a_hub_that_does_not_answer_is_said_to_be_unreachable(hub: Hub, api: HfApi) -> None:
    hub.put(REPO, {"config.json": b"{}"})
    hub.faults.append(Fault("GET", f"/api/models/{REPO}/revision", 500, times=9))
    with pytest.raises(LocalEntryNotFoundError):
        api.snapshot_download(REPO)
