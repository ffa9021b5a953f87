"""Publishing where the hub refuses or fails, connections are cut, others are faster, and processes end: nothing is lost."""

import os
import random
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support.commands import one_line, one_object
from support.hub import WRITE, Fault, Hub
from support.publishing import REPO, Precisions, Publish, arrived, commits, expected, sent, there, told

from converter.publish import upload
from shim.listing import hash_file

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # as in a process of the command's own


@pytest.mark.parametrize(
    ("method", "pattern", "status", "message"),
    [
        ("GET", "revision/main", 401, "the hub does not accept the token; `hf auth login` or HF_TOKEN gives it another (401"),
        ("POST", "repos/create", 403, "the hub refuses: this token may not do that (403: This is a fault"),
        ("POST", "commit/main", 404, "the hub has no such repository or branch, or hides it from this token (404"),
        ("POST", "commit/main", 409, "it was changed meanwhile; run the command again: what has arrived is kept (409"),
        ("POST", "commit/main", 412, "it was changed meanwhile; run the command again: what has arrived is kept (412"),
        ("POST", "commit/main", 429, "the hub has had too many requests; wait, then run the command again"),
        ("POST", "commit/main", 500, "the hub failed; run the command again: what has arrived is kept (500"),
        ("POST", "commit/main", 503, "the hub failed; run the command again: what has arrived is kept (503"),
        ("POST", "validate-yaml", 400, "the hub refuses (400"),
    ],
)
def test_an_error_of_the_hub_is_one_line_and_the_same_command_goes_on(
    hub: Hub, publish: Publish, precisions: Precisions, tmp_path: Path, method: str, pattern: str, status: int, message: str
) -> None:
    hub.faults = [Fault(method, pattern, status=status, times=9)]
    done = publish(precisions(8), "--json", check=3)
    assert message in one_object(done)["error"]
    assert done.stderr == f"convert: {one_object(done)['error']}\n"
    hub.faults = []
    publish(precisions(8))
    assert there(hub) == expected(tmp_path, precisions(8))
    assert set(sent(hub).values()) == {1}
    assert len(commits(hub)) == 1


def test_a_token_that_the_hub_repeats_is_not_shown(hub: Hub, publish: Publish, precisions: Precisions) -> None:
    hub.faults = [Fault("GET", "revision/main", status=403, headers={"X-Error-Message": f"{WRITE} may not do that"})]
    assert "(403: *** may not do that)" in one_line(publish(precisions(8), check=3))


def test_no_token_no_network_and_offline(hub: Hub, precisions: Precisions, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "converter", "publish", str(precisions(8)), "--org", "acme"]
    environment = hub.environment(tmp_path)
    for more, message in (
        ({}, "no token for the hub; `hf auth login` or HF_TOKEN gives one"),
        ({"HF_TOKEN": "hf_not_known"}, "the hub does not accept the token"),
        ({"HF_TOKEN": WRITE, "HF_ENDPOINT": "http://127.0.0.1:9"}, "onnection refused"),
        ({"HF_TOKEN": WRITE, "HF_HUB_OFFLINE": "1"}, "offline mode"),
    ):
        done = subprocess.run(command, env=environment | more, capture_output=True, text=True, check=False)
        assert done.returncode == 3
        assert message in one_line(done)
        assert "hf_" not in done.stderr


def test_a_commit_whose_answer_is_lost_is_not_made_twice(hub: Hub, publish: Publish, precisions: Precisions) -> None:
    hub.faults = [Fault("POST", "commit/main", lose_answer=True)]
    assert "run the command again" in publish(precisions(8), check=3).stderr
    assert len(commits(hub)) == 1
    assert told(publish(precisions(8), "--json"))["commit"] is None
    assert len(commits(hub)) == 1


def test_what_somebody_else_commits_meanwhile_is_not_lost(
    hub: Hub, publish: Publish, precisions: Precisions, monkeypatch: pytest.MonkeyPatch
) -> None:
    build = upload.build

    def slow(*given: Any) -> Any:
        """Somebody is faster."""
        monkeypatch.setattr(upload, "build", build)
        stored = hub.store.repo(REPO)
        hub.put(REPO, (there(hub) if stored else {}) | {"theirs.txt": b"new"})
        return build(*given)

    for before in ([], [precisions(8)]):
        for path in before:
            publish(path, "--replace")
        files = there(hub) if before else {}
        monkeypatch.setattr(upload, "build", slow)
        assert "acme/tiny-onnx: it was changed meanwhile; run the command again" in publish(precisions(16), check=3).stderr
        assert there(hub) == files | {"theirs.txt": b"new"}
    publish(precisions(16))
    assert there(hub)["theirs.txt"] == b"new"
    monkeypatch.setattr(upload, "build", slow)  # nor where the branch has to be made
    assert "it was changed meanwhile" in publish(precisions(32), "--revision", "next", check=3).stderr


def test_uploads_that_are_cut_go_on(
    hub: Hub, publish: Publish, precisions: Precisions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twenty runs, each cut at a random byte of what it still has to send, as often as the client tries."""
    artifacts = [precisions(bits, "data") for bits in (32, 16, 8)]
    files = expected(tmp_path, *artifacts)
    monkeypatch.setattr("time.sleep", lambda _: None)  # of the client, before it tries again
    rng = random.Random(21)
    data = {hash_file(path): path.stat().st_size for each in artifacts for path in each.glob("onnx/*_data")}
    for number in range(20):
        left = [sha256 for sha256 in data if not arrived(hub, sha256)]
        method, pattern, size = "POST", "commit/main", 20_000
        if number < 15:
            method, pattern = "PUT", rng.choice(left)
            size = data[pattern]
        hub.faults = [Fault(method, pattern, cut_after=rng.randrange(size)) for _ in range(6)]
        done = publish(*artifacts, check=3)
        assert done.stderr.splitlines()[-1].startswith(f"convert: {REPO}: ")
        assert commits(hub) == [], "whole or not at all"
    assert all(arrived(hub, sha256) for sha256 in data)
    hub.faults = []
    publish(*artifacts)
    assert there(hub) == files
    assert len(commits(hub)) == 1
    assert set(sent(hub).values()) == {1}, "what has arrived is not sent again"
    assert len([entry for entry in hub.log if entry.status == 0]) == 15 * 6 + 5, "the client does not repeat a commit"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_process_that_ends_in_the_middle(
    hub: Hub, publish: Publish, precisions: Precisions, tmp_path: Path, number: signal.Signals
) -> None:
    artifacts = [shutil.copytree(precisions(bits, "data"), tmp_path / f"artifacts/{bits}") for bits in (16, 8)]
    slow = Fault("PUT", hash_file(artifacts[1] / "onnx/model.onnx_data"), cut_after=20_000, hold=True)
    hub.faults = [slow]
    command = [sys.executable, "-m", "converter", "publish", *map(str, artifacts), "--org", "acme"]
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=hub.environment(tmp_path, WRITE) | {"SEALPORT_CACHE": str(tmp_path / "cache")},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # a job in the background ignores it
    )
    assert slow.reached.wait(60)
    process.send_signal(number)
    output, errors = process.communicate(timeout=30)
    slow.release.set()
    assert output == ""
    if number != signal.SIGKILL:
        assert process.returncode == 130
        assert errors.splitlines()[-1] == "convert: interrupted"
        assert sorted(os.listdir(tmp_path / "artifacts")) == ["16", "8"]
    assert commits(hub) == []
    publish(*artifacts)
    assert sorted(os.listdir(tmp_path / "artifacts")) == ["16", "8"], "what the killed run left is gone"
    assert there(hub) == expected(tmp_path, *artifacts)
    assert set(sent(hub).values()) == {1}
