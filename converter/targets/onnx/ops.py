"""shim.architectures.Ops that record an ONNX graph: standard operators (opset 21), and ORT's for quantized weights."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir

from converter.checkpoint import Checkpoint
from converter.quantize.grid import Codes, Scheme, round_to_nearest

OPSET = 21
CONTRIB = "com.microsoft"


class OnnxOps:
    """Every call appends nodes; weights become initializers that are read only when the file is written.

    dtype: what the graph computes in, float32 or float16; its outputs are float32 either way.
    plan: {module: Scheme} of the weights that are stored as integers. done: called as each weight of the checkpoint is written.
    """

    def __init__(self, checkpoint: Checkpoint, plan: dict[str, Scheme], dtype: type, done: Callable[[], None]):
        self.checkpoint, self.plan, self.dtype, self.done = checkpoint, plan, dtype, done
        self.nodes: list[ir.Node] = []
        self.initializers: dict[str, ir.Value] = {}
        self.inputs: dict[str, ir.Value] = {}
        self.mask_bias: ir.Value | None = None

    def node(self, kind: str, *inputs: ir.Value | None, domain: str = "", name: str = "", **attributes: Any) -> ir.Value:
        """Append a node with one output and return that."""
        node = ir.node(kind, inputs, attributes or None, domain=domain, name=name or f"{kind}_{len(self.nodes)}")
        node.outputs[0].name = f"{node.name}_output"
        self.nodes.append(node)
        return node.outputs[0]

    def input(self, name: str) -> ir.Value:
        """A graph input, (batch, sequence) int64. Only those that are used become inputs: other loaders must feed them all."""
        if name not in self.inputs:
            shape = ir.Shape(["batch_size", "sequence_length"])
            self.inputs[name] = ir.Value(name=name, shape=shape, type=ir.TensorType(ir.DataType.INT64))
        return self.inputs[name]

    def weight(self, name: str, shape: tuple[int, ...], dtype: type, make: Callable[[], np.ndarray]) -> ir.Value:
        """An initializer whose values `make` gives when they are written; the same name is the same initializer."""
        if name not in self.initializers:
            kind, dims = ir.DataType.from_numpy(np.dtype(dtype)), ir.Shape(shape)
            lazy = ir.LazyTensor(lambda: ir.Tensor(np.ascontiguousarray(make()), name=name), kind, dims, name=name)
            self.initializers[name] = ir.Value(name=name, shape=dims, type=ir.TensorType(kind), const_value=lazy)
        return self.initializers[name]

    def constant(self, value: Any, dtype: type = np.int64) -> ir.Value:
        """A small constant, shared by all who use the same value."""
        array: np.ndarray = np.asarray(value, dtype)
        return self.weight(f"{array.dtype}_{array.tolist()}".replace(" ", ""), array.shape, dtype, lambda: array)

    def tensor(self, name: str, transpose: bool = False) -> ir.Value:
        """A tensor of the checkpoint in the graph's dtype, transposed where a MatMul wants (in, out)."""
        shape = self.checkpoint.tensors[name].shape

        def make() -> np.ndarray:
            array = self.checkpoint.read(name, self.dtype)
            self.done()
            return array.T if transpose else array

        return self.weight(name, shape[::-1] if transpose else shape, self.dtype, make)

    def cast(self, x: ir.Value, dtype: type) -> ir.Value:
        return self.node("Cast", x, to=ir.DataType.from_numpy(np.dtype(dtype)))

    # The operations of an architecture, in the order of the protocol.

    def input_ids(self) -> ir.Value:
        return self.input("input_ids")

    def token_type_ids(self) -> ir.Value:
        return self.input("token_type_ids")

    def positions(self, first: int = 0) -> ir.Value:
        length = self.node("Squeeze", self.node("Shape", self.input("input_ids"), start=1, end=2))
        end = self.add(length, self.constant(first)) if first else length
        return self.node("Unsqueeze", self.node("Range", self.constant(first), end, self.constant(1)), self.constant([0]))

    def index(self, value: int) -> ir.Value:
        return self.constant(value)

    def embedding(self, name: str, ids: ir.Value) -> ir.Value:
        scheme = self.plan.get(name)
        if scheme is None:
            return self.node("Gather", self.tensor(f"{name}.weight"), ids)
        codes, scales, zeros = self.quantized(name, scheme, self.checkpoint.tensors[f"{name}.weight"].shape)
        attributes: dict[str, Any] = {
            "bits": scheme.bits,
            "block_size": scheme.group_size,
            "gather_axis": 0,
            "quantize_axis": 1,
        }
        return self.node("GatherBlockQuantized", codes, ids, scales, zeros, domain=CONTRIB, **attributes)

    def linear(self, name: str, x: ir.Value) -> ir.Value:
        scheme = self.plan.get(name)
        if scheme is None:
            product = self.node("MatMul", x, self.tensor(f"{name}.weight", transpose=True), name=name)
        else:
            rows, columns = self.checkpoint.tensors[f"{name}.weight"].shape
            blocks = columns // scheme.group_size
            codes, scales, zeros = self.quantized(name, scheme, (rows, blocks, scheme.group_size))
            attributes: dict[str, Any] = {"K": columns, "N": rows, "bits": scheme.bits, "block_size": scheme.group_size}
            product = self.node("MatMulNBits", x, codes, scales, zeros, domain=CONTRIB, name=name, **attributes)
        return self.add(product, self.tensor(f"{name}.bias"))

    def layer_norm(self, name: str, x: ir.Value, eps: float) -> ir.Value:
        return self.node("LayerNormalization", x, self.tensor(f"{name}.weight"), self.tensor(f"{name}.bias"), epsilon=eps)

    def gelu(self, x: ir.Value) -> ir.Value:
        return self.node("Gelu", x)

    def add(self, x: ir.Value, y: ir.Value) -> ir.Value:
        return self.node("Add", x, y)

    def attention(self, query: ir.Value, key: ir.Value, value: ir.Value, heads: int) -> ir.Value:
        width = self.checkpoint.config["hidden_size"]
        split = self.constant([0, 0, heads, width // heads])
        query = self.node("Transpose", self.node("Reshape", query, split), perm=[0, 2, 1, 3])
        key = self.node("Transpose", self.node("Reshape", key, split), perm=[0, 2, 3, 1])
        value = self.node("Transpose", self.node("Reshape", value, split), perm=[0, 2, 1, 3])
        scores = self.node("Mul", self.node("MatMul", query, key), self.constant(1 / math.sqrt(width // heads), self.dtype))
        weights = self.node("Softmax", self.add(scores, self._mask_bias()), axis=-1)
        joined = self.node("Transpose", self.node("MatMul", weights, value), perm=[0, 2, 1, 3])
        return self.node("Reshape", joined, self.constant([0, 0, width]))

    def _mask_bias(self) -> ir.Value:
        """(n, 1, 1, length): 0 on tokens, the least finite number on padding."""
        if self.mask_bias is None:
            seen = self.cast(self.node("Unsqueeze", self.input("attention_mask"), self.constant([1, 2])), np.bool_)
            least = self.constant(np.finfo(self.dtype).min, self.dtype)
            self.mask_bias = self.node("Where", seen, self.constant(0, self.dtype), least)
        return self.mask_bias

    def pool(self, hidden: ir.Value, pooling: str) -> ir.Value:
        mask = self.input("attention_mask")
        hidden = self.cast(hidden, np.float32)
        if pooling == "cls":
            return self.node("Gather", hidden, self.constant(0), axis=1)
        if pooling == "mean":
            weights = self.cast(self.node("Unsqueeze", mask, self.constant([2])), np.float32)
            total = self.node("ReduceSum", self.node("Mul", hidden, weights), self.constant([1]), keepdims=0)
            return self.node("Div", total, self.node("ReduceSum", weights, self.constant([1]), keepdims=0))
        places = self.node("Mul", mask, self.add(self.positions(), self.constant(1)))
        return self.node("GatherND", hidden, self.node("ArgMax", places, axis=1, keepdims=1), batch_dims=1)

    def normalize(self, x: ir.Value) -> ir.Value:
        norm = self.node("ReduceL2", x, self.constant([-1]), keepdims=1)
        return self.node("Div", x, self.node("Max", norm, self.constant(1e-12, np.float32)))

    def quantized(self, name: str, scheme: Scheme, shape: tuple[int, ...]) -> tuple[ir.Value, ir.Value, ir.Value]:
        """The codes (in `shape`), scales and zero points of the matrix `name`, quantized once, when the codes are written."""
        rows, columns = self.checkpoint.tensors[f"{name}.weight"].shape
        groups = (rows, columns // scheme.group_size)
        held: dict[str, np.ndarray] = {}

        def make(part: str) -> np.ndarray:
            if not held:
                codes = round_to_nearest(self.checkpoint.read(f"{name}.weight"), scheme, self.dtype, integer_zero=True)
                held.update(zip(("codes", "scales", "zeros"), unsigned(codes), strict=True))
                self.done()
            return held.pop(part)

        return (
            self.weight(f"{name}.weight_quant", shape, np.uint8, lambda: make("codes").reshape(shape)),
            self.weight(f"{name}.weight_scales", groups, self.dtype, lambda: make("scales").astype(self.dtype)),
            self.weight(f"{name}.weight_zero_points", groups, np.uint8, lambda: make("zeros")),
        )


def unsigned(codes: Codes) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Codes, positive scales and uint8 zero points with weight = (code - zero) * scale, from codes with an integer zero.

    A group with a negative scale is turned over: q and z become top - q and top - z, and the scale changes its sign.
    """
    top = 2**codes.scheme.bits - 1
    zeros = np.round(-codes.offsets / codes.scales)
    flip = codes.scales < 0
    rows, columns = codes.codes.shape
    grouped = codes.codes.reshape(rows, -1, codes.scheme.group_size)
    turned = np.where(flip[..., None], top - grouped, grouped).astype(np.uint8)
    return turned.reshape(rows, columns), np.abs(codes.scales), np.where(flip, top - zeros, zeros).astype(np.uint8)
