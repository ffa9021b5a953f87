"""One file per architecture, named after its `model_type`, written once in the operations below.

A runtime (shim/runtimes/mlx.py) computes with them, a graph writer (converter/targets/onnx/ops.py) records them; so both
targets follow the same definition, and the parity report holds that definition to the upstream library.
"""

import importlib
import importlib.util
import pkgutil
from collections.abc import Sequence
from typing import Any, Protocol

from shim.errors import UsageError


class Ops(Protocol):
    """The operations of an encoder. Arrays are the implementation's own; hidden states are (n, length, width).

    `name` is a module's name in the checkpoint (`encoder.layer.0.output.dense`); its tensors are `name.weight` and `name.bias`.
    """

    def input_ids(self) -> Any:
        """(n, length) token ids."""

    def token_type_ids(self) -> Any:
        """(n, length) segment ids."""

    def positions(self, first: int = 0) -> Any:
        """(1, length) first, first + 1, first + 2, …"""

    def positions_after(self, padding: int) -> Any:
        """(n, length) padding + 1, padding + 2, … over the tokens that are not the id `padding`; those have `padding`.

        Source: transformers' create_position_ids_from_input_ids.
        """

    def index(self, value: int) -> Any:
        """A single id, for a table of which every token takes the same row."""

    def embedding(self, name: str, ids: Any) -> Any:
        """Rows of the table `name` for integer ids of any shape; appends the table's width."""

    def linear(self, name: str, x: Any, bias: bool = True) -> Any:
        """x @ weight.T + bias."""

    def linears(self, names: Sequence[str], x: Any, bias: bool = True) -> Any:
        """`linear` of each of the layers, which share their input: a sequence."""

    def head(self, name: str, x: Any, bias: bool = True) -> Any:
        """`linear` in float32, whatever the layers compute in: what a head gives is an output itself, so it stays exact."""

    def full(self, x: Any) -> Any:
        """x in float32. A sum with it is float32, too: for a stream of additions that outgrows float16."""

    def layer_norm(self, name: str, x: Any, eps: float) -> Any:
        """Normalise over the last axis, then scale and shift."""

    def rms_norm(self, name: str, x: Any, eps: float) -> Any:
        """x / sqrt(mean of x² over the last axis + eps) in float32, then scale, in the dtype of the weights."""

    def gelu(self, x: Any) -> Any:
        """The exact (erf) GELU."""

    def silu(self, x: Any) -> Any:
        """x * sigmoid(x)."""

    def tanh(self, x: Any) -> Any:
        """Hyperbolic tangent."""

    def relu(self, x: Any) -> Any:
        """max(x, 0)."""

    def add(self, x: Any, y: Any) -> Any:
        """x + y with broadcasting; float32 where one of them is."""

    def subtract(self, x: Any, y: Any) -> Any:
        """x - y."""

    def multiply(self, x: Any, y: Any) -> Any:
        """x * y."""

    def split(self, x: Any, parts: int) -> Any:
        """Equal parts of the last axis, as a sequence."""

    def column(self, x: Any, index: int) -> Any:
        """x[..., index]."""

    def split_heads(self, x: Any, heads: int) -> Any:
        """(n, length, heads * d) as (n, heads, length, d)."""

    def rotate(self, x: Any, base: float) -> Any:
        """Rotary positions on (n, heads, length, d): pairs are (i, i + d / 2), the angle is position * base ** (-2 i / d).

        Source: Su et al. 2021, RoFormer.
        """

    def attention(self, query: Any, key: Any, value: Any, causal: bool = False) -> Any:
        """softmax(q k^T / sqrt(d)) v for each head, heads joined again: (n, length, heads * d).

        query: (n, heads, length, d). key, value: (n, groups, length, d), each for heads / groups query heads.
        Padding keys are masked, wherever the padding is; with `causal` the keys behind a query, too.
        """

    def pool(self, hidden: Any, pooling: str) -> Any:
        """(n, width) float32 over the tokens that are not padding, by a name of shim.pooling.POOLINGS.

        `cls` the first, `last` the last, `max` the greatest of each dimension, `mean` their mean, `mean_sqrt_len_tokens` their
        sum over the root of their number, `weightedmean` their mean weighted by place: 1, 2, 3, …
        """

    def normalize(self, x: Any) -> Any:
        """x / its L2 norm over the last axis, in float32."""


def architecture(name: str) -> Any:
    """The module of the architecture `name`.

    It has Config; the tables KEYS, DROPPED, OPTIONAL, FULL_PRECISION and ROWS; `parameters(config)`, `encode(ops, config)`;
    and where it can score, `scoring(config)`, the tensors that a reranker has besides, and `score(ops, config)`; with ROWS
    `classifies(raw)`, too. Raises UsageError when there is none.
    """
    if not name.isidentifier() or importlib.util.find_spec(f"{__name__}.{name}") is None:
        raise UsageError(f"architecture {name!r} unknown ({', '.join(architectures())})")
    return importlib.import_module(f"{__name__}.{name}")


def architectures() -> list[str]:
    """The names of all architectures."""
    return sorted(found.name for found in pkgutil.iter_modules(__path__))
