"""The hub over loopback, where the client is not served: rights, answers that refuse, connections that end early."""

import concurrent.futures
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
from support.hub import READ, STRANGER, WRITE, Fault, Hub

REPO = "acme/tiny"
FILES = {"config.json": b"{}", "a.onnx": os.urandom(300_000), "b.onnx": os.urandom(5000), "c.onnx": os.urandom(50)}


@pytest.fixture
def published(hub: Hub) -> str:
    """The commit by which FILES lie on the hub."""
    return hub.put(REPO, FILES)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """FILES, before they are sent."""
    (folder := tmp_path / "tiny").mkdir()
    for name, content in FILES.items():
        (folder / name).write_bytes(content)
    return folder


def contents(folder: str) -> dict[str, bytes]:
    """What was loaded, but for the file that the hub adds."""
    return {path.name: path.read_bytes() for path in Path(folder).iterdir() if path.name != ".gitattributes"}


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


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_fault_is_answered_once(hub: Hub, api: HfApi, published: str, status: int) -> None:
    hub.faults.append(Fault("GET", f"/api/models/{REPO}", status, {"Retry-After": "7"}))
    with pytest.raises(HfHubHTTPError) as caught:
        api.model_info(REPO)
    assert caught.value.response.status_code == status
    assert caught.value.response.headers["Retry-After"] == "7"
    assert api.model_info(REPO).sha == published


@pytest.mark.parametrize(
    ("fault", "last"),
    [(Fault("POST", "/commit/", lose_answer=True), "mine"), (Fault("POST", "/commit/", cut_after=10**9), "Put by a test")],
)
def test_a_lost_answer_leaves_the_commit_and_a_lost_request_does_not(
    hub: Hub, api: HfApi, published: str, fault: Fault, last: str
) -> None:
    hub.faults.append(fault)
    with pytest.raises(Exception, match="disconnected"):
        api.create_commit(REPO, [CommitOperationAdd("a.txt", b"a")], commit_message="mine")
    assert api.list_repo_commits(REPO)[0].title == last


def test_an_upload_that_is_cut_or_put_off_is_sent_again_and_no_other_is(hub: Hub, api: HfApi, folder: Path) -> None:
    """The three wait for their second try at the same time."""
    api.create_repo(REPO)
    hub.faults += [Fault("PUT", "/lfs/", cut_after=3), Fault("PUT", "/lfs/", 500)]
    hub.faults += [Fault("PUT", "/lfs/", 429, {"Retry-After": "0"})]
    api.upload_folder(repo_id=REPO, folder_path=folder)
    sent = hub.requests("PUT", "/lfs/")
    assert sorted(entry.status for entry in sent) == [0, 200, 200, 200, 429, 500]
    assert [entry.received for entry in sent if entry.status == 0] == [3]
    assert contents(api.snapshot_download(REPO)) == FILES


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
        given = client.head(f"{hub.url}/{REPO}/resolve/main/a.onnx").headers["Location"]
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
    assert contents(done.stdout.strip()) == FILES
    with Hub(hub.store.folder) as again:
        assert HfApi(endpoint=again.url, token=READ).model_info(REPO).private


def test_a_request_is_held_until_the_test_lets_it_go(hub: Hub, published: str) -> None:
    hub.faults.append(fault := Fault("GET", "config.json", cut_after=1, hold=True))
    with concurrent.futures.ThreadPoolExecutor() as pool:
        asked = pool.submit(httpx.get, f"{hub.url}/{REPO}/resolve/main/config.json")
        assert fault.reached.wait(60)
        assert not concurrent.futures.wait([asked], 0.1).done
        fault.release.set()
        with pytest.raises(httpx.RemoteProtocolError):
            asked.result()
    assert hub.log[-1].sent == 1


def test_a_mistake_in_the_hub_itself_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = Hub(tmp_path / "hub").__enter__()
    monkeypatch.setattr(hub.store, "repo", lambda repo_id: 1 / 0)
    with pytest.raises(Exception, match="disconnected"):
        HfApi(endpoint=hub.url).model_info(REPO)
    with pytest.raises(AssertionError, match="the hub itself failed"):
        hub.__exit__(None, None, None)


def test_a_hub_that_does_not_answer_is_said_to_be_unreachable(hub: Hub, api: HfApi, published: str) -> None:
    hub.faults.append(Fault("GET", f"/api/models/{REPO}/revision", 500, times=9))
    with pytest.raises(LocalEntryNotFoundError):
        api.snapshot_download(REPO)
