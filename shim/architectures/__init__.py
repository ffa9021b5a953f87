"""One file per architecture, named after its `model_type`, written once in the operations below.

A runtime (shim/runtimes/mlx.py) computes with them, a graph writer (converter/targets/onnx/ops.py) records them; so both
targets follow the same definition, and the parity report holds that definition to the upstream library.
"""

import importlib
import importlib.util
import pkgutil
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, Self, TypeVar, cast

from shim.errors import UsageError
from shim.jsons import JsonObject

Array = TypeVar("Array")  # the implementation's own


class Ops(Protocol[Array]):
    """The operations of an encoder. Arrays are the implementation's own; hidden states are (n, length, width).

    `name` is a module's name in the checkpoint (`encoder.layer.0.output.dense`); its tensors are `name.weight` and `name.bias`.
    """

    def input_ids(self) -> Array:
        """(n, length) token ids."""

    def token_type_ids(self) -> Array:
        """(n, length) segment ids."""

    def positions(self, first: int = 0) -> Array:
        """(1, length) first, first + 1, first + 2, …"""

    def positions_after(self, padding: int) -> Array:
        """(n, length) padding + 1, padding + 2, … over the tokens that are not the id `padding`; those have `padding`.

        Source: transformers' create_position_ids_from_input_ids.
        """

    def index(self, value: int) -> Array:
        """A single id, for a table of which every token takes the same row."""

    def relative(self, values: tuple[int, ...]) -> Array:
        """(length, length) of each query and key: values[d + reach] for a key d places behind its query.

        There are 2 * reach + 1 values; a key that is farther away has that of the reach.
        """

    def embedding(self, name: str, ids: Array) -> Array:
        """Rows of the table `name` for integer ids of any shape; appends the table's width."""

    def linear(self, name: str, x: Array, bias: bool = True) -> Array:
        """x @ weight.T + bias."""

    def linears(self, names: Sequence[str], x: Array, bias: bool = True) -> Sequence[Array]:
        """`linear` of each of the layers, which share their input."""

    def adapted(self, name: str, x: Array, y: Array, scale: float, table: bool = False) -> Array:
        """y + scale * (x @ lora_A[t] @ lora_B[t]) of each text, t its number in `Tokens.adapters`; y itself where that is -1.

        y is what the module `name` gives for x. lora_A: (tasks, in, rank); lora_B: (tasks, rank, out). table: x holds ids of
        any shape that goes with (n, length), and in place of the product with lora_A[t] stand its rows of these ids.
        Source: Hu et al. 2021, LoRA.
        """

    def vocabulary(self, name: str, x: Array, sums: bool = False, twice: bool = False) -> Array:
        """(n, out) float32: over the tokens that are not padding, the greatest log1p(relu(x @ weight.T + bias)), or their sum.

        twice: log1p of log1p. The products are made for a block of tokens at a time: those of all are too many to hold.
        """

    def head(self, name: str, x: Array, bias: bool = True) -> Array:
        """`linear` in float32, whatever the layers compute in: what a head gives is an output itself, so it stays exact."""

    def full(self, x: Array) -> Array:
        """x in float32. A sum with it is float32, too: for a stream of additions that outgrows float16."""

    def narrow(self, x: Array) -> Array:
        """x in the dtype of the weights, which may be float16: what `full` has made of a stream, for layers without a norm."""

    def layer_norm(self, name: str, x: Array, eps: float, bias: bool = True) -> Array:
        """Normalise over the last axis, then scale, and with `bias` shift; in the dtype of the weights."""

    def rms_norm(self, name: str, x: Array, eps: float, offset: float = 0.0, full: bool = False) -> Array:
        """x / sqrt(mean of x² over the last axis + eps) in float32, times weight + offset.

        In the dtype of the weights, or with `full` in float32, as `full` is.
        """

    def gelu(self, x: Array) -> Array:
        """The exact (erf) GELU."""

    def gelu_tanh(self, x: Array) -> Array:
        """Its approximation 0.5 x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x³))). Source: Hendrycks and Gimpel 2016."""

    def silu(self, x: Array) -> Array:
        """x * sigmoid(x)."""

    def tanh(self, x: Array) -> Array:
        """Hyperbolic tangent."""

    def relu(self, x: Array) -> Array:
        """max(x, 0)."""

    def add(self, x: Array, y: Array) -> Array:
        """x + y with broadcasting; float32 where one of them is."""

    def subtract(self, x: Array, y: Array) -> Array:
        """x - y."""

    def multiply(self, x: Array, y: Array) -> Array:
        """x * y."""

    def scale(self, x: Array, factor: float) -> Array:
        """x * factor, in x's dtype."""

    def split(self, x: Array, parts: int) -> Sequence[Array]:
        """Equal parts of the last axis."""

    def column(self, x: Array, index: int) -> Array:
        """x[..., index]."""

    def split_heads(self, x: Array, heads: int) -> Array:
        """(n, length, heads * d) as (n, heads, length, d)."""

    def rotate(self, x: Array, base: float, factors: tuple[float, ...] = ()) -> Array:
        """Rotary positions on (n, heads, length, d): pairs are (i, i + d / 2), the angle is position * base ** (-2 i / d),
        divided by factors[i] where there are factors.

        Source: Su et al. 2021, RoFormer.
        """

    def attention(
        self,
        query: Array,
        key: Array,
        value: Array,
        causal: bool = False,
        window: int | None = None,
        bias: Array | None = None,
    ) -> Array:
        """softmax(q k^T / sqrt(d) + bias) v for each head, heads joined again: (n, length, heads * d).

        query: (n, heads, length, d). key, value: (n, groups, length, d), each for heads / groups query heads.
        bias: (length, length, heads), of each query and key; not together with `causal`.
        Padding keys are masked, wherever the padding is; with `causal` the keys behind a query, too, and with `window` those
        that are more than so many places before or behind it.
        """

    def pool(self, hidden: Array, pooling: str) -> Array:
        """(n, width) float32 over the tokens that are not padding, by a name of shim.pooling.POOLINGS.

        `cls` the first, `last` the last, `max` the greatest of each dimension, `mean` their mean, `mean_sqrt_len_tokens` their
        sum over the root of their number, `weightedmean` their mean weighted by place: 1, 2, 3, …
        """

    def normalize(self, x: Array) -> Array:
        """x / its L2 norm over the last axis, in float32."""


@dataclass(frozen=True)
class MaskedHead:
    """The head of a masked language model: a dense layer, GELU, a norm, and the decoder, a row of which is a word.

    dense, norm, decoder: their names in the checkpoint; bias: where the decoder's is, unless it is with the decoder. table: of
    words, to which the decoder may be tied, by its final name.
    """

    dense: str
    norm: str
    decoder: str
    bias: str
    eps: float
    table: str = "embeddings.word_embeddings"
    dense_bias: bool = True
    norm_bias: bool = True


class Configuration(Protocol):
    """What an architecture needs of a `config.json`. max_tokens: how many have a position, None for any number."""

    @property
    def vocab_size(self) -> int: ...

    @classmethod
    def read(cls, raw: JsonObject) -> Self:
        """From the parsed file. Raises SourceError for a missing key or a variant that the architecture does not compute."""

    @property
    def hidden_size(self) -> int: ...

    @property
    def max_tokens(self) -> int | None: ...


class Architecture(Protocol):
    """What a file of this folder has. Patterns are regular expressions, searched in the names of tensors.

    Config: what it needs of a `config.json`. KEYS: (pattern,
    replacement), applied in this order to the checkpoint's names. DROPPED: patterns of tensors that are not used. OPTIONAL: of
    those that are carried along for other loaders. FULL_PRECISION: of those that are never quantized. TABLES: of those whose
    rows are looked up. ROWS: the words whose rows of the language model's head score a
    pair; TABLE: the table that this head may be tied to.
    """

    Config: type[Configuration]
    KEYS: tuple[tuple[str, str], ...]
    DROPPED: tuple[str, ...]
    OPTIONAL: tuple[str, ...]
    FULL_PRECISION: tuple[str, ...]
    TABLES: tuple[str, ...]
    ROWS: tuple[str, ...]
    TABLE: str

    def parameters(self, config: Configuration) -> dict[str, tuple[int, ...]]:
        """{name: shape} of the encoder's tensors."""

    def encode(self, ops: Ops[Array], config: Configuration) -> Array:
        """Hidden states (n, length, hidden_size) of the last layer."""

    def scoring(self, config: Configuration) -> dict[str, tuple[int, ...]]:
        """{name: shape} of the tensors that a reranker has besides; absent where the architecture cannot score."""

    def score(self, ops: Ops[Array], config: Configuration) -> Array:
        """(n, 1) logits; absent where the architecture cannot score."""

    def masked_head(self, config: Configuration) -> MaskedHead:
        """The head of its masked language model; absent where the architecture has none here."""

    def classifies(self, raw: JsonObject) -> bool:
        """Whether a checkpoint with this `config.json` has a head of its own instead of ROWS; absent without ROWS."""

    def continues(self, config: Configuration) -> bool:
        """Whether keys and values of what rows begin with may stand for it; absent without ROWS."""


def architecture(name: str) -> Architecture:
    """The architecture `name`. Raises UsageError when there is none."""
    if not name.isidentifier() or importlib.util.find_spec(f"{__name__}.{name}") is None:
        raise UsageError(f"architecture {name!r} unknown ({', '.join(architectures())})")
    return cast(Architecture, importlib.import_module(f"{__name__}.{name}"))


def architectures() -> list[str]:
    """The names of all architectures."""
    return sorted(found.name for found in pkgutil.iter_modules(__path__))
