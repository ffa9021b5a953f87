"""shim.load and Model.embed: what a Python caller sees."""

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import pytest
from safetensors.numpy import load_file, save_file

import shim
from shim.errors import IntegrityError, NotFiniteError, UsageError
from shim.pooling import pool
from shim.runtimes import mlx
from shim.runtimes.cores import threads

MIXED = ["a", "The committee met on Tuesday to discuss the harbour.", "река", "word " * 400, "天气很好", "short one"]


@pytest.mark.parametrize(("kind", "tolerance"), [("onnx-32", 1e-5), ("mlx-8", 1e-5), ("onnx-8", 1e-5), ("onnx-16", 1e-3)])
def test_a_mixed_batch_equals_single_calls(minilm_artifacts: Mapping[str, Path], kind: str, tolerance: float) -> None:
    model = shim.load(minilm_artifacts[kind])
    together = model.embed(MIXED)
    alone = [model.embed([text]) for text in MIXED]
    assert np.abs(together.dense - np.concatenate([one.dense for one in alone])).max() < tolerance
    assert together.tokens == [one.tokens[0] for one in alone]
    assert together.truncated == [False, False, False, True, False, False]
    assert together.dense.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(together.dense, axis=1), 1, atol=1e-6)


def test_texts_that_mean_the_same_are_near(minilm_artifacts: Mapping[str, Path]) -> None:
    for path in minilm_artifacts.values():
        a, b, c = shim.load(path).embed(["How do I reset my password?", "I forgot my login code", "The soup needs salt"]).dense
        assert a @ b > 0.4 > 0.2 > a @ c


def test_dimensions_are_cut_and_normalised_again(tiny_artifact: Path) -> None:
    model = shim.load(tiny_artifact)
    whole, part = model.embed(MIXED).dense, model.embed(MIXED, dimensions=16).dense
    assert part.shape == (6, 16)
    np.testing.assert_allclose(part, whole[:, :16] / np.linalg.norm(whole[:, :16], axis=1, keepdims=True), atol=1e-6)


@pytest.mark.parametrize("dimensions", [0, -1, 65, 1.5, "16", True])
def test_dimensions_that_cannot_be_meant(tiny_artifact: Path, dimensions: object) -> None:
    with pytest.raises(UsageError, match="whole number from 1 to 64"):
        shim.load(tiny_artifact).embed(["x"], dimensions=dimensions)  # type: ignore[arg-type]


def test_a_megabyte_is_cut_and_said_to_be(tiny_artifact: Path) -> None:
    out = shim.load(tiny_artifact).embed(["word " * 200_000, "word"])
    assert (out.truncated, out.tokens) == ([True, False], [128, 3])


def test_nan_in_an_output_is_an_error_that_names_the_text(tiny_artifact: Path, tmp_path: Path) -> None:
    """One broken weight in the word table: texts with that word have no vector, and say so."""
    broken = Path(shutil.copytree(tiny_artifact, tmp_path / "broken"))
    graph = onnx.load(broken / "onnx/model.onnx")
    table = next(t for t in graph.graph.initializer if t.name == "embeddings.word_embeddings.weight")
    values = onnx.numpy_helper.to_array(table).copy()
    model = shim.load(tiny_artifact)
    values[model.encoder.encode(["copper"])[0].ids[1]] = np.nan
    table.CopyFrom(onnx.numpy_helper.from_array(values, table.name))
    onnx.save(graph, broken / "onnx/model.onnx")
    model = shim.load(broken, allow_unverified=True)
    assert np.isfinite(model.embed(["iron"]).dense).all()
    with pytest.raises(NotFiniteError, match="dense output of text 1"):
        model.embed(["iron", "copper"])


def test_an_artifact_loads_only_in_its_own_runtime(tiny_artifact: Path) -> None:
    assert shim.load(tiny_artifact, runtime="onnx").runtime.name == "onnx"
    with pytest.raises(UsageError, match="was made for onnx; runtime mlx cannot load it"):
        shim.load(tiny_artifact, runtime="mlx")
    with pytest.raises(UsageError, match=r"runtime 'tpu' unknown \(auto, mlx, onnx, openvino\)"):
        shim.load(tiny_artifact, runtime="tpu")
    with pytest.raises(UsageError, match="device 'tpu' unknown"):
        shim.load(tiny_artifact, device="tpu")


def test_mlx_on_a_cpu_says_that_it_is_slow(minilm_artifacts: Mapping[str, Path]) -> None:
    if sys.platform == "darwin":
        pytest.skip("this Mac has a GPU")
    with pytest.warns(UserWarning, match="slow"):
        shim.load(minilm_artifacts["mlx-8"])
    with pytest.raises(UsageError, match="no Metal GPU here"):
        shim.load(minilm_artifacts["mlx-8"], device="gpu")


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere MLX has a fast BLAS of its own")
def test_a_blas_of_pip_stands_in_for_the_systems(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ctypes.util.find_library", lambda name: None)
    monkeypatch.setattr("sys.prefix", str(tmp_path))
    assert mlx.blas() is None
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib/libmkl_rt.so.3").touch()
    assert mlx.blas() == str(tmp_path / "lib/libmkl_rt.so.3")


@pytest.mark.parametrize(("kind", "module", "extra"), [("mlx-8", "mlx", "mlx"), ("onnx-8", "onnxruntime", "onnx")])
def test_a_missing_runtime_names_the_extra(minilm_artifacts: Mapping[str, Path], kind: str, module: str, extra: str) -> None:
    code = f"import sys; sys.modules[{module!r}] = None; import shim; shim.load({str(minilm_artifacts[kind])!r})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert f"pip install 'sealport[{extra}]'" in done.stderr.splitlines()[-1]


def test_a_graph_that_onnxruntime_cannot_read_is_named(tiny_artifact: Path, tmp_path: Path) -> None:
    broken = Path(shutil.copytree(tiny_artifact, tmp_path / "broken"))
    (broken / "onnx/model.onnx").write_bytes(b"not a graph")
    with pytest.raises(IntegrityError, match="model.onnx: onnxruntime cannot load it"):
        shim.load(broken, allow_unverified=True)


@pytest.mark.filterwarnings("ignore:the mlx runtime")
@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("encoder.layer.0.output.dense.biases", None, r"encoder.layer.0.output.dense.biases is missing"),
        ("embeddings.LayerNorm.bias", None, "embeddings.LayerNorm.bias is missing"),
        ("embeddings.LayerNorm.bias", (3,), r"embeddings.LayerNorm.bias is \[3\], config.json wants \[384\]"),
    ],
)
def test_mlx_weights_that_are_not_what_config_says_are_named(
    minilm_artifacts: Mapping[str, Path], tmp_path: Path, name: str, change: tuple[int, ...] | None, message: str
) -> None:
    broken = Path(shutil.copytree(minilm_artifacts["mlx-8"], tmp_path / "broken"))
    tensors = load_file(broken / "model.safetensors")
    tensors.pop(name)
    if change is not None:
        tensors[name] = np.zeros(change, np.float16)
    save_file(tensors, broken / "model.safetensors")
    with pytest.raises(IntegrityError, match=message):
        shim.load(broken, allow_unverified=True)


@pytest.mark.parametrize("pooling", ["cls", "last", "mean"])
def test_a_pooled_vector_does_not_keep_every_tokens_states(pooling: str) -> None:
    assert pool(np.ones((5, 4), np.float32), pooling).base is None


def test_info_is_what_a_client_needs(tiny_artifact: Path) -> None:
    info = shim.load(tiny_artifact).info()
    assert (info["name"], info["dimensions"], info["max_tokens"]) == ("tiny-onnx-32bit", 64, 128)
    assert info["parity"]["dense"] > 0.999


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity") or os.cpu_count() == 1, reason="wants Linux and two cores")
def test_onnxruntime_keeps_to_the_cores_that_the_process_may_use(tiny_artifact: Path) -> None:
    code = f"""
import os
os.sched_setaffinity(0, {{0}})
import shim
model = shim.load({str(tiny_artifact)!r})
model.embed(["one"])
print({{core for task in os.listdir("/proc/self/task") for core in os.sched_getaffinity(int(task))}})
"""
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "{0}\n"


V1, V2 = "4:cpu,cpuacct:/a/b\n3:memory:/c\n0::/", "0::/a/b"  # the cgroups of a process, as the system shows them


@pytest.mark.parametrize(
    ("own", "files", "cores"),
    [
        (V2, {"cpu.max": "100000 100000"}, 1),
        (V2, {"a/b/cpu.max": "max 100000", "a/cpu.max": "250000 100000"}, 2),
        (V2, {"cpu.max": "max 100000"}, 0),
        (V2, {"cpu.max": "6400000 100000"}, 0),
        (V2, {"cpu.max": ""}, 0),
        (V1, {"cpu/cpu.cfs_quota_us": "20000", "cpu/cpu.cfs_period_us": "100000"}, 1),
        (V1, {"cpu,cpuacct/a/cpu.cfs_quota_us": "300000", "cpu,cpuacct/a/cpu.cfs_period_us": "100000"}, 3),
        (V1, {"cpu/a/b/cpu.cfs_quota_us": "-1", "cpu/a/b/cpu.cfs_period_us": "100000"}, 0),
        (V1, {"memory/c/cpu.cfs_quota_us": "100000", "memory/c/cpu.cfs_period_us": "100000"}, 0),
        (V1, {"unified/cpu.max": "100000 100000"}, 1),
        (None, {}, 0),
    ],
)
def test_onnxruntime_keeps_to_a_containers_share_of_the_cores(
    own: str | None, files: dict[str, str], cores: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 3}, raising=False)
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content + "\n")
    if own is not None:
        (tmp_path / "own").write_text(own)
    assert threads(tmp_path, tmp_path / "own") == cores
