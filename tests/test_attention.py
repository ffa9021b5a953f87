"""The attention of an ONNX graph against its definition: odd shapes, padding on either side, long texts in blocks."""

import resource
from functools import cache
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest

from converter.targets.onnx import IR_VERSION
from converter.targets.onnx.attention import Attention
from converter.targets.onnx.ops import OPSET
from converter.targets.onnx.recorder import CONTRIB, Recorder

SIZE = 8
SIDES = ("right", "left")  # of the padding: a single text has none
SHAPES = ((1, 1), (64, 7), (3, 130), (2, 513), (2, 1025), (1, 4100))
NONE, ALL = ort.GraphOptimizationLevel.ORT_DISABLE_ALL, ort.GraphOptimizationLevel.ORT_ENABLE_ALL
NO_WEIGHTS: Any = None


@cache
def session(
    heads: int,
    groups: int,
    causal: bool,
    window: int | None,
    blocked: bool,
    dtype: type,
    level: ort.GraphOptimizationLevel = ALL,
) -> Any:
    """A graph that is one layer's attention, of float32 inputs."""
    ops = Recorder(NO_WEIGHTS, {}, dtype, blocked, lambda: None)  # type: ignore[arg-type]
    values = []
    for name, count in (("query", heads), ("key", groups), ("value", groups)):
        shape = ir.Shape(["batch_size", "sequence_length", count * SIZE])
        values.append(ir.Value(name=name, shape=shape, type=ir.TensorType(ir.DataType.FLOAT)))
    attention = Attention(ops, heads, groups, SIZE, causal, window)
    found = ops.cast(attention(*(ops.cast(value, dtype) for value in values)), np.float32)
    found.name, found.type = "found", ir.TensorType(ir.DataType.FLOAT)
    found.shape = ir.Shape(["batch_size", "sequence_length", heads * SIZE])
    ops.prune([found])
    graph = ir.Graph(
        inputs=[*ops.inputs.values(), *values],
        outputs=[found],
        nodes=ops.nodes,
        initializers=list(ops.initializers.values()),
        opset_imports={"": OPSET, CONTRIB: 1},
        name="attention",
    )
    model = ir.to_proto(ir.Model(graph, ir_version=IR_VERSION))
    onnx.checker.check_model(model)
    options = ort.SessionOptions()
    options.graph_optimization_level, options.log_severity_level = level, 4
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def feeds(n: int, length: int, heads: int, groups: int, side: str) -> dict[str, np.ndarray]:
    """Random values, and of every row but the first some padding on that side."""
    random = np.random.default_rng(length)
    shapes = {"query": heads, "key": groups, "value": groups}
    given = {k: random.standard_normal((n, length, count * SIZE), dtype=np.float32) for k, count in shapes.items()}
    mask = np.ones((n, length), np.int64)
    for row in range(1, n):
        padding = int(random.integers(0, length))
        mask[row, : padding if side == "left" else 0] = 0
        mask[row, length - padding if side == "right" else length :] = 0
    return given | {"input_ids": mask, "attention_mask": mask}


def definition(given: dict[str, np.ndarray], heads: int, groups: int, causal: bool, window: int | None) -> np.ndarray:
    """softmax(q k^T / sqrt(d)) v over the keys that are no padding, not behind the query where that is causal, and near it."""
    n, length = given["attention_mask"].shape
    split = {k: given[k].astype(np.float64).reshape(n, length, -1, SIZE) for k in ("query", "key", "value")}
    found = np.zeros((n, length, heads, SIZE))
    for head in range(heads):
        query, key, value = (split[k][:, :, head * groups // heads if k != "query" else head] for k in split)
        for row in range(n):
            scores = query[row] @ key[row].T / SIZE**0.5
            seen = np.tril(np.ones((length, length), bool)) if causal else np.ones((length, length), bool)
            if window is not None:
                seen &= np.abs(np.arange(length) - np.arange(length)[:, None]) <= window
            scores[~(seen & (given["attention_mask"][row] == 1))] = -np.inf
            scores[np.isinf(scores).all(axis=1)] = 0  # a padded query's, which nobody reads
            weights = np.exp(scores - scores.max(axis=1, keepdims=True))
            found[row, :, head] = weights @ value[row] / weights.sum(axis=1, keepdims=True)
    return found.reshape(n, length, -1)


@pytest.mark.parametrize(("n", "length", "side"), [(*shape, side) for shape in SHAPES for side in SIDES[: shape[0]]])
@pytest.mark.parametrize(
    ("heads", "groups", "causal", "window"),
    [(4, 4, False, None), (4, 2, True, None), (2, 2, False, 5), (4, 2, False, None), (4, 2, True, 5)],
)
def test_attention_is_its_definition(
    heads: int, groups: int, causal: bool, window: int | None, n: int, length: int, side: str
) -> None:
    given = feeds(n, length, heads, groups, side)
    read = given["attention_mask"] == 1
    expected = definition(given, heads, groups, causal, window)[read]
    for blocked in (False, True):
        for dtype, tolerance in ((np.float32, 2e-6), (np.float16, 1e-2)):
            for level in (NONE, ALL) if dtype is np.float32 else (ALL,):
                run = session(heads, groups, causal, window, blocked, dtype, level)
                (found,) = run.run(None, {value.name: given[value.name] for value in run.get_inputs()})
                assert np.isfinite(found).all(), "padding, too, as the next layer multiplies with it"
                assert np.abs(found[read] - expected).max() < tolerance


@pytest.mark.parametrize(("causal", "window", "most"), [(False, 64, 0.1), (False, None, 0.3), (True, None, 0.8)])
def test_a_long_text_never_has_all_its_scores_in_memory(causal: bool, window: int | None, most: float) -> None:
    given = feeds(1, 8192, 8, 8, "right")
    run = session(8, 8, causal, window, True, np.float32)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    run.run(None, {value.name: given[value.name] for value in run.get_inputs()})
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown * 1024 < most * 8 * 8192**2 * 4
