"""An artifact that is not whole, or not sealed, does not load."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.published import edit

import shim
from shim import artifact as manifests
from shim.errors import IntegrityError, UsageError


@pytest.fixture
def artifact(tiny_artifact: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_artifact, tmp_path / "artifact"))


def test_a_sealed_artifact_loads_and_lists_every_file(artifact: Path) -> None:
    assert shim.load(artifact).embed(["hello"]).dense.shape == (1, 64)
    manifest = json.loads((artifact / "artifact.json").read_text())
    there = {path.relative_to(artifact).as_posix() for path in artifact.rglob("*") if path.is_file()}
    assert there - {"artifact.json", "README.md"} == set(manifest["files"])  # the card is a user's to change
    assert manifest["parity"]["verdict"] == "pass"


@pytest.mark.parametrize("name", ["onnx/model.onnx", "tokenizer.json", "config.json"])
def test_one_changed_byte_is_refused(artifact: Path, name: str) -> None:
    content = bytearray((artifact / name).read_bytes())
    content[len(content) // 2] ^= 1
    (artifact / name).write_bytes(content)
    with pytest.raises(IntegrityError, match=f"{name} differs from the manifest"):
        shim.load(artifact)


@pytest.mark.parametrize("name", ["model2.safetensors", "onnx/model.onnx_data", "1_Pooling/extra.json"])
def test_a_file_that_is_not_listed_is_refused(artifact: Path, name: str) -> None:
    """A runtime might load it, and it was never measured."""
    (artifact / name).write_bytes(b"x")
    with pytest.raises(IntegrityError, match=f"{name} is not listed"):
        shim.load(artifact)


def test_a_readme_and_dotfiles_may_be_added(artifact: Path) -> None:
    for name in ("README.md", ".gitattributes"):
        (artifact / name).write_text("x")
    assert shim.load(artifact).name == "tiny-onnx-32bit"


@pytest.mark.parametrize("least", [float("nan"), -1, 2])
def test_a_parity_that_cannot_be_meant_is_refused(artifact: Path, least: float) -> None:
    with pytest.raises(UsageError, match="min_parity must be from 0 to 1"):
        shim.load(artifact, min_parity=least)


def test_dimensions_that_are_not_the_graphs_are_refused(artifact: Path) -> None:
    edit(artifact, lambda m: m["model"].update(dimensions=32))
    with pytest.raises(IntegrityError, match="64 dimensions, the manifest says 32"):
        shim.load(artifact).embed(["x"])


def test_a_missing_file_is_named(artifact: Path) -> None:
    (artifact / "tokenizer.json").unlink()
    with pytest.raises(IntegrityError, match="tokenizer.json is missing"):
        shim.load(artifact)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m["parity"].update(verdict="fail"), "verdict is fail"),
        (lambda m: m.update(parity={"verdict": "unverified"}), "verdict is unverified"),
        (lambda m: m["parity"]["heads"]["dense"].update(worst=0.5), "contradicts its own figures"),
        (lambda m: m["parity"]["heads"]["dense"].update(worst=float("nan")), "worst must be a finite number"),
        (lambda m: m["parity"].update(heads={}), "malformed"),
        (lambda m: m["parity"].update(verdict="great"), "verdict 'great' unknown"),
        (lambda m: m["parity"].update(on="median"), "on 'median' unknown"),
        (lambda m: m["parity"].update(surprise=1), "malformed parity: key surprise unknown"),
        (lambda m: m["parity"].update(texts=None), "malformed parity: texts must be int, not None"),
        (lambda m: m["parity"].pop("target"), "malformed parity: verdict pass without figures or target"),
        (lambda m: m["parity"]["heads"]["dense"].pop("p01"), "malformed dense of heads: key p01 missing"),
        (lambda m: m["parity"]["heads"]["dense"]["by_language"].update(und="0.9"), "und of by_language must be float"),
        (lambda m: m.update(surprise=1), "key surprise unknown"),
        (lambda m: m["model"].pop("pooling"), "key pooling missing"),
        (lambda m: m.update(schema=6), "schema 6 unknown"),
        (lambda m: m["parity"].pop("witness"), "verdict pass without a witness"),
        (lambda m: m["parity"]["witness"].update(worst=2e-4), "contradicts its witness"),
        (lambda m: m["parity"]["witness"].update(worst=2e-4, tolerance=1), "contradicts its witness"),
        (lambda m: m["parity"]["witness"].update(texts=0), "contradicts its witness"),
        (lambda m: m["parity"]["witness"].pop("worst"), "malformed"),
        (lambda m: m["model"].update(modules=[{"type": "magic", "width": 0, "bias": False, "activation": ""}]), "unknown"),
        (lambda m: m["model"].update(modules="normalize"), "modules must be a list"),
        (lambda m: m["model"].pop("similarity"), "key similarity missing"),
        (lambda m: m.update(files={}), "lists no files"),
        (lambda m: m["files"].update({"../../etc/passwd": {"sha256": "", "size": 1}}), "lies outside the artifact"),
        (lambda m: m["parity"].update(target=0.99), "min_parity=0.99"),
        (lambda m: m.update(target="tflite"), "target 'tflite' unknown"),
        (lambda m: m.update(name=["x"]), "name must be str"),
        (lambda m: m.update(quantization=[]), "quantization must be dict"),
        (lambda m: m["model"].update(dimensions="64"), "dimensions must be int"),
        (lambda m: m["model"].update(max_tokens=-1), "must be positive"),
        (lambda m: m["quantization"].update(bits_per_weight=10**400), "bits_per_weight must be a finite number"),
    ],
)
def test_a_manifest_that_does_not_seal_is_refused(
    artifact: Path, change: Callable[[dict[str, Any]], object], message: str
) -> None:
    edit(artifact, change)
    with pytest.raises(IntegrityError, match=message):
        shim.load(artifact)


@pytest.mark.parametrize("absent", [(), ("packed_kernels", "corpus_sha256"), ("witness", "on", "kernels", "texts")])
def test_a_manifest_is_written_as_it_was_read(artifact: Path, absent: tuple[str, ...]) -> None:
    """What is not in the file is not in what is written, and the keys keep their order."""

    def without(manifest: dict[str, Any]) -> None:
        manifest["parity"] = {key: value for key, value in manifest["parity"].items() if key not in absent}
        manifest["parity"]["verdict"] = "fail"

    edit(artifact, without)
    before = json.loads((artifact / "artifact.json").read_text())
    manifests.write(artifact, manifests.read(artifact))
    assert json.dumps(json.loads((artifact / "artifact.json").read_text())) == json.dumps(before)


def test_a_lower_seal_loads_where_it_is_accepted(artifact: Path) -> None:
    edit(artifact, lambda m: m["parity"].update(target=0.99))
    assert shim.load(artifact, min_parity=0.99).name == "tiny-onnx-32bit"


def test_unverified_loads_only_when_asked_for(artifact: Path) -> None:
    edit(artifact, lambda m: m.update(parity={"verdict": "unverified"}))
    assert shim.load(artifact, allow_unverified=True).name == "tiny-onnx-32bit"


def test_an_artifact_from_before_witnesses_still_loads(artifact: Path) -> None:
    """Schema 1 has none of the keys that came with the witness; its vectors are normalised."""

    def old(manifest: dict[str, Any]) -> None:
        manifest["schema"] = 1
        manifest["parity"].pop("witness")
        for key in ("prompt_names", "default_prompt", "modules", "similarity", "activation", "lower_case"):
            manifest["model"].pop(key)

    before = shim.load(artifact).embed(["x"]).dense
    edit(artifact, old)
    loaded = shim.load(artifact)
    assert (loaded.manifest.schema, loaded.manifest.model.normalized) == (1, True)
    np.testing.assert_array_equal(loaded.embed(["x"]).dense, before)
    edit(artifact, lambda m: m["model"].update(similarity="dot"))
    with pytest.raises(IntegrityError, match="key similarity unknown"):
        shim.load(artifact)


@pytest.mark.parametrize("content", ["", "[]", "{", '{"schema": 1}'])
def test_half_a_manifest_is_refused(artifact: Path, content: str) -> None:
    (artifact / "artifact.json").write_text(content)
    with pytest.raises(IntegrityError, match="artifact.json"):
        shim.load(artifact)


def test_a_folder_without_a_manifest_is_refused(tmp_path: Path) -> None:
    with pytest.raises(IntegrityError, match="has no artifact.json"):
        shim.load(tmp_path)
    with pytest.raises(IntegrityError, match="is not a directory"):
        shim.load(tmp_path / "nowhere")
