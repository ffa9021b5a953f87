"""Graphs whose matrix products are in integers: u8 inputs times s8 weights."""

from collections.abc import Callable, Iterator

import numpy as np
import onnx_ir as ir

from converter.candidate import PlanCodes
from converter.int8.inputs import LEAST, TOP
from converter.int8.shared_inputs import Input, Integers
from converter.int8.weights import ZERO
from converter.source.checkpoint import Checkpoint
from converter.targets.onnx import packed
from converter.targets.onnx.ops import OnnxOps
from converter.targets.onnx.recorder import CONTRIB


class IntegerOps(OnnxOps):
    """OnnxOps whose layers take their inputs as `integers` has them rounded."""

    def __init__(self, checkpoint: Checkpoint, codes: PlanCodes, integers: Integers, blocked: bool, done: Callable[[], None]):
        super().__init__(checkpoint, codes, np.float32, blocked, done)
        self.found, self.layer_inputs, self.tensors = integers.codes, integers.inputs, integers.tensors
        self.norms: dict[str, tuple[str, ir.Value, float, float]] = {}  # what each norm's output was made of

    def tensor(self, name: str, transpose: bool = False, dtype: type | None = None, offset: float = 0.0) -> ir.Value:
        if name not in self.tensors:
            return super().tensor(name, transpose, dtype, offset)
        return self.weight(name, self.tensors[name].shape, np.float32, lambda: [self.tensors[name] + np.float32(offset)])

    def layer_norm(self, name: str, x: ir.Value, eps: float, bias: bool = True) -> ir.Value:
        found = super().layer_norm(name, x, eps, bias)
        self.norms[found.name] = ("layer_norm", x, eps, 0.0)
        return found

    def rms_norm(self, name: str, x: ir.Value, eps: float, offset: float = 0.0, full: bool = False) -> ir.Value:
        found = super().rms_norm(name, x, eps, offset, full)
        self.norms[found.name] = ("rms_norm", x, eps, offset)
        return found

    def linear(self, name: str, x: ir.Value, bias: bool = True) -> ir.Value:
        entry = self.layer_inputs.get(name)
        if entry is None or entry.activation.mode == "none":
            return super().linear(name, x, bias)
        if entry.activation.mode == "block":
            product = packed.multiply(self, name, self.found[name].scheme, self._smoothed(entry, x), packed.ROUNDED)
            product = self._biased(product, self.tensor(f"{name}.bias")) if f"{name}.bias" in self.tensors or bias else product
            self.sizes[product.name] = self.checkpoint.tensors[f"{name}.weight"].shape[:1]
            return product
        rows, columns = self.checkpoint.tensors[f"{name}.weight"].shape
        shift = self.tensor(f"{name}.bias") if f"{name}.bias" in self.tensors or bias else None
        weight = self.weight(f"{name}.weight_quant", (columns, rows), np.int8, lambda: self._signed(name))
        scales = self.weight(f"{name}.weight_scales", (rows,), np.float32, lambda: [self.found[name].scales[:, 0]])
        smooth = self._smoothed(entry, x)
        codes, scale = self._rounded(entry, smooth, columns)
        if scale is None:
            product = self._product(codes, (weight, scales), shift, name)
        else:
            product = self.node("Mul", self._product(codes, (weight, scales), None, name), scale)
            product = self.node("Reshape", product, self._rank3(rows))
            product = product if shift is None else self._biased(product, shift)
        if entry.activation.apart:
            product = self.node("Add", product, self._beside(name, entry, smooth))
        self.sizes[product.name] = (rows,)
        return product

    def _beside(self, name: str, entry: Input, x: ir.Value) -> ir.Value:
        """The product of the channels that are apart, in float32; their columns are 0 among the codes."""
        key = ("apart", entry.site)
        if key not in self.made:
            self.made[key] = self.node("Gather", x, self.constant(entry.activation.apart), axis=-1)
        columns = self.tensors[f"{name}.beside"].T
        weight = self.weight(f"{name}.weight_beside", columns.shape, np.float16, lambda: [columns.astype(np.float16)])
        return self.node("MatMul", self.made[key], self.cast(weight, np.float32))

    def _signed(self, name: str) -> Iterator[np.ndarray]:
        yield (self.found[name].codes.T.astype(np.int16) - ZERO).astype(np.int8)
        self.done()

    def _product(
        self, x: tuple[ir.Value, ...], weight: tuple[ir.Value, ir.Value], shift: ir.Value | None = None, name: str = ""
    ) -> ir.Value:
        """x: its codes, scale and zero point; weight: its codes and scales."""
        (codes, scale, zero), (stored, scales) = x, weight
        return self.node("MatMulIntegerToFloat", codes, stored, scale, scales, zero, None, shift, domain=CONTRIB, name=name)

    def _rounded(self, entry: Input, x: ir.Value, columns: int) -> tuple[tuple[ir.Value, ...], ir.Value | None]:
        """(codes, scale, zero) of the smoothed input, and the scale of each token where it has its own.

        With those, codes are (tokens, columns), the scales (tokens, 1); made once for all layers of a site.
        """
        key = ("rounded", entry.site)
        if key not in self.made:
            self.made[key] = self._round(entry, x, columns)
        return self.made[key]

    def _smoothed(self, entry: Input, x: ir.Value) -> ir.Value:
        """The input less its shift and divided by its scale, which the norm before it does: a second one, for this site."""
        name, key = f"{entry.site}.norm", ("smoothed", entry.site)
        if f"{name}.weight" not in self.tensors:
            return x  # as it was, or scaled by the layer before
        if key not in self.made:
            kind, before, eps, offset = self.norms[x.name]
            if kind == "layer_norm":
                self.made[key] = super().layer_norm(name, before, eps, f"{name}.bias" in self.tensors)
            else:
                self.made[key] = super().rms_norm(name, before, eps, offset)
        return self.made[key]

    def _round(self, entry: Input, x: ir.Value, columns: int) -> tuple[tuple[ir.Value, ...], ir.Value | None]:
        zero = self.constant(entry.activation.zero, np.uint8)
        if entry.activation.mode == "tensor":
            scale = self.constant(entry.activation.scale, np.float32)
            return (self.node("QuantizeLinear", x, scale, zero), scale, zero), None
        flat = self.node("Reshape", x, self.constant([-1, columns]))
        one, axis = self.constant(1, np.float32), self.constant([-1])
        ends = [self.node(kind, flat, axis, keepdims=1) for kind in ("ReduceMax", "ReduceMin")]
        parts = (1 / (TOP - entry.activation.zero), -1 / entry.activation.zero)
        scales = [self.node("Mul", end, self.constant(part, np.float32)) for end, part in zip(ends, parts, strict=True)]
        scale = self.node("Max", *scales, self.constant(LEAST, np.float32))
        row = self.node("Squeeze", scale, self.constant([1]))
        points = self.node("Expand", zero, self.node("Shape", row))
        return (self.node("QuantizeLinear", flat, row, points, axis=0), one, zero), scale

    def _rank3(self, width: int) -> ir.Value:
        """The shape (n, length, width) of what layers give."""
        key = ("shape", width)
        if key not in self.made:
            self.made[key] = self.node("Concat", self.node("Shape", self.input("input_ids")), self.constant([width]), axis=0)
        return self.made[key]
