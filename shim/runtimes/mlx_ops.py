"""shim.architectures.Ops that compute with MLX."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import TYPE_CHECKING

from shim.runtimes.mlx_steps import Steps
from shim.text import Tokens

if TYPE_CHECKING:  # MLX is imported where it is there
    from mlx.core import Dtype
    from mlx.core import array as Array

Packed = tuple[tuple["Array", ...], dict[str, int]]  # weight, scales, biases; their bits and group size
BLOCK = 512  # queries that attend at once, or tokens that are multiplied with the vocabulary


class MlxOps:
    """shim.architectures.Ops for one batch."""

    def __init__(
        self,
        mx: ModuleType,
        weights: dict[str, Array],
        packed: Callable[[str], Packed | None],
        joined: Callable[[tuple[str, ...]], tuple[str | None, list[int]]],
        tokens: Tokens,
        past: Array | None = None,
        pause: Callable[[], object] | None = None,
    ):
        """packed: for the name of a quantized module, else None. joined: see MlxRuntime.

        past, pause: see shim.runtimes.Runtime.
        """
        self.mx, self.weights, self.packed, self.joined, self.tokens = mx, weights, packed, joined, tokens
        self.steps = Steps(mx, pause)
        self.mask = self.mx.array(tokens.attention_mask.astype(bool))
        self.past, self.before = past, 0 if past is None else past.shape[1]
        self.present: list[Array] = []  # of each causal layer in turn, its keys and values, (n, groups, length, d)

    def input_ids(self) -> Array:
        return self.mx.array(self.tokens.input_ids)

    def token_type_ids(self) -> Array:
        return self.mx.array(self.tokens.token_type_ids)

    def positions(self, first: int = 0) -> Array:
        return self.mx.arange(first, first + self.mask.shape[1])[None]

    def positions_after(self, padding: int) -> Array:
        counted = (self.input_ids() != padding).astype(self.mx.int32)
        return self.mx.cumsum(counted, axis=1) * counted + padding

    def index(self, value: int) -> Array:
        return self.mx.array(value)

    def relative(self, values: tuple[int, ...]) -> Array:
        reach, places = len(values) // 2, self.mx.arange(self.mask.shape[1])
        return self.mx.array(values)[self.mx.clip(places - places[:, None], -reach, reach) + reach]

    def embedding(self, name: str, ids: Array) -> Array:
        packed = self.packed(name)
        if packed is None:
            return self.weights[f"{name}.weight"][ids]
        return self.mx.dequantize(*(part[ids] for part in packed[0]), **packed[1])

    def linear(self, name: str, x: Array, bias: bool = True) -> Array:
        packed = self.packed(name)
        if packed is None:
            product = x @ self.weights[f"{name}.weight"].T
        else:
            product = self.mx.quantized_matmul(x, *packed[0], **packed[1])
        self.steps.after(x.size * product.shape[-1], product)
        return product + self.weights[f"{name}.bias"] if bias else product

    def linears(self, names: Sequence[str], x: Array, bias: bool = True) -> list[Array]:
        joint, ends = self.joined(tuple(names))
        if joint is None:
            return [self.linear(name, x, bias) for name in names]
        return self.mx.split(self.linear(joint, x, bias), ends, axis=-1)

    def adapted(self, name: str, x: Array, y: Array, scale: float, table: bool = False) -> Array:
        if self.tokens.adapters is None:
            return y
        chosen = self.mx.array(self.tokens.adapters)
        down, up = (self.weights[f"{name}.lora_{part}"] for part in "AB")
        number = self.mx.maximum(chosen, 0)
        inner = down[number[:, None], x] if table else x @ down[number]
        return y + inner @ up[number] * self.mx.where(chosen >= 0, scale, 0.0).astype(y.dtype)[:, None, None]

    def vocabulary(self, name: str, x: Array, sums: bool = False, twice: bool = False) -> Array:
        mx = self.mx
        found, block = mx.zeros((len(x), 1)), max(1, BLOCK // len(x))

        def logged(logits: Array) -> Array:
            return mx.log1p(mx.log1p(logits)) if twice else mx.log1p(logits)

        for start in range(0, x.shape[1], block):
            part = slice(start, start + block)
            logits = mx.maximum(self.linear(name, x[:, part]), 0) * self.mask[:, part, None]
            greatest = None if sums else self.full(logits.max(axis=1))
            found = found + logged(self.full(logits)).sum(axis=1) if sums else mx.maximum(found, greatest)
        return found if sums else logged(found)

    def head(self, name: str, x: Array, bias: bool = True) -> Array:
        return self.linear(name, self.full(x), bias)  # the runtime holds the weights of heads in float32

    def full(self, x: Array) -> Array:
        return x.astype(self.mx.float32)

    def narrow(self, x: Array) -> Array:
        return x.astype(self._narrowest)

    @functools.cached_property
    def _narrowest(self) -> Dtype:
        half = any(weight.dtype == self.mx.float16 for weight in self.weights.values())
        return self.mx.float16 if half else self.mx.float32

    def layer_norm(self, name: str, x: Array, eps: float, bias: bool = True) -> Array:
        weight, shift = self.weights[f"{name}.weight"], self.weights[f"{name}.bias"] if bias else None
        return self.mx.fast.layer_norm(x, weight, shift, eps).astype(weight.dtype)

    def rms_norm(self, name: str, x: Array, eps: float, offset: float = 0.0, full: bool = False) -> Array:
        weight = self.weights[f"{name}.weight"]
        scale = self.full(weight) + offset if offset else weight
        normed = self.mx.fast.rms_norm(self.full(x) if full else x, scale, eps)
        return self.full(normed) if full else normed.astype(weight.dtype)

    def gelu(self, x: Array) -> Array:
        return self.steps.by_rows(_gelu(self.mx), x)

    def gelu_tanh(self, x: Array) -> Array:
        return _gelu_tanh(self.mx)(x)

    def silu(self, x: Array) -> Array:
        return self.steps.by_rows(lambda part: part * self.mx.sigmoid(part), x)

    def tanh(self, x: Array) -> Array:
        return self.mx.tanh(x)

    def relu(self, x: Array) -> Array:
        return self.mx.maximum(x, 0)

    def add(self, x: Array, y: Array) -> Array:
        return x + y

    def subtract(self, x: Array, y: Array) -> Array:
        return x - y

    def multiply(self, x: Array, y: Array) -> Array:
        return x * y

    def scale(self, x: Array, factor: float) -> Array:
        return x * factor

    def split(self, x: Array, parts: int) -> Sequence[Array]:
        return self.mx.split(x, parts, axis=-1)

    def column(self, x: Array, index: int) -> Array:
        return x[..., index]

    def split_heads(self, x: Array, heads: int) -> Array:
        return x.reshape(*x.shape[:2], heads, -1).transpose(0, 2, 1, 3)

    def rotate(self, x: Array, base: float, factors: tuple[float, ...] = ()) -> Array:
        size, rope = x.shape[-1], self.mx.fast.rope
        if not factors:
            return rope(x, size, traditional=False, base=base, scale=1.0, offset=self.before)
        inverse = self.mx.array([base ** (2 * pair / size) * factor for pair, factor in enumerate(factors)])
        return rope(x, size, traditional=False, base=None, scale=1.0, offset=self.before, freqs=inverse)

    def attention(
        self,
        query: Array,
        key: Array,
        value: Array,
        causal: bool = False,
        window: int | None = None,
        bias: Array | None = None,
    ) -> Array:
        n, heads, length, width = query.shape
        if causal:
            key, value = self._extended(key), self._extended(value)
        attend = self.mx.fast.scaled_dot_product_attention
        parts = []
        # In blocks of queries, so that on a CPU a long text's scores are not in memory all at once.
        block = self.steps.rows(n * heads * key.shape[2], BLOCK)
        for start in range(0, length, block):
            end = min(start + block, length)
            seen = slice(0, self.before + end if causal else length)
            mask, reached = self._mask(start, end) if causal else self.mask[:, None, None, :], None
            if window is not None:
                seen = slice(max(start - window, 0), end if causal else end + window)
                mask, reached = self._near(start, end, window, causal)
            if bias is not None:
                added = bias[start:end, seen].transpose(2, 0, 1).astype(query.dtype)
                mask = self.mx.where(mask, added, -self.mx.inf).astype(query.dtype)
            part = attend(query[:, :, start:end], key[:, :, seen], value[:, :, seen], scale=width**-0.5, mask=mask)
            parts.append(part if reached is None else part * reached)
            self.steps.after(2 * part.size * key.shape[2], *parts)
        attended = parts[0] if len(parts) == 1 else self.mx.concatenate(parts, axis=2)
        return attended.transpose(0, 2, 1, 3).reshape(n, length, heads * width)

    def _extended(self, part: Array) -> Array:
        """A layer's keys or values behind those of the past."""
        self.present.append(part)
        if self.past is None:
            return part
        n, groups, _, width = part.shape
        before = self.past[len(self.present) - 1].reshape(1, -1, groups, width).transpose(0, 2, 1, 3).astype(part.dtype)
        return self.mx.concatenate([self.mx.broadcast_to(before, (n, *before.shape[1:])), part], axis=2)

    def present_key_values(self) -> Array:
        """The output PRESENT of shim.runtimes."""
        return self.mx.stack([part[0].transpose(1, 0, 2).flatten(1) for part in self.present])

    def _mask(self, start: int, end: int) -> Array | str:
        """The causal mask of queries start..end over keys 0..end.

        With padding on the right no token has padding before it. On the left, padding must be masked, too, but not from
        itself: a row without any key would be NaN.
        """
        if self.tokens.attention_mask[:, 0].all():
            return "causal"
        mx = self.mx
        query, key = mx.arange(start, end)[:, None], mx.arange(end)[None]
        return (query >= key) & (self.mask[:, None, None, :end] | (query == key))

    def _near(self, start: int, end: int, window: int, causal: bool) -> tuple[Array, Array]:
        """(n, 1, queries, keys) the mask of queries start..end over keys up to `window` places away, with `causal` none of
        them behind the query; and (n, 1, queries, 1) whether a query has any: one that has none sees itself, and gives 0.
        """
        first = max(start - window, 0)
        seen = self.mask[:, None, None, first : end if causal else end + window]
        query, key = self.mx.arange(start, end)[:, None], self.mx.arange(first, first + seen.shape[3])[None]
        away = query - key
        near = (self.mx.abs(away) <= window) & (away >= (0 if causal else -window)) & seen
        reached = near.any(axis=-1, keepdims=True)
        return near | ((away == 0) & ~reached), reached

    def pool(self, hidden: Array, pooling: str) -> Array:
        mx = self.mx
        if pooling == "cls":
            return self.full(hidden[:, 0])
        mask = self.mask[..., None]
        if pooling == "max":
            return mx.where(mask, self.full(hidden), -mx.inf).max(axis=1)
        if pooling != "last":
            weights = mask * mx.arange(1, mask.shape[1] + 1)[:, None] if pooling == "weightedmean" else mask
            total, count = mx.where(mask, self.full(hidden) * weights, 0).sum(axis=1), weights.sum(axis=1)
            return total / (count**0.5 if pooling == "mean_sqrt_len_tokens" else count)
        last = mx.argmax(self.mask * mx.arange(1, self.mask.shape[1] + 1), axis=1)
        return self.full(hidden[mx.arange(hidden.shape[0]), last])

    def normalize(self, x: Array) -> Array:
        x = self.full(x)
        return x / self.mx.maximum(self.mx.linalg.norm(x, axis=-1, keepdims=True), 1e-12)


@functools.cache
def _gelu(mx: ModuleType) -> Callable[[Array], Array]:
    def gelu(x: Array) -> Array:
        return x * (1 + mx.erf(x / 2**0.5)) / 2

    # One kernel instead of five; on a CPU it needs the machine's compiler, and is slower.
    return gelu if mx.default_device() == mx.cpu else mx.compile(gelu, shapeless=True)


@functools.cache
def _gelu_tanh(mx: ModuleType) -> Callable[[Array], Array]:
    def gelu(x: Array) -> Array:
        return x * (1 + mx.tanh((2 / math.pi) ** 0.5 * (x + 0.044715 * x**3))) / 2

    return gelu if mx.default_device() == mx.cpu else mx.compile(gelu, shapeless=True)
