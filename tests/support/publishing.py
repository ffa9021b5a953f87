"""Publishing in tests: sealed artifacts of the small BERT, the command, and what the hub over loopback then holds."""

import dataclasses
import functools
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from shim import artifact
from shim.listing import hash_file
from support.commands import Done, one_object, run
from support.hub import READ, STRANGER, WRITE, Hub

Precisions = Callable[..., Path]
Publish = Callable[..., Done]
REPO = "acme/tiny-onnx"
TOKENS = (WRITE, READ, STRANGER)


@pytest.fixture(scope="session")
def precisions(tiny: Path, corpus_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """The small BERT sealed at other bits: `precisions(8)`, or with the weights beside its graph, `precisions(8, "data")`."""

    @functools.cache
    def make(bits: int, kind: str = "onnx") -> Path:
        out = tmp_path_factory.mktemp(f"{kind}-{bits}")
        arguments = ("--bits", bits, "--source", tiny / "checkpoint", "--corpus", corpus_file, "--out", out, "--effort", "fast")
        with pytest.MonkeyPatch.context() as patch:
            if kind == "data":
                patch.setattr("converter.targets.onnx.EXTERNAL_ABOVE", 0)
            target = "mlx" if kind == "mlx" else "onnx"
            run("converter", tiny / "tiny.toml", "--to", target, *arguments, *(("--parity", 0.5) if bits < 8 else ()))
        return out / f"tiny-{target}-{bits}bit"

    return make


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


def contents(folder: Path) -> dict[str, bytes]:
    """Every file."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def changed(path: Path, into: Path, name: str, content: bytes) -> Path:
    """A copy of an artifact, sealed with another file."""
    shutil.copytree(path, into)
    (into / name).write_bytes(content)
    manifest = artifact.read(into)
    entry = {"sha256": hash_file(into / name), "size": len(content)}
    artifact.write(into, dataclasses.replace(manifest, files={**manifest.files, name: entry}))
    return into


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


def arrived(hub: Hub, sha256: str) -> bool:
    """Whether a content arrived whole."""
    return any(entry.status == 200 for entry in hub.requests("PUT", sha256))


def expected(tmp_path: Path, *artifacts: Path) -> dict[str, bytes]:
    """What a dry run writes."""
    out = tmp_path / f"dry-{len(list(tmp_path.iterdir()))}"
    run("converter", "publish", *artifacts, "--org", "acme", "--dry-run", "--out", out)
    return contents(out)
