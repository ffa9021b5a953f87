"""Published repositories as folders, made from artifacts without the code that publishes, and keys to sign them."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from shim import artifact, seal
from shim.listing import entry_of
from shim.repository import SCHEMA
from support.commands import run
from support.hub import Hub
from support.publishing import Precisions

GRAPHS = {32: "onnx/model.onnx", 16: "onnx/model_fp16.onnx", 8: "onnx/model_quantized.onnx", 4: "onnx/model_q4.onnx"}


def publish(into: Path, *artifacts: Path, name: str = "tiny-onnx", external: bool = False) -> Path:
    """Write the repository `name` of these artifacts of one model into a new folder; the first one is its default.

    external: the graphs' weights lie in a file beside each, as a large model's do.
    """
    precisions = {}
    for path in artifacts:
        manifest = json.loads((path / "artifact.json").read_text())
        names = []
        for file in manifest["files"]:
            if file in ("quantization.json", "cosines.json"):
                continue  # each precision has its own, which no loader needs
            target = GRAPHS[manifest["bits"]] if file == "onnx/model.onnx" else file
            (into / target).parent.mkdir(parents=True, exist_ok=True)
            if external and file.endswith(".onnx"):
                data = f"{Path(target).name}_data"
                model = onnx.load(path / file)
                onnx.save(model, into / target, save_as_external_data=True, location=data, size_threshold=1000)
                names.append(f"onnx/{data}")
            else:
                shutil.copyfile(path / file, into / target)
            names.append(target)
        precisions[f"{manifest['bits']}bit"] = {**manifest, "files": {name: entry_of(into / name) for name in names}}
    (into / "assets").mkdir()
    (into / "assets/parity.svg").write_text("<svg/>")
    (into / "README.md").write_text("# A card, which anybody may change")
    files = {"assets/parity.svg": entry_of(into / "assets/parity.svg")}
    write(into, {"schema": 5, "name": name, "default": next(iter(precisions)), "precisions": precisions, "files": files})
    return into


def write(folder: Path, manifest: dict[str, Any]) -> None:
    """The manifest, sealed by whoever wrote it."""
    (folder / "artifact.json").write_text(json.dumps(sealed(manifest)))


def sealed(manifest: dict[str, Any]) -> dict[str, Any]:
    """The manifest of an artifact or of a repository with the seals that go with what it says now."""
    if isinstance(manifest.get("precisions"), dict):
        sealing = {key: sealed(each) if isinstance(each, dict) else each for key, each in manifest["precisions"].items()}
        manifest = manifest | {"precisions": sealing}
    new = manifest.get("schema") in (artifact.SCHEMA, SCHEMA)
    try:
        return seal.sealed(manifest) if new else seal.unsealed(manifest)
    except ValueError:  # NaN, of which no seal is
        return manifest


def edit(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """A manifest that somebody changed."""
    manifest = json.loads((folder / "artifact.json").read_text())
    change(manifest)
    write(folder, manifest)


def replace(folder: Path, name: str, content: bytes) -> None:
    """Another content of a file, by whoever writes the manifest: every hash is right."""
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(content)

    def relist(manifest: dict[str, Any]) -> None:
        for listed in [precision["files"] for precision in manifest.get("precisions", {"": manifest}).values()]:
            listed[name] = entry_of(folder / name)

    edit(folder, relist)


def refused(folder: Path, code: int = 4) -> str:
    """The one line that the folder's use ends with; that MLX is slow on a CPU may have been said."""
    done = run("shim", "embed", folder, input=f'"hello {"a" * 60}b"\n', check=code)
    lines = [line for line in done.stderr.splitlines() if "which is slow" not in line]
    assert (len(lines), done.stdout) == (1, "")
    return lines[0]


def key(folder: Path, name: str = "key", pair: ec.EllipticCurvePrivateKey | None = None) -> tuple[Path, Path]:
    """A private key, a new one of P-256 if none is given, and its public key, as PEM files."""
    pair = pair or ec.generate_private_key(ec.SECP256R1())
    private, public = folder / f"{name}.pem", folder / f"{name}.pub"
    pem, plain = serialization.Encoding.PEM, serialization.NoEncryption()
    private.write_bytes(pair.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain))
    public.write_bytes(pair.public_key().public_bytes(pem, serialization.PublicFormat.SubjectPublicKeyInfo))
    return private, public


@pytest.fixture(scope="session")
def tiny_8bit(precisions: Precisions) -> Path:
    """The small BERT as a sealed 8-bit ONNX artifact."""
    return precisions(8)


@pytest.fixture(scope="session")
def tiny_mlx(precisions: Precisions) -> Path:
    """The small BERT as a sealed 8-bit MLX artifact."""
    return precisions(8, "mlx")


@pytest.fixture
def reached(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    """The hub, as the one that the client in this process asks, without a token and with new caches."""
    for name, value in {
        "ENDPOINT": hub.url,
        "HUGGINGFACE_CO_URL_TEMPLATE": hub.url + "/{repo_id}/resolve/{revision}/{filename}",
        "HF_HUB_CACHE": str(tmp_path / "cache"),
        "HF_TOKEN_PATH": str(tmp_path / "token"),
        "HF_HUB_OFFLINE": False,
    }.items():
        monkeypatch.setattr(f"huggingface_hub.constants.{name}", value)
    monkeypatch.setenv("SEALPORT_CACHE", str(tmp_path / "sealport"))
    monkeypatch.delenv("HF_TOKEN", raising=False)
    return hub


@pytest.fixture
def repository(tiny_artifact: Path, tiny_8bit: Path, tmp_path: Path) -> Path:
    """The small BERT published in 8 bits, its default, and in 32."""
    return publish(tmp_path / "tiny-onnx", tiny_8bit, tiny_artifact)
