"""ONNX: `onnx/model.onnx`, an encoder graph of our own that sentence-transformers and optimum load, too."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx_ir as ir

from converter.candidate import Candidate
from converter.quantize.grid import Grid, Scheme
from converter.recipe import Recipe
from converter.source.checkpoint import Checkpoint
from converter.targets.onnx import packed, prefix, tables
from converter.targets.onnx.ops import OPSET, OnnxOps
from converter.targets.onnx.recorder import CONTRIB
from shim.architectures import architecture
from shim.errors import SealportError
from shim.pooling import PROJECTED, VOCABULARY, outputs

TABLE_BITS = tables.BITS
GRID = Grid(np.float32, integer_zero=True, half=tables.BITS)
INTEGERS = True
IR_VERSION = 11
LONG = 1024  # tokens beyond which a text's attention scores are too many to hold at once
SHAPES = {
    "score": ("batch_size",),
    "logits": ("batch_size", 1),
    "sparse_weights": ("batch_size", "sequence_length"),
}
# Loaders that take outputs by number want hidden states first; fastembed takes the second where a graph pools by itself.
FIRST = ("last_hidden_state", "sentence_embedding")
EXTERNAL_ABOVE = 1 << 28  # bytes of weights beyond which they lie in model.onnx_data, written as a stream and memory-mapped


def stored(shape: tuple[int, ...], scheme: Scheme | None) -> int:
    """See Target.stored, of a float32 graph. A weight with bits that no layer has is a table."""
    rows, columns = shape
    if scheme is None:
        return 4 * rows * columns
    kind = tables if scheme.bits in tables.BITS else packed
    return kind.stored(rows, columns, scheme)


def write(
    recipe: Recipe,
    checkpoint: Checkpoint,
    candidate: Candidate,
    bits: int,
    directory: Path,
    done: Callable[[], None],
) -> None:
    """See Target.write: the graph and `config.json`. What is not quantized is float16 at 16 bits, else float32."""
    blocked = recipe.model.max_tokens > LONG
    if candidate.integers:
        from converter.targets.onnx.int8 import IntegerOps  # imports torch

        _save(IntegerOps(checkpoint, candidate.codes, candidate.integers, blocked, done), recipe, directory)
    else:
        kind = np.float16 if bits == 16 else np.float32
        _save(OnnxOps(checkpoint, candidate.codes, kind, blocked, done, candidate.by_block), recipe, directory)


def _save(ops: OnnxOps, recipe: Recipe, directory: Path) -> None:
    checkpoint, module = ops.checkpoint, architecture(recipe.architecture)
    spec, config = recipe.model, module.Config.read(checkpoint.config)
    ops.max_tokens = spec.max_tokens
    # Of a causal reranker, its template and the query come first.
    ops.prefixed = "score" in spec.heads and bool(module.ROWS) and module.continues(config)
    found = outputs(ops, module, config, spec.pooling, spec.heads, spec.modules, spec.splade)
    presents = prefix.output(ops)
    ops.prune([*found.values(), *presents])
    model = graph(ops, found, recipe, config.hidden_size)
    model.graph.outputs.extend(presents)
    (directory / "onnx").mkdir()
    size = sum(value.const_value.nbytes for value in ops.initializers.values() if value.const_value is not None)
    try:
        ir.save(model, directory / "onnx/model.onnx", external_data="model.onnx_data" if size > EXTERNAL_ABOVE else None)
    except Exception as error:
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, SealportError):  # what is wrong with a weight, read while saving
            cause = cause.__cause__ or cause.__context__
        raise cause or error from None
    (directory / "config.json").write_text(json.dumps(checkpoint.config, indent=1) + "\n", encoding="utf-8")


def graph(ops: OnnxOps, found: dict[str, ir.Value], recipe: Recipe, width: int) -> ir.Model:
    """The recorded nodes as a model whose outputs, FIRST and the others, are float32 and named as in `found`.

    width: of hidden states.
    """
    results = []
    for name in (*(name for name in FIRST if name in found), *(name for name in found if name not in FIRST)):
        result = ops.cast(found[name], np.float32)
        axes: tuple[str | int, ...] = ("batch_size", "sequence_length", width)
        if name in ("sentence_embedding", PROJECTED, VOCABULARY):
            axes = ("batch_size", recipe.model.dimensions)
        elif name == "colbert_vecs":
            axes = ("batch_size", "sequence_length", recipe.model.dimensions)
        result.name, result.shape = name, ir.Shape(SHAPES.get(name, axes))
        result.type = ir.TensorType(ir.DataType.FLOAT)
        results.append(result)
    body = ir.Graph(
        inputs=[*ops.inputs.values(), *ops.optional.values()],
        outputs=results,
        nodes=ops.nodes,
        initializers=[*ops.initializers.values(), *ops.optional.values()],
        opset_imports={"": OPSET, CONTRIB: 1},
        name=recipe.name,
    )
    return ir.Model(body, ir_version=IR_VERSION, producer_name="sealport")
