"""shim.architectures.Ops that record an ONNX graph: standard operators (opset 23), and ORT's where these are faster."""

import zlib
from collections.abc import Callable, Sequence

import numpy as np
import onnx_ir as ir

from converter.targets.onnx import adapters, packed, prefix, tables, vocabulary
from converter.targets.onnx.attention import Attention, relative
from converter.targets.onnx.recorder import CONTRIB, Recorder

OPSET = 23


class OnnxOps(Recorder):
    """The operations of an architecture, in the order of the protocol."""

    def input_ids(self) -> ir.Value:
        return self.input("input_ids")

    def token_type_ids(self) -> ir.Value:
        return self.input("token_type_ids")

    def positions(self, first: int = 0) -> ir.Value:
        length = self.node("Squeeze", self.node("Shape", self.input("input_ids"), start=1, end=2))
        end = self.node("Add", length, self.constant(first)) if first else length
        return self.node("Unsqueeze", self.node("Range", self.constant(first), end, self.constant(1)), self.constant([0]))

    def positions_after(self, padding: int) -> ir.Value:
        differs = self.cast(self.node("Sub", self.input("input_ids"), self.constant(padding)), np.bool_)
        counted = self.cast(differs, np.int64)
        places = self.node("Mul", self.node("CumSum", counted, self.constant(1)), counted)
        return self.node("Add", places, self.constant(padding))

    def index(self, value: int) -> ir.Value:
        return self.constant(value)

    def relative(self, values: tuple[int, ...]) -> ir.Value:
        return relative(self, values)

    def embedding(self, name: str, ids: ir.Value) -> ir.Value:
        scheme = self.codes.plan.get(name)
        if scheme is None:
            return self.node("Gather", self.tensor(f"{name}.weight"), ids)
        gather = tables.gather if scheme.bits in tables.BITS else packed.gather
        return gather(self, name, scheme, ids)

    def linear(self, name: str, x: ir.Value, bias: bool = True) -> ir.Value:
        product = self.multiplying(name)(x)
        if bias:
            product = self._biased(product, self.tensor(f"{name}.bias"))
        self.sizes[product.name] = self.checkpoint.tensors[f"{name}.weight"].shape[:1]
        return product

    def multiplying(self, name: str) -> Callable[[ir.Value], ir.Value]:
        """What gives the product with a module's weights, which are made here: outside the loop that multiplies by them."""
        scheme = self.codes.plan.get(name)
        if scheme is not None and (scheme.bits != 8 or self.by_block):
            return lambda x: packed.multiply(self, name, scheme, x, packed.ROUNDED if self.by_block else 0)
        weight = packed.widened(self, name, scheme) if scheme else self.tensor(f"{name}.weight", transpose=True)
        return lambda x: self.node("MatMul", x, weight, name=name)

    def vocabulary(self, name: str, x: ir.Value, sums: bool = False, twice: bool = False) -> ir.Value:
        found = vocabulary.reduced(self, self.multiplying(name), self.tensor(f"{name}.bias"), x, sums, twice)
        self.wide.add(found.name)
        return found

    def _biased(self, product: ir.Value, bias: ir.Value) -> ir.Value:
        found = self.node("Add", product, bias)
        self.sums[found.name] = product, bias
        return found

    def linears(self, names: Sequence[str], x: ir.Value, bias: bool = True) -> list[ir.Value]:
        return [self.linear(name, x, bias) for name in names]

    def adapted(self, name: str, x: ir.Value, y: ir.Value, scale: float, table: bool = False) -> ir.Value:
        return self._like(y, self.node("Add", y, adapters.side_path(self, name, x, scale, table)))

    def head(self, name: str, x: ir.Value, bias: bool = True) -> ir.Value:
        product = self.node("MatMul", self.full(x), self.tensor(f"{name}.weight", transpose=True, dtype=np.float32), name=name)
        if bias:
            product = self.node("Add", product, self.tensor(f"{name}.bias", dtype=np.float32))
        self.wide.add(product.name)
        return product

    def full(self, x: ir.Value) -> ir.Value:
        if self.dtype is np.float32 or x.name in self.wide:
            return x
        wide = self.cast(x, np.float32)
        self.wide.add(wide.name)
        return wide

    def narrow(self, x: ir.Value) -> ir.Value:
        return self.cast(x, self.dtype) if x.name in self.wide else x

    def layer_norm(self, name: str, x: ir.Value, eps: float, bias: bool = True) -> ir.Value:
        wide = x.name in self.wide
        scale = [self.tensor(f"{name}.{part}", dtype=np.float32 if wide else None) for part in ("weight", "bias")[: 1 + bias]]
        if self.dtype is not np.float32 or x.name not in self.residuals:
            normed = self.node("LayerNormalization", x, *scale, epsilon=eps)
            return self.cast(normed, self.dtype) if wide else normed
        # Not Add, which onnxruntime fuses into SkipLayerNormalization: that takes three times as long on a CPU.
        one, other = self.residuals[x.name]
        total = self.node("Sum", *self.sums.get(one.name, (one,)), other)
        return self.node("LayerNormalization", total, *scale, epsilon=eps)

    def rms_norm(self, name: str, x: ir.Value, eps: float, offset: float = 0.0, full: bool = False) -> ir.Value:
        wide, sizes = self.full(x), self.sizes.get(x.name, ())
        heads = len(sizes) == 2
        if heads:
            wide = self.node("Reshape", wide, self.constant([0, 0, *sizes]))
        weight = self.tensor(f"{name}.weight", dtype=np.float32, offset=offset)
        normed = self.node("RMSNormalization", wide, weight, epsilon=eps, axis=-1)
        if heads:
            normed = self.node("Reshape", normed, self.constant([0, 0, -1]))
        if full:
            self.wide.add(normed.name)
        elif self.dtype is not np.float32:
            normed = self.cast(normed, self.dtype)
        if sizes:
            self.sizes[normed.name] = sizes
        return normed

    def gelu(self, x: ir.Value) -> ir.Value:
        if self.dtype is np.float32 and x.name in self.sums:
            return self.node("BiasGelu", *self.sums[x.name], domain=CONTRIB)
        return self._like(x, self.node("Gelu", x))

    def gelu_tanh(self, x: ir.Value) -> ir.Value:
        return self._like(x, self.node("Gelu", x, approximate="tanh"))

    def silu(self, x: ir.Value) -> ir.Value:
        return self.node("Mul", x, self.node("Sigmoid", x))

    def tanh(self, x: ir.Value) -> ir.Value:
        return self._like(x, self.node("Tanh", x))

    def relu(self, x: ir.Value) -> ir.Value:
        return self._like(x, self.node("Relu", x))

    def add(self, x: ir.Value, y: ir.Value) -> ir.Value:
        if not {x.name, y.name} & self.wide:
            total = self.node("Add", x, y)
            if x.name in self.sizes:
                self.residuals[total.name] = x, y
            return total
        total = self.node("Add", self.full(x), self.full(y))
        self.wide.add(total.name)
        return total

    def subtract(self, x: ir.Value, y: ir.Value) -> ir.Value:
        return self._like(x, self.node("Sub", x, y))

    def multiply(self, x: ir.Value, y: ir.Value) -> ir.Value:
        return self.node("Mul", x, y)

    def scale(self, x: ir.Value, factor: float) -> ir.Value:
        kind = np.float32 if x.name in self.wide else self.dtype
        return self._like(x, self.node("Mul", x, self.constant(factor, kind)))

    def split(self, x: ir.Value, parts: int) -> list[ir.Value]:
        values = self._append("Split", (x,), {"axis": -1, "num_outputs": parts}, parts)
        for value in values:
            self._like(x, value)
            self.sizes[value.name] = tuple(size // parts for size in self.sizes.get(x.name, ()))
        return values

    def column(self, x: ir.Value, index: int) -> ir.Value:
        return self._like(x, self.node("Gather", x, self.constant(index), axis=-1))

    def split_heads(self, x: ir.Value, heads: int) -> ir.Value:
        # They stay side by side in the last axis, as the operators want them.
        self.sizes[x.name] = (heads, self.sizes[x.name][0] // heads)
        return x

    def rotate(self, x: ir.Value, base: float, factors: tuple[float, ...] = ()) -> ir.Value:
        heads, size = self.sizes[x.name]
        speeds = _speeds(base, size) / (np.array(factors) if factors else 1)
        if self.dtype is np.float32:
            cos, sin = (self._angles(speeds, kind) for kind in ("Cos", "Sin"))
        else:  # for GPUs: CUDA has neither operator at this opset
            which = f"{base}_{size}" + (f"_{zlib.crc32(speeds.tobytes()):08x}" if factors else "")
            cos, sin = (self._table(speeds, which, turn) for turn in (np.cos, np.sin))
        if "rows" not in self.made:  # (n, length), those of the tables
            places = self.positions() if self.dtype is np.float32 else self._places()
            self.made["rows"] = self.node("Expand", places, self.node("Shape", self.input("input_ids")))
        return self._like(x, self.node("RotaryEmbedding", x, cos, sin, self.made["rows"], num_heads=heads))

    def _angles(self, speeds: np.ndarray, kind: str) -> ir.Value:
        """(length, size / 2) cosines or sines of the rotary angles."""
        key = (kind, speeds.tobytes())
        if key not in self.made:
            places = self.node("Transpose", self.cast(self._places(), np.float32), perm=[1, 0])
            self.made[key] = self.node(kind, self.node("Mul", places, self.constant(speeds, np.float32)))
        return self.made[key]

    def _table(self, speeds: np.ndarray, which: str, turn: Callable[[np.ndarray], np.ndarray]) -> ir.Value:
        """(max_tokens, size / 2) cosines or sines of the rotary angles, these rounded to float32 as upstream does."""

        def rows() -> list[np.ndarray]:
            places = np.arange(self.max_tokens, dtype=np.float32)[:, None]
            return [turn(places * speeds.astype(np.float32)).astype(self.dtype)]

        return self.weight(f"rotary_{turn.__name__}_{which}", (self.max_tokens, speeds.size), self.dtype, rows)

    def _places(self) -> ir.Value:
        return self.node("Add", self.positions(), prefix.length(self)) if self.prefixed else self.positions()

    def attention(
        self,
        query: ir.Value,
        key: ir.Value,
        value: ir.Value,
        causal: bool = False,
        window: int | None = None,
        bias: ir.Value | None = None,
    ) -> ir.Value:
        heads, size = self.sizes[query.name]
        return Attention(self, heads, self.sizes[key.name][0], size, causal, window, bias)(query, key, value)

    def _like(self, x: ir.Value, y: ir.Value) -> ir.Value:
        """y, whose sizes and width of type are those of x."""
        if x.name in self.sizes:
            self.sizes[y.name] = self.sizes[x.name]
        if x.name in self.wide:
            self.wide.add(y.name)
        return y

    def pool(self, hidden: ir.Value, pooling: str) -> ir.Value:
        mask = self.input("attention_mask")
        if pooling == "cls":
            return self.full(self._like(hidden, self.node("Gather", hidden, self.constant(0), axis=1)))
        if pooling == "last":
            places = self.node("Mul", mask, self.node("Add", self.positions(), self.constant(1)))
            last = self.node("ArgMax", self.cast(places, np.float32), axis=1, keepdims=1)  # CUDA takes no whole numbers
            return self.full(self._like(hidden, self.node("GatherND", hidden, last, batch_dims=1)))
        if pooling == "max":
            attended = self.cast(self.node("Unsqueeze", mask, self.constant([2])), np.bool_)
            kept = self.node("Where", attended, self.full(hidden), self.constant(-np.inf, np.float32))
            pooled = self.node("ReduceMax", kept, self.constant([1]), keepdims=0)
        else:
            if pooling == "weightedmean":
                mask = self.node("Mul", mask, self.node("Add", self.positions(), self.constant(1)))
            weights = self.cast(self.node("Unsqueeze", mask, self.constant([2])), np.float32)
            total = self.node("ReduceSum", self.node("Mul", self.full(hidden), weights), self.constant([1]), keepdims=0)
            count = self.node("ReduceSum", weights, self.constant([1]), keepdims=0)
            if pooling == "mean_sqrt_len_tokens":
                count = self.node("Sqrt", count)
            pooled = self.node("Div", total, count)
        self.wide.add(pooled.name)
        return pooled

    def normalize(self, x: ir.Value) -> ir.Value:
        wide = self.full(x)
        norm = self.node("ReduceL2", wide, self.constant([-1]), keepdims=1)
        return self._like(wide, self.node("Div", wide, self.node("Max", norm, self.constant(1e-12, np.float32))))


def _speeds(base: float, size: int) -> np.ndarray:
    """(1, size / 2) radians a token by which the pairs of a head turn. Source: Su et al. 2021, RoFormer."""
    return base ** (-np.arange(0, size, 2, dtype=np.float64)[None] / size)
