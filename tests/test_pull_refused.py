"""What the hub does not give, and what is not taken from it: one line, the right exit code, and nothing is left."""

import subprocess
import sys
from pathlib import Path

import pytest
from support.commands import one_line, one_object, run
from support.hub import Fault, Hub
from support.published import edit

import shim
from shim.errors import IntegrityError, UsageError

REPO = "acme/tiny-onnx"


REFUSALS = {
    "private": (Fault("HEAD", "x^"), "neither a directory here nor a repository that the hub shows you; if it is private"),
    "gated": (Fault("HEAD", "/resolve/", 403, {"X-Error-Code": "GatedRepo"}), "gated: ask for access on its page"),
    "a bad token": (Fault("HEAD", "/resolve/", 401), "the hub answers 401 (the token is refused"),
    "forbidden": (Fault("HEAD", "/resolve/", 403), "the hub answers 403"),
    "too many": (Fault("HEAD", "/resolve/", 429), "the hub answers 429 (too many requests; wait, or set HF_TOKEN"),
    "down": (Fault("HEAD", "/resolve/", 500), "the hub answers 500"),
    "not a hub": (Fault("HEAD", "/resolve/", 200), "cannot be fetched from the hub (Response from"),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_what_the_hub_refuses_is_one_line(
    reached: Hub, repository: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str
) -> None:
    monkeypatch.setattr("time.sleep", lambda _: None)  # the client waits half a minute for a hub that is down
    monkeypatch.setenv("HF_TOKEN", "hf_secret_of_somebody" if name == "a bad token" else "")
    reached.put(REPO, repository, private=name == "private")
    fault, message = REFUSALS[name]
    fault.times = 100
    reached.faults.append(fault)
    line = one_line(run("shim", "pull", REPO, check=3), "shim")
    assert f"{REPO}@main: {message}" in line
    assert "secret" not in line
    assert not (tmp_path / "sealport").exists()


def test_no_hub_at_all_is_one_line(reached: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.sleep", lambda _: None)
    address = "http://127.0.0.1:9/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", address)
    line = one_line(run("shim", "pull", REPO, check=3), "shim")
    assert f"{REPO}@main: cannot be fetched from the hub (" in line


def test_a_repository_without_our_manifest_is_refused_with_the_command_that_converts_it(
    reached: Hub, tiny: Path, tmp_path: Path
) -> None:
    reached.put("acme/plain", tiny / "checkpoint")
    for command in (("pull",), ("serve", "--port", 0), ("embed",), ("rerank",)):
        line = one_line(run("shim", *command, "acme/plain", check=4), "shim")
        assert "acme/plain has no artifact.json" in line
        assert "`convert acme/plain --to onnx`" in line
    assert not list(tmp_path.rglob("*.safetensors")), "no weight is fetched for that"


def test_a_file_that_the_repository_lacks_is_named(reached: Hub, repository: Path) -> None:
    (repository / "vocab.txt").unlink()
    reached.put(REPO, repository)
    assert "vocab.txt is missing from the repository" in one_line(run("shim", "pull", REPO, check=4), "shim")


def test_what_is_not_sealed_is_refused_before_it_is_fetched(reached: Hub, repository: Path) -> None:
    edit(repository, lambda m: m["precisions"]["8bit"].update(parity={"verdict": "unverified"}))
    reached.put(REPO, repository)
    with pytest.raises(IntegrityError, match="verdict is unverified"):
        shim.load(REPO)
    assert not [entry for entry in reached.log if "config.json" in entry.path]
    assert shim.load(REPO, allow_unverified=True).name == "tiny-onnx-8bit"
    assert one_object(run("shim", "pull", REPO, "--json"))["verdict"] == "unverified"


@pytest.mark.parametrize(
    "name", ["tiny", "a/b/c", "/a/b", "a/b@", "a/b@..", "a/b@x/../y", "a/b@/x", "a/b@x//y", "a b/c", "-", "../a", "a/b@x\n"]
)
def test_other_names_ask_no_hub(reached: Hub, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(IntegrityError):
        shim.load(name)
    with pytest.raises(UsageError, match="is not ORG/NAME"):
        shim.hub.find(name)
    assert not reached.log


def test_without_the_hubs_client_its_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    assert one_line(run("shim", "pull", REPO, check=2), "shim").endswith("pip install 'sealport[hub]'\n")


def test_shim_imports_neither_the_hubs_client_nor_the_library_of_signatures() -> None:
    code = "import sys, shim, shim.cli; print(*sys.modules)"
    loaded = set(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split())
    assert not loaded & {"huggingface_hub", "model_signing", "cryptography", "httpx", "requests", "ssl"}
