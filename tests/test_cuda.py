"""On an NVIDIA GPU no node of a graph falls back to the CPU: by the list of kernels, and where a GPU is here by the profile."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from conftest import standin, standin_recipe
from support.checkpoints import bert_config, write_bert, write_recipe
from support.cuda_kernels import without
from support.jobs import calibration_of

from converter import corpus, recipe
from converter.candidate import Candidate, HeldCodes, RoundedCodes
from converter.corpus.calibration import prepare
from converter.int8.products import IntegerProducts
from converter.quantize.grid import uniform
from converter.source.checkpoint import Checkpoint
from converter.source.open import open_source
from converter.targets import onnx as onnx_target
from shim.architectures import architecture, bert
from shim.runtimes.onnx import better_on_cuda

FAMILIES = ("bge-m3", "bge-reranker-v2-m3", "nomic-embed-text-v1.5", "qwen3-embedding-0.6b", "qwen3-reranker-0.6b")
CUDA = "CUDAExecutionProvider"
ANGLES = {"Cos", "Sin"}  # of rotary positions, once for all layers, in graphs that are for CPUs
PLANES = {"BitShift", "BitwiseAnd", "BitwiseOr"}  # of tables of 5 to 7 bits


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest) -> tuple[recipe.Recipe, Checkpoint]:
    loaded = standin_recipe(request.param)
    checkpoint = open_source(loaded, str(standin(request.param)))
    return loaded, checkpoint.without(architecture(loaded.architecture).OPTIONAL)


def written(family: tuple[recipe.Recipe, Checkpoint], bits: int, folder: Path) -> Path:
    """The graph, with weights rounded to nearest below 16 bits."""
    loaded, checkpoint = family
    module = architecture(loaded.architecture)
    shapes = module.parameters(module.Config.read(checkpoint.config))
    plan = uniform(shapes, module.FULL_PRECISION, bits) if bits < 16 else {}
    codes = RoundedCodes(checkpoint, plan, onnx_target.GRID)
    onnx_target.write(loaded, checkpoint, Candidate(codes), bits, folder, lambda: None)
    return folder / "onnx/model.onnx"


@pytest.mark.parametrize("bits", [16, 8, 4])
def test_cuda_has_a_kernel_for_every_node(family: tuple[recipe.Recipe, Checkpoint], bits: int, tmp_path: Path) -> None:
    missing = without(onnx.load(written(family, bits, tmp_path)))
    assert missing <= (ANGLES if bits < 16 else set())


@pytest.mark.slow
def test_a_long_text_is_finite_in_float16(family: tuple[recipe.Recipe, Checkpoint], tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    # A reranker is an embedder, here too, but for the head on one token; at its limit, which takes gigabytes, is one model.
    length = 1024 if family[0].task == "rerank" else 8192 if family[0].name == "bge-m3" else 4096
    ids, mask = rng.integers(5, 900, (1, length)), np.ones((1, length), np.int64)
    ids[:, -192:], mask[:, -192:] = family[1].config.get("pad_token_id") or 0, 0
    given, found = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}, []
    for bits in (16, 32):
        (tmp_path / str(bits)).mkdir()
        session = ort.InferenceSession(str(written(family, bits, tmp_path / str(bits))), providers=["CPUExecutionProvider"])
        name = "logits" if family[0].task == "rerank" else "sentence_embedding"
        found.append(session.run([name], {value.name: given[value.name] for value in session.get_inputs()})[0])
    assert np.isfinite(found).all()
    assert np.abs(found[0] - found[1]).max() < 0.01 * np.abs(found[1]).max()


def test_what_is_for_cpus_alone_is_known(tmp_path: Path) -> None:
    loaded = recipe.load(str(write_recipe(tmp_path / "tiny.toml")))
    checkpoint = open_source(loaded, str(write_bert(tmp_path / "checkpoint", bert_config()))).without(bert.OPTIONAL)
    tokens = prepare(checkpoint, corpus.read(corpus.CALIBRATION)[:80])
    products = IntegerProducts(calibration_of(checkpoint, loaded, tokens, target="onnx", cosine=0.99, bits=8))
    found = {}
    for way in ("token", "tensor"):
        made = products.made([way] * len(products.sites))
        (tmp_path / way).mkdir()
        onnx_target.write(loaded, checkpoint, Candidate(HeldCodes(made.codes), {}, made), 8, tmp_path / way, lambda: None)
        found[way] = without(onnx.load(tmp_path / way / "onnx/model.onnx"))
    tensor = PLANES | {"QuantizeLinear", "com.microsoft.MatMulIntegerToFloat"}
    assert found == {"tensor": tensor, "token": tensor | {"ReduceMax", "ReduceMin"}}


def test_an_artifact_for_cpus_names_the_better_one() -> None:
    stored = {"layer": {"bits": 8, "group_size": 64, "input": "token"}}
    integers = SimpleNamespace(name="tiny", bits=8, quantization={"tensors": stored})
    weights = SimpleNamespace(name="tiny", bits=4, quantization={"tensors": {"layer": {"bits": 4, "group_size": 64}}})
    halves = SimpleNamespace(name="tiny", bits=16, quantization={"tensors": {}})
    said = [better_on_cuda(manifest) for manifest in (integers, weights, halves)]
    assert "leaves a part of its work to the CPU" in str(said[0])
    assert "computes in float32" in str(said[1])
    assert all("--bits 16" in str(line) and "\n" not in str(line) for line in said[:2])
    assert said[2] is None


@pytest.mark.skipif(CUDA not in ort.get_available_providers(), reason="no CUDA here")
def test_the_profile_shows_nothing_on_the_cpu_but_sizes(family: tuple[recipe.Recipe, Checkpoint], tmp_path: Path) -> None:
    path = written(family, 16, tmp_path)
    options = ort.SessionOptions()
    options.enable_profiling, options.profile_file_prefix = True, str(tmp_path / "profile")
    session = ort.InferenceSession(str(path), options, providers=[CUDA])
    assert CUDA in session.get_providers()
    ids = np.full((2, 40), 5)
    given = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
    session.run(None, {value.name: given[value.name] for value in session.get_inputs()})
    events = json.loads(Path(session.end_profiling()).read_text())
    placed = [event for event in events if event.get("cat") == "Node" and "provider" in event.get("args", {})]
    assert {event["args"]["provider"] for event in placed} >= {CUDA}
    for event in placed:
        if event["args"]["provider"] != CUDA:
            sizes = [shape for entry in event["args"]["output_type_shape"] for shape in entry.values()]
            assert all(np.prod(shape) < ids.size for shape in sizes), f"{event['args']['op_name']} is on the CPU"
