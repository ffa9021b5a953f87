"""`convert list` over the hub's cache: originals whole or in part, our own ports by their manifest, others' by their card."""

import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
from support.commands import one_object, run_process
from support.hub import environment
from support.published import sealed, write

from converter import inventory, recipe

COMMIT = "0123456789abcdef0123456789abcdef01234567"
WEIGHTS = b"w" * 1000


def cached(home: Path, repo: str, files: dict[str, bytes], commit: str = COMMIT) -> Path:
    """A snapshot as the hub's client lays it: links into a store of blobs."""
    folder = home / "hub" / f"models--{repo.replace('/', '--')}"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs/main").write_text(commit)
    (folder / "blobs").mkdir()
    for number, (name, content) in enumerate(files.items()):
        (folder / f"blobs/{number}").write_bytes(content)
        path = folder / "snapshots" / commit / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.symlink_to(os.path.relpath(folder / f"blobs/{number}", path.parent))
    return folder / "snapshots" / commit


def card(**front: Any) -> bytes:
    return f"---\n{json.dumps(front)}\n---\n# A port\n".encode()


def published(artifact: Path, recipe: str) -> tuple[dict[str, Any], dict[str, bytes]]:
    """An artifact's manifest, made one of this recipe, and its files."""
    manifest = json.loads((artifact / "artifact.json").read_text()) | {"recipe": recipe}
    return manifest, {name: (artifact / name).read_bytes() for name in manifest["files"]}


def listed(tmp_path: Path, *more: object) -> dict[str, Any]:
    return one_object(run_process("converter", "list", "--out", tmp_path / "out", "--json", *more, env=offline(tmp_path)))


def offline(tmp_path: Path) -> dict[str, str]:
    return environment(tmp_path, HF_HUB_OFFLINE="1", SEALPORT_CACHE=str(tmp_path / "cache"))


def of(found: dict[str, Any], name: str) -> dict[str, Any]:
    return next(entry for entry in found["recipes"] if entry["name"] == name)


def test_what_the_hubs_cache_holds_is_listed(tiny_artifact: Path, tmp_path: Path) -> None:
    home, small = tmp_path / "hf", "bge-small-en-v1.5"
    pinned = {name: recipe.load(name).source for name in (small, "bge-m3", "qwen3-embedding-0.6b", "e5-base-v2")}
    cached(home, pinned[small].repo, {"model.safetensors": WEIGHTS, "onnx/model.onnx": WEIGHTS[:10]}, pinned[small].revision)
    shards = {"weight_map": {"a": "one.bin", "b": "two.bin"}}
    index = {"pytorch_model.bin.index.json": json.dumps(shards).encode(), "one.bin": WEIGHTS}
    cached(home, pinned["bge-m3"].repo, index, pinned["bge-m3"].revision)
    whole = {"pytorch_model.bin.index.json": index["pytorch_model.bin.index.json"], "one.bin": WEIGHTS, "two.bin": WEIGHTS}
    cached(home, pinned["qwen3-embedding-0.6b"].repo, whole, pinned["qwen3-embedding-0.6b"].revision)
    cached(home, pinned["e5-base-v2"].repo, {"model.safetensors": WEIGHTS})  # of another revision
    theirs = {"model.safetensors": WEIGHTS, "config.json": b'{"quantization": {"bits": 4, "group_size": 64}}'}
    cached(home, "mlx-makers/small", theirs | {"README.md": card(base_model=pinned[small].repo, library_name="mlx")})
    cached(home, f"somebody/{small}-mlx", theirs | {"README.md": b"no front matter"})
    manifest, files = published(tiny_artifact, "bge-m3")
    text = json.dumps(sealed(manifest)).encode()
    cached(home, "ours/m3", files | {"artifact.json": text})
    cut = files | {"onnx/model.onnx": files["onnx/model.onnx"][:-1], "artifact.json": text}
    cached(home, "ours/m3-cut", cut)
    cached(home, "ours/garbage", {"artifact.json": b"{"})
    found = listed(tmp_path)
    assert [(of(found, name)["available"], of(found, name)["size"]) for name in pinned] == [
        ("cache", 1010),
        ("partial", 1000 + len(index["pytorch_model.bin.index.json"])),
        ("cache", 2000 + len(index["pytorch_model.bin.index.json"])),
        ("hub", 0),
    ]
    ports = {(port["repo"], port["target"]): port for port in found["cached"]}
    assert {key: (port["recipe"], port["bits"], port["verdict"]) for key, port in ports.items()} == {
        (pinned[small].repo, "onnx"): (small, None, None),
        ("mlx-makers/small", "mlx"): (small, 4, None),
        ("ours/m3", "onnx"): ("bge-m3", 32, "pass"),
        ("ours/m3-cut", "onnx"): ("bge-m3", 32, "partial"),
        ("ours/garbage", ""): ("", None, "broken"),
    }
    assert ports["ours/m3", "onnx"]["size"] == sum(map(len, files.values()))
    assert ports["ours/m3", "onnx"]["revision"] == COMMIT
    assert of(found, "bge-m3")["missing"] == ["mlx"], "ours is sound; that of others has no proof"
    assert of(found, small)["missing"] == ["mlx", "onnx"]
    shown = run_process("converter", "list", "--out", tmp_path / "out", env=offline(tmp_path)).stdout
    rows = {line.split()[0]: line for line in shown.splitlines() if line.strip()}
    assert "32bit hub, 32bit hub partial" in rows["bge-m3"]
    assert rows["bge-m3"].endswith(f"convert bge-m3 --to mlx --out {tmp_path / 'out'}")
    assert rows[small].count("others'") == 2
    assert rows["mlx-makers/small@0123456"].split()[2:4] == ["no", "proof"]


def test_of_a_published_repository_each_precision_that_is_here_is_listed(tiny_artifact: Path, tmp_path: Path) -> None:
    """From the hub's cache, and from where `shim pull` lays one precision."""
    manifest, files = published(tiny_artifact, "bge-m3")
    absent = manifest | {"bits": 8, "files": manifest["files"] | {"onnx/model_quantized.onnx": {"sha256": "0" * 64, "size": 5}}}
    absent["files"].pop("onnx/model.onnx")
    repository = {"schema": 5, "name": "m3-onnx", "default": "8bit", "files": {}}
    text = json.dumps(sealed(repository | {"precisions": {"32bit": manifest, "8bit": absent}}))
    cached(tmp_path / "hf", "ours/m3-onnx", files | {"artifact.json": text.encode()})
    pulled = tmp_path / f"cache/hub/ours--m3-onnx/{COMMIT}/32bit"
    pulled.parent.mkdir(parents=True)
    shutil.copytree(tiny_artifact, pulled)
    (pulled / "artifact.json").write_text(text)
    found = listed(tmp_path)
    assert [(port["repo"], port["revision"], port["bits"], port["verdict"]) for port in found["cached"]] == [
        ("ours/m3-onnx", COMMIT, 32, "pass")
    ] * 2
    assert str(pulled) in {port["path"] for port in found["cached"]}


SERVED = "mlx-4" if sys.platform == "darwin" else "onnx-8"
BELOW = [("onnx", bits) for bits in (8, 16, 32)]


@pytest.mark.parametrize(
    ("verdicts", "command"),
    [
        ({}, "convert all bge-m3"),
        ({("onnx", 8): "pass"}, "convert bge-m3 --to mlx"),
        ({("onnx", 8): "pass", ("mlx", 4): "fail"}, "convert bge-m3 --to mlx --bits 5"),
        ({("onnx", 8): "pass", ("mlx", 4): "unverified"}, "convert verify artifacts/bge-m3-mlx-4bit"),
        ({("onnx", 8): "pass", ("mlx", 4): "pass"}, f"shim serve artifacts/bge-m3-{SERVED}bit"),
        ({("mlx", 4): "pass", **dict.fromkeys(BELOW, "fail")}, "convert bge-m3 --to onnx --force"),
    ],
)
def test_the_next_step_is_a_command_that_can_be_run(
    tiny_artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, verdicts: dict[tuple[str, int], str], command: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(inventory, "HubCache", lambda: Nothing())
    manifest, _ = published(tiny_artifact, "bge-m3")
    for (target, bits), verdict in verdicts.items():
        folder = Path("artifacts") / f"bge-m3-{target}-{bits}bit"
        folder.mkdir(parents=True)
        parity = manifest["parity"] | {"verdict": verdict}
        changes = {"name": folder.name, "target": target, "bits": bits, "parity": parity}
        write(folder, manifest | changes)
    assert of(inventory.inventory(Path("artifacts")), "bge-m3")["next"] == command


class Nothing:
    """A hub's cache with nothing in it."""

    def original(self, _: object) -> tuple[str, int]:
        return "hub", 0

    def ports(self, _: object) -> list[Any]:
        return []
