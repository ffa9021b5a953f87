"""One file per architecture, named after its `model_type`, written once in the operations below.

A runtime (shim/runtimes/mlx.py) computes with them, a graph writer (converter/targets/onnx/ops.py) records them; so both
targets follow the same definition, and the parity report holds that definition to the upstream library.
"""

import importlib
import importlib.util
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

    def index(self, value: int) -> Any:
        """A single id, for a table of which every token takes the same row."""

    def embedding(self, name: str, ids: Any) -> Any:
        """Rows of the table `name` for integer ids of any shape; appends the table's width."""

    def linear(self, name: str, x: Any) -> Any:
        """x @ weight.T + bias."""

    def layer_norm(self, name: str, x: Any, eps: float) -> Any:
        """Normalise over the last axis, then scale and shift."""

    def gelu(self, x: Any) -> Any:
        """The exact (erf) GELU."""

    def add(self, x: Any, y: Any) -> Any:
        """x + y with broadcasting."""

    def attention(self, query: Any, key: Any, value: Any, heads: int) -> Any:
        """softmax(q k^T / sqrt(width / heads)) v for each head; padding keys are masked.

        Every input and the output are (n, length, width).
        """

    def pool(self, hidden: Any, pooling: str) -> Any:
        """(n, width) from the hidden states: `cls` the first token, `mean` over the tokens that are not padding."""

    def normalize(self, x: Any) -> Any:
        """x / its L2 norm over the last axis."""


def architecture(name: str) -> Any:
    """The module of the architecture `name`, with Config, KEYS, DROPPED, OPTIONAL, FULL_PRECISION, parameters and encode.

    Raises UsageError when there is none."""
    if not name.isidentifier() or importlib.util.find_spec(f"{__name__}.{name}") is None:
        raise UsageError(f"architecture {name!r} unknown; there is no shim/architectures/{name}.py")
    return importlib.import_module(f"{__name__}.{name}")
