"""ONNX artifacts through OpenVINO: the same vectors, a seal of their own, and the precision that was verified."""

import importlib.metadata
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import openvino
import pytest
from conftest import made
from support.commands import one_line, one_object, run
from support.published import edit, publish

import shim
from converter.proof.openvino import open_with_openvino
from shim import artifact, listing
from shim.errors import IntegrityError, NotFiniteError, UsageError
from shim.pooling import OUTPUTS
from shim.runtimes.onnx import open_runtime as open_onnx
from shim.runtimes.openvino import NATIVE, open_runtime
from shim.text import Tokens

TEXTS = ["a", "The committee met on Tuesday to discuss the harbour.", "река", "word " * 400, "天气很好", "short one"]
CAPABILITIES = openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


@pytest.fixture(scope="module")
def verified(minilm_artifacts: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """all-MiniLM-L6-v2 in 32 bits, verified with openvino, too."""
    path = tmp_path_factory.mktemp("verified") / "artifact"
    shutil.copytree(minilm_artifacts["onnx-32"], path)
    done = run("converter", "verify", path, "--runtime", "openvino", "--json")
    assert one_object(done)["parity"]["runtime"] == "openvino"
    return path


@pytest.fixture
def sealed(verified: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(verified, tmp_path / "artifact"))


@pytest.fixture
def copied(tiny_artifact: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_artifact, tmp_path / "copied"))


def test_what_is_verified_is_sealed_beside_the_other_runtimes_figures(
    verified: Path, minilm_artifacts: dict[str, Path]
) -> None:
    before, after = artifact.read(minilm_artifacts["onnx-32"]), artifact.read(verified)
    assert after.tool["packages"].pop("openvino") == importlib.metadata.version("openvino")
    assert replace(after, runtimes=None) == before, "its own figures, and the hashes of all files, are as they were"
    own = (after.runtimes or {})["openvino"]
    assert (own.verdict, own.device, own.texts) == ("pass", "cpu", 200)
    assert own.witness is not None
    assert own.witness.library == "sentence-transformers"
    assert own.kernels == ("bf16" if "BF16" in CAPABILITIES else "f16" if "FP16" in CAPABILITIES else "f32")
    assert own.worst != before.parity.worst, "they were measured"
    assert "openvino pass (cpu" in run("converter", "inspect", verified).stdout
    assert shim.load(verified).runtime.name == "onnx"


@pytest.mark.parametrize("kind", ["onnx-16", "onnx-32"])
def test_in_float32_it_gives_what_onnxruntime_gives(minilm_artifacts: dict[str, Path], kind: str) -> None:
    path = minilm_artifacts[kind]
    model = open_with_openvino(path, artifact.read(path), "f32")
    ours, theirs = model.embed(TEXTS).dense, shim.load(path).embed(TEXTS).dense
    assert ours.dtype == np.float32
    assert np.abs(ours - theirs).max() < (1e-3 if kind == "onnx-16" else 1e-5)
    assert np.abs(ours - np.concatenate([model.embed([text]).dense for text in TEXTS])).max() < 1e-5


def test_served_vectors_are_those_of_the_sealed_precision(verified: Path) -> None:
    model = shim.load(verified, runtime="openvino")
    assert (model.runtime.name, model.info()["parity"]) == (
        "openvino",
        artifact.read(verified).through("openvino").parity.worst,
    )
    cosines = (model.embed(TEXTS).dense * shim.load(verified).embed(TEXTS).dense).sum(axis=1)
    assert cosines.min() > 0.9995
    lines = run("shim", "embed", verified, "--runtime", "openvino", input='"a"\n').stdout.splitlines()
    np.testing.assert_allclose(json.loads(lines[0])["embedding"], model.embed(["a"]).dense[0], atol=1e-6)


@pytest.mark.parametrize("name", ["bge-m3", "qwen3-embedding-0.6b", "qwen3-reranker-0.6b", "nomic-embed-text-v1.5"])
@pytest.mark.parametrize(("bits", "tolerance"), [(32, 1e-4), (16, 2e-2)])
def test_every_family_whatever_the_shape_and_the_padding(name: str, bits: int, tolerance: float) -> None:
    """One after the other, the smallest first: OpenVINO keeps what it made for one shape."""
    path, manifest = made(name, "onnx", bits)
    runtimes = open_onnx(path, manifest, "cpu"), open_runtime(path, manifest, precision="f32")
    names = tuple(OUTPUTS[head] for head in manifest.model.heads)
    rng = np.random.default_rng(0)
    for shape in ((1, 1), (3, 90), (64, 7), (2, 700), (3, 90)):
        lengths = rng.integers(1, shape[1] + 1, shape[0])
        lengths[0] = shape[1]
        right = (np.arange(shape[1]) < lengths[:, None]).astype(np.int64)
        ids = rng.integers(5, 200, shape)
        for mask in (right, right[:, ::-1].copy()) if "qwen3" in name else (right,):
            tokens = Tokens(ids * mask, mask, np.zeros_like(ids))
            for each in (names[:1], names):
                theirs, ours = (runtime.run(tokens, each) for runtime in runtimes)
                assert ours.keys() == set(each)
                for output in each:
                    rows = ours[output].shape[:2] == shape and output != "sentence_embedding"
                    kept = mask.astype(bool) if rows else slice(None)
                    assert ours[output].dtype == np.float32
                    np.testing.assert_allclose(ours[output][kept], theirs[output][kept], atol=tolerance)


def test_a_published_repository_keeps_the_seal(verified: Path, tmp_path: Path) -> None:
    folder = publish(tmp_path / "published", verified, external=True)
    assert shim.load(folder, runtime="openvino").info()["verdict"] == "pass"


def test_a_precision_that_the_cpu_has_not_is_float32(copied: Path) -> None:
    """Left to itself OpenVINO takes another 16-bit format in its place."""
    manifest = artifact.read(copied)
    for precision, name in NATIVE.items():
        wanted = precision if name in CAPABILITIES else "f32"
        assert open_runtime(copied, manifest, precision=precision).kernels == wanted
    assert not {"BF16", "FP16"} <= set(CAPABILITIES), "one of them is missing here, or this shows nothing"


def test_it_computes_in_the_precision_that_was_sealed(sealed: Path) -> None:
    edit(sealed, lambda m: m["runtimes"]["openvino"].update(kernels="f32"))
    assert shim.load(sealed, runtime="openvino").runtime.kernels == "f32"


def test_where_16_bits_fall_short_float32_is_measured(minilm_artifacts: dict[str, Path], tmp_path: Path) -> None:
    path = Path(shutil.copytree(minilm_artifacts["onnx-32"], tmp_path / "artifact"))
    edit(path, lambda m: m["parity"].update(target=0.99999))
    run("converter", "verify", path, "--runtime", "openvino")
    own = (artifact.read(path).runtimes or {})["openvino"]
    assert (own.verdict, own.kernels, own.target) == ("pass", "f32", 0.99999)


def test_what_falls_short_is_recorded_and_refused(minilm_artifacts: dict[str, Path], tmp_path: Path) -> None:
    path = Path(shutil.copytree(minilm_artifacts["onnx-32"], tmp_path / "artifact"))
    graph = onnx.load(path / "onnx/model.onnx")
    bias = next(t for t in graph.graph.initializer if t.name == "embeddings.LayerNorm.bias")
    bias.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(bias)[::-1].copy(), bias.name))
    onnx.save(graph, path / "onnx/model.onnx")
    edit(path, lambda m: m.update(files=listing.hash_files(path)))
    line = run("converter", "verify", path, "--runtime", "openvino", check=1).stderr.splitlines()[-1]
    assert "failed: worst cosine of dense" in line
    assert "the artifact's own figures, on onnx, are as they were" in line
    with pytest.raises(IntegrityError, match="verdict with openvino is fail"):
        shim.load(path, runtime="openvino")
    assert artifact.read(path).verdict == "pass"


def test_without_figures_of_its_own_it_is_refused(tiny_artifact: Path) -> None:
    done = run("shim", "embed", tiny_artifact, "--runtime", "openvino", input='"a"\n', check=4)
    assert "`convert verify ARTIFACT --runtime openvino` measures that" in one_line(done, "shim")
    unsealed = shim.load(tiny_artifact, runtime="openvino", allow_unverified=True)
    assert unsealed.info()["verdict"] == "unverified"
    assert unsealed.embed(["a"]).dense.shape == (1, 64)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda own: own.update(verdict="fail"), "verdict with openvino is fail"),
        (lambda own: own["heads"]["dense"].update(worst=0.5), "contradicts its own figures"),
        (lambda own: own.update(heads={}), "without figures"),
        (lambda own: own.pop("witness"), "without a witness"),
        (lambda own: own.update(runtime="onnx"), "its figures are of 'onnx'"),
        (lambda own: own.update(surprise=1), "key surprise unknown"),
        (lambda own: own.update(target=0.99), "min_parity=0.99"),
    ],
)
def test_figures_that_do_not_seal_are_refused(sealed: Path, change: Callable[[dict[str, Any]], object], message: str) -> None:
    edit(sealed, lambda m: change(m["runtimes"]["openvino"]))
    with pytest.raises(IntegrityError, match=message):
        shim.load(sealed, runtime="openvino")


def test_figures_of_a_runtime_that_cannot_load_it_are_refused(sealed: Path) -> None:
    edit(sealed, lambda m: m["runtimes"].update(onnx=m["runtimes"].pop("openvino")))
    with pytest.raises(IntegrityError, match="runtimes: 'onnx' unknown"):
        shim.load(sealed)


def test_products_in_integers_are_refused_when_they_are_loaded(minilm_artifacts: dict[str, Path]) -> None:
    path = minilm_artifacts["onnx-8"]
    done = run("converter", "verify", path, "--runtime", "openvino", check=2)
    assert "take runtime onnx, or an artifact of --bits 16 or 32" in one_line(done)


def test_an_artifact_for_mlx_is_not_for_it(minilm_artifacts: dict[str, Path]) -> None:
    done = run("converter", "verify", minilm_artifacts["mlx-8"], "--runtime", "openvino", check=2)
    assert "was made for mlx; runtime openvino cannot load it" in one_line(done)
    with pytest.raises(UsageError, match="device 'cuda' unknown for the openvino runtime"):
        shim.load(minilm_artifacts["onnx-32"], runtime="openvino", device="cuda", allow_unverified=True)


def test_without_openvino_the_extra_is_named(verified: Path) -> None:
    code = f"import sys; sys.modules['openvino'] = None; import shim; shim.load({str(verified)!r}, runtime='openvino')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "pip install 'sealport[openvino]'" in done.stderr.splitlines()[-1]


def test_a_graph_that_it_cannot_read_is_named(copied: Path) -> None:
    path = copied / "onnx/model.onnx"
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(IntegrityError, match="model.onnx: openvino cannot load it"):
        shim.load(copied, runtime="openvino", allow_unverified=True)


def test_an_operator_that_it_has_not_is_named(copied: Path) -> None:
    graph = onnx.load(copied / "onnx/model.onnx")
    next(node for node in graph.graph.node if node.op_type == "MatMul").op_type = "Unheard"
    onnx.save(graph, copied / "onnx/model.onnx")
    with pytest.raises(UsageError, match="openvino lacks operators of it .*Unheard.*; take runtime onnx"):
        shim.load(copied, runtime="openvino", allow_unverified=True)


def test_a_graph_that_compiles_and_cannot_be_computed_is_refused(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its vectors are reshaped to 1,009 rows, however many texts there are."""
    model = onnx.load(copied / "onnx/model.onnx")
    last = next(node for node in model.graph.node if "sentence_embedding" in node.output)
    last.output[0] = "vectors"
    model.graph.node.append(onnx.helper.make_node("Reshape", ["vectors", "rows"], ["sentence_embedding"]))
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([1009, 64]), "rows"))
    onnx.save(model, copied / "onnx/model.onnx")
    for count in (0, 1):
        monkeypatch.setattr("shim.runtimes.openvino.threads", lambda count=count: count)
        done = run("shim", "embed", copied, "--runtime", "openvino", "--allow-unverified", input='"a"\n', check=2)
        assert "openvino cannot compute the graph" in one_line(done, "shim")


def test_nan_in_an_output_is_an_error_that_names_the_text(copied: Path) -> None:
    graph = onnx.load(copied / "onnx/model.onnx")
    table = next(t for t in graph.graph.initializer if t.name == "embeddings.word_embeddings.weight")
    values = onnx.numpy_helper.to_array(table).copy()
    values[shim.load(copied).encoder.encode(["copper"])[0].ids[1]] = np.nan
    table.CopyFrom(onnx.numpy_helper.from_array(values, table.name))
    onnx.save(graph, copied / "onnx/model.onnx")
    model = shim.load(copied, runtime="openvino", allow_unverified=True)
    assert np.isfinite(model.embed(["iron"]).dense).all()
    with pytest.raises(NotFiniteError, match="dense output of text 1"):
        model.embed(["iron", "copper"])
