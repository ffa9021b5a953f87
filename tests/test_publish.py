"""Publishing with the unmodified client to a hub over loopback: one commit, what stays, what is refused, what is cut."""

import dataclasses
import json
import os
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.commands import Done, one_line, one_object, run
from support.hub import READ, STRANGER, WRITE, Fault, Hub
from test_publish_layout import changed, contents

from converter.publish import upload
from shim import artifact

Precisions = Callable[..., Path]
Publish = Callable[..., Done]
REPO = "acme/tiny-onnx"
TOKENS = (WRITE, READ, STRANGER)
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # as in a process of the command's own


@pytest.fixture
def publish(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Publish]:
    """`convert publish` in this process, as an owner with an empty cache; whatever it says, it says no token."""
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", hub.url)  # what HF_ENDPOINT sets when the client is imported
    template = f"{hub.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_TOKEN", WRITE)
    monkeypatch.chdir(tmp_path)

    def go(*arguments: object, org: str = "acme", **options: Any) -> Done:
        done = run("converter", "publish", *arguments, "--org", org, **options)
        assert not [token for token in TOKENS if token in done.stdout + done.stderr]
        return done

    yield go
    assert not [path for path in tmp_path.iterdir() if "partial" in path.name]


def told(done: Done) -> dict[str, Any]:
    """The outcome of a run with --json."""
    assert done.stderr == ""
    return one_object(done)


def commits(hub: Hub, repo: str = REPO, ref: str = "refs/heads/main") -> list[dict[str, Any]]:
    """The commits that led to a ref, the last one first, but for the hub's own first one."""
    stored = hub.store.repo(repo)
    assert stored is not None
    found, sha = [], stored["refs"][ref]
    while sha:
        found.append(stored["commits"][sha])
        sha = found[-1]["parent"]
    return found[:-1]


def there(hub: Hub, repo: str = REPO, ref: str = "refs/heads/main") -> dict[str, bytes]:
    """The files at a ref, but the hub's own."""
    files = commits(hub, repo, ref)[0]["files"]
    return {name: hub.store.content(file).read_bytes() for name, file in files.items() if name != ".gitattributes"}


def sent(hub: Hub, start: int = 0) -> dict[str, int]:
    """How often each content arrived whole."""
    arrived = [entry.path for entry in hub.log[start:] if entry.method == "PUT" and entry.status == 200]
    return {path: arrived.count(path) for path in arrived}


def expected(tmp_path: Path, *artifacts: Path) -> dict[str, bytes]:
    """What a dry run writes."""
    out = tmp_path / f"dry-{len(list(tmp_path.iterdir()))}"
    run("converter", "publish", *artifacts, "--org", "acme", "--dry-run", "--out", out)
    return contents(out)


def test_a_repository_is_published_in_one_commit_and_the_same_again_in_none(
    hub: Hub, publish: Publish, precisions: Precisions, tmp_path: Path
) -> None:
    artifacts = [precisions(bits, "data") for bits in (8, 16)]  # the most exact graph has two names
    done = publish(*artifacts)
    (commit,) = commits(hub)
    assert there(hub) == expected(tmp_path, *artifacts)
    assert commit["message"] == "Add 16bit, 8bit"
    assert commit["description"].splitlines() == [f"+ {name}" for name in sorted(there(hub))]
    assert done.stdout.startswith(f"{REPO}: published\n  url      {hub.url}/{REPO}\n  commit   ")
    assert "16bit (pass), 8bit (pass)" in done.stdout
    assert set(sent(hub).values()) == {1}
    assert len(sent(hub)) == 5, "three graphs and two files of data; the third has the second's content"
    start = len(hub.log)
    again = told(publish(*reversed(artifacts), "--json"))
    assert (again["commit"], again["sent"], again["deleted"]) == (None, {}, [])
    assert {entry.method for entry in hub.log[start:]} == {"GET", "HEAD"}
    assert len(commits(hub)) == 1
    assert publish(*artifacts).stdout.startswith(f"{REPO}: nothing changed, no commit\n")


def test_other_precisions_stay_and_nothing_of_them_is_sent_again(
    hub: Hub, publish: Publish, precisions: Precisions, tmp_path: Path
) -> None:
    publish(precisions(8, "data"))
    hub.put("acme/other", {"config.json": b"{}"})
    start = len(hub.log)
    second = told(publish(precisions(32), "--json"))
    assert set(second["precisions"]) == {"32bit", "8bit"}
    assert there(hub) == expected(tmp_path, precisions(32), precisions(8, "data"))
    assert commits(hub)[0]["message"] == "Add 32bit"
    assert second["deleted"] == ["onnx/model.onnx_data"], "it was the 8-bit graph's second name, and 32 bits have no data"
    assert second["sent"].keys() == {"artifact.json", "config.json", "onnx/model.onnx"}
    assert len(sent(hub, start)) == 1
    publish(precisions(4), "--allow-unverified")
    assert there(hub) == expected(tmp_path, precisions(32), precisions(8, "data"), precisions(4))
    third = told(publish(precisions(8), "--json"))  # the same bits, converted otherwise
    assert commits(hub)[0]["message"] == "Change 8bit"
    assert third["deleted"] == ["onnx/model_quantized.onnx_data"]
    assert there(hub) == expected(tmp_path, precisions(32), precisions(8), precisions(4))


def test_the_most_exact_of_what_stays_keeps_the_name_that_loaders_look_for(
    hub: Hub, publish: Publish, precisions: Precisions, tmp_path: Path
) -> None:
    publish(precisions(16, "data"))
    publish(precisions(8))
    assert there(hub) == expected(tmp_path, precisions(16, "data"), precisions(8))


def test_precisions_of_another_original_are_not_mixed_nor_lost(
    hub: Hub, publish: Publish, precisions: Precisions, tmp_path: Path
) -> None:
    publish(precisions(16), precisions(8))
    hub_files = dict(there(hub)) | {"NOTES.md": b"of an owner"}
    hub.put(REPO, hub_files)
    shutil.copytree(precisions(8), tmp_path / "newer")
    manifest = artifact.read(tmp_path / "newer")
    artifact.write(tmp_path / "newer", dataclasses.replace(manifest, source={**manifest.source, "files": {"new": {}}}))
    refused = one_line(publish(tmp_path / "newer", check=2))
    assert "acme/tiny-onnx has 16bit, which differs from tiny-onnx-8bit in the original" in refused
    assert refused.endswith("give its artifact too, or --replace\n")
    words = changed(precisions(8), tmp_path / "words", "vocab.txt", b"other words")
    assert "16bit and 8bit cannot share a repository: vocab.txt is not the same" in one_line(publish(words, check=2))
    assert there(hub) == hub_files, "nothing happened"
    replaced = told(publish(tmp_path / "newer", "--replace", "--json"))
    assert replaced["deleted"] == ["onnx/model_fp16.onnx"]
    assert there(hub) == expected(tmp_path, tmp_path / "newer") | {"NOTES.md": b"of an owner"}
    assert commits(hub)[0]["message"] == "Change 8bit; remove 16bit"
    assert commits(hub)[0]["description"].splitlines()[-1] == "- onnx/model_fp16.onnx"


def test_mlx_artifacts_do_not_share(hub: Hub, publish: Publish, precisions: Precisions, tmp_path: Path) -> None:
    publish(precisions(8, "mlx"))
    assert there(hub, "acme/tiny-mlx-8bit") == expected(tmp_path, precisions(8, "mlx"))
    for path in (precisions(16, "mlx"), precisions(8)):
        refused = one_line(publish(path, "--name", "tiny-mlx-8bit", check=2))
        assert "acme/tiny-mlx-8bit has 8bit, tiny-mlx-8bit; --name gives tiny-" in refused
    publish(precisions(16, "mlx"), "--name", "tiny-mlx-8bit", "--replace")
    files = there(hub, "acme/tiny-mlx-8bit")
    assert json.loads(files["artifact.json"])["name"] == "tiny-mlx-8bit"
    assert list(json.loads(files["artifact.json"])["precisions"]) == ["16bit"]


def test_files_of_others_are_not_written_over(hub: Hub, publish: Publish, precisions: Precisions) -> None:
    hub.put(REPO, {"config.json": b"{}", "model.safetensors": b"theirs", "README.md": b"# Theirs", ".gitignore": b"x"})
    message = "acme/tiny-onnx has files of others (config.json, model.safetensors); --name takes another, --replace writes"
    assert message in one_line(publish(precisions(8), check=2))
    assert there(hub)["config.json"] == b"{}"
    publish(precisions(8), "--replace", "--create-pr")
    assert there(hub)["config.json"] == b"{}"
    proposed = there(hub, ref="refs/pr/1")
    assert proposed["model.safetensors"] == b"theirs"
    assert proposed["config.json"] == (precisions(8) / "config.json").read_bytes()


def test_what_a_gitignore_would_keep_out_stops_it(hub: Hub, publish: Publish, precisions: Precisions) -> None:
    hub.put(REPO, {".gitignore": b"# words\n*.txt\n"})
    for _ in range(2):
        assert (
            "acme/tiny-onnx: its .gitignore keeps vocab.txt out; nothing was committed"
            in publish(precisions(8), check=3).stderr
        )
        assert there(hub).keys() == {".gitignore"}
        assert len(commits(hub)) == 1


def test_what_the_manifest_of_the_hub_does_not_hold_up_is_not_kept(hub: Hub, publish: Publish, precisions: Precisions) -> None:
    publish(precisions(8))
    files = there(hub)
    hub.put(REPO, files | {"onnx/model_quantized.onnx": b"something else"})
    assert "onnx/model_quantized.onnx differs from its artifact.json" in one_line(publish(precisions(16), check=4))
    hub.put(REPO, {name: content for name, content in files.items() if name != "onnx/model_quantized.onnx"})
    assert "onnx/model_quantized.onnx is missing there" in one_line(publish(precisions(16), check=4))
    hub.put(REPO, files | {"artifact.json": files["artifact.json"].replace(b"onnx/model_quantized.onnx", b"../../evil")})
    assert "has files of others" in one_line(publish(precisions(16), check=2))
    publish(precisions(8), precisions(16), "--replace")
    assert there(hub).keys() == files.keys() | {"onnx/model_fp16.onnx"}


def test_a_card_is_mended_and_a_signature_lasts_as_long_as_what_it_signs(
    hub: Hub, publish: Publish, precisions: Precisions
) -> None:
    publish(precisions(8))
    files = there(hub)
    hub.put(REPO, files | {"README.md": b"# By hand", "artifact.json.sig": b"signed"})
    publish(precisions(8))
    assert commits(hub)[0]["message"] == "Change README.md"
    assert commits(hub)[0]["description"] == "~ README.md"
    assert there(hub) == files | {"artifact.json.sig": b"signed"}
    publish(precisions(16))
    assert "artifact.json.sig" not in there(hub)


def test_a_branch_is_made_from_main(hub: Hub, publish: Publish, precisions: Precisions, tmp_path: Path) -> None:
    publish(precisions(8))
    publish(precisions(16), "--revision", "v2/next")
    assert there(hub) == expected(tmp_path, precisions(8))
    assert there(hub, ref="refs/heads/v2/next") == expected(tmp_path, precisions(8), precisions(16))
    publish(precisions(8), "--name", "new", "--revision", "v1")
    assert there(hub, "acme/new", "refs/heads/v1").keys() == expected(tmp_path, precisions(8)).keys()
    assert commits(hub, "acme/new") == []


def test_a_pull_request_of_a_stranger(
    hub: Hub, publish: Publish, precisions: Precisions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(precisions(8))
    monkeypatch.setenv("HF_TOKEN", STRANGER)
    assert "this token may not do that (403" in one_line(publish(precisions(16), check=3))
    proposed = told(publish(precisions(16), "--create-pr", "--json"))
    assert proposed["pull_request"] == f"{hub.url}/{REPO}/discussions/1"
    assert there(hub, ref="refs/pr/1") == expected(tmp_path, precisions(8), precisions(16))
    assert there(hub) == expected(tmp_path, precisions(8))
    publish(precisions(4), "--allow-unverified", "--revision", "refs/pr/1")
    assert len(commits(hub, ref="refs/pr/1")) == 3


def test_a_private_repository_and_a_collection(hub: Hub, publish: Publish, precisions: Precisions) -> None:
    first = told(publish(precisions(8), "--private", "--collection", "Good ones", "--json"))
    again = told(publish(precisions(8), "--private", "--collection", "Good ones", "--json"))
    assert first["collection"] == again["collection"]
    assert first["collection"].startswith(f"{hub.url}/collections/acme/good-ones-")
    stored = hub.store.repo(REPO)
    assert stored is not None
    assert stored["private"] is True
    (collection,) = hub.store.read("collections.json").values()
    assert ([item["id"] for item in collection["items"]], collection["private"]) == ([REPO], True)
    publish(precisions(8), "--name", "public")
    refused = one_line(publish(precisions(16), "--name", "public", "--private", check=2))
    assert "acme/public is there and public; --private is for a repository that is made" in refused
    publish(precisions(16))  # without the word it stays private
    assert (hub.store.repo(REPO) or {})["private"] is True


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
    data = {artifact.hash_file(path): path.stat().st_size for each in artifacts for path in each.glob("onnx/*_data")}
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


def arrived(hub: Hub, sha256: str) -> bool:
    """Whether a content arrived whole."""
    return any(entry.status == 200 for entry in hub.requests("PUT", sha256))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_process_that_ends_in_the_middle(
    hub: Hub, publish: Publish, precisions: Precisions, tmp_path: Path, number: signal.Signals
) -> None:
    artifacts = [shutil.copytree(precisions(bits, "data"), tmp_path / f"artifacts/{bits}") for bits in (16, 8)]
    slow = Fault("PUT", artifact.hash_file(artifacts[1] / "onnx/model.onnx_data"), cut_after=20_000, hold=True)
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
