"""BERT (Devlin et al. 2019): post-norm encoder with learned absolute positions and segment embeddings."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Self, TypeVar, get_type_hints

from shim.architectures import Array, MaskedHead, Ops
from shim.errors import SourceError
from shim.jsons import JsonObject
from shim.positions import MAX_LAYERS

# Applied in order, once, at conversion: the names of the checkpoint to the names of BertModel.
KEYS = ((r"^bert\.", ""), (r"\.gamma$", ".weight"), (r"\.beta$", ".bias"))
# Tensors that an embedding does not use: a buffer, pre-training heads.
DROPPED = (r"^embeddings\.position_ids$", r"^cls\.")
# Carried along where the checkpoint has it, as mlx-embeddings wants it; an embedding does not use it.
OPTIONAL = (r"^pooler\.",)
# Two rows: not worth quantizing.
FULL_PRECISION = (r"\.token_type_embeddings\.",)
# Matrices whose rows are looked up, not multiplied.
TABLES = (r"^embeddings\.",)
ROWS = ()
# Only for these does this file compute what the checkpoint means; absent ones are these.
ONLY = {"hidden_act": "gelu", "position_embedding_type": "absolute", "is_decoder": False, "add_cross_attention": False}
MAX_VALUE = 1e9
Read = TypeVar("Read")


@dataclass(frozen=True)
class Config:
    """The keys of a BERT `config.json` that the encoder needs."""

    vocab_size: int
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    intermediate_size: int
    max_position_embeddings: int
    type_vocab_size: int
    layer_norm_eps: float

    @classmethod
    def read(cls, raw: JsonObject) -> Self:
        """From a parsed `config.json`. Raises SourceError for a missing key or a variant that this file does not compute."""
        check_only(raw, ONLY)
        config = read_config(cls, raw)
        if config.hidden_size % config.num_attention_heads:
            raise SourceError("config.json: hidden_size is not a multiple of num_attention_heads")
        return config

    @property
    def max_tokens(self) -> int:
        """How many tokens have a position."""
        return self.max_position_embeddings


def check_only(raw: Mapping[str, object], only: Mapping[str, object]) -> None:
    """Raise SourceError for a key of `config.json` that says something else than here; an absent one says this."""
    for key, known in only.items():
        if raw.get(key, known) != known:
            raise SourceError(f"config.json: {key} {raw[key]!r} is not supported (only {known!r})")


def plain_rope(rope: JsonObject) -> JsonObject:
    """What transformers 5 says of rotary positions, as it is. Raises SourceError unless they are not scaled."""
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind != "default":
        raise SourceError(f"config.json: rope_type {kind!r} is not supported (only 'default')")
    return rope


def read_config(cls: Callable[..., Read], raw: Mapping[str, object]) -> Read:
    """The fields of a Config class from the same keys of `config.json`.

    Raises SourceError unless those that are numbers are positive, and those that are true or false are one of these.
    """
    kinds = get_type_hints(cls)
    try:
        config = cls(**{name: raw[name] for name in kinds})
    except KeyError as error:
        raise SourceError(f"config.json: key {error} missing") from None
    for name, value in vars(config).items():
        if kinds[name] is bool and not isinstance(value, bool):
            raise SourceError(f"config.json: {name} must be true or false, not {value!r}")
        if kinds[name] not in (int, float):
            continue
        kind = int if kinds[name] is int else (int, float)
        if isinstance(value, bool) or not isinstance(value, kind) or not 0 < value < MAX_VALUE:
            raise SourceError(f"config.json: {name} must be a positive number, not {value!r}")
    for name in ("num_hidden_layers", "n_layer"):
        if getattr(config, name, 0) > MAX_LAYERS:
            raise SourceError(f"config.json: {name} {getattr(config, name)} is over {MAX_LAYERS}")
    return config


def parameters(config: Config) -> dict[str, tuple[int, ...]]:
    """Name -> shape of every tensor that a checkpoint may have; a weight of two axes is a table or a matrix (out, in)."""
    width, inner = config.hidden_size, config.intermediate_size
    shapes: dict[str, tuple[int, ...]] = {
        "embeddings.word_embeddings.weight": (config.vocab_size, width),
        "embeddings.position_embeddings.weight": (config.max_position_embeddings, width),
        "embeddings.token_type_embeddings.weight": (config.type_vocab_size, width),
        **with_bias("embeddings.LayerNorm", (width,)),
        **with_bias("pooler.dense", (width, width)),
    }
    for index in range(config.num_hidden_layers):
        layer = f"encoder.layer.{index}"
        for name in ("query", "key", "value"):
            shapes |= with_bias(f"{layer}.attention.self.{name}", (width, width))
        shapes |= with_bias(f"{layer}.attention.output.dense", (width, width))
        shapes |= with_bias(f"{layer}.attention.output.LayerNorm", (width,))
        shapes |= with_bias(f"{layer}.intermediate.dense", (inner, width))
        shapes |= with_bias(f"{layer}.output.dense", (width, inner))
        shapes |= with_bias(f"{layer}.output.LayerNorm", (width,))
    return shapes


def with_bias(name: str, shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": shape, f"{name}.bias": shape[:1]}


def linear(name: str, shape: tuple[int, ...], bias: bool) -> dict[str, tuple[int, ...]]:
    return with_bias(name, shape) if bias else {f"{name}.weight": shape}


def scoring(config: Config) -> dict[str, tuple[int, ...]]:
    """The tensors of a cross-encoder besides `parameters`, whose pooler it uses."""
    return with_bias("classifier", (1, config.hidden_size)) | with_bias("pooler.dense", (config.hidden_size,) * 2)


def score(ops: Ops[Array], config: Config) -> Array:
    """(n, 1) relevance logits of pairs: a dense layer and tanh over the first token, then one row."""
    return classify(ops, encode(ops, config))


def classify(ops: Ops[Array], hidden: Array) -> Array:
    """What the head makes of hidden states (n, length, hidden_size); GTE has the same."""
    return ops.head("classifier", ops.tanh(ops.head("pooler.dense", ops.pool(hidden, "cls"))))


def masked_head(config: Config) -> MaskedHead:
    """The head of its masked language model."""
    head = "cls.predictions"
    names = f"{head}.transform.dense", f"{head}.transform.LayerNorm", f"{head}.decoder"
    return MaskedHead(*names, f"{head}.bias", config.layer_norm_eps)


def encode(ops: Ops[Array], config: Config) -> Array:
    """Hidden states (n, length, hidden_size) of the last layer."""
    words = ops.embedding("embeddings.word_embeddings", ops.input_ids())
    places = ops.embedding("embeddings.position_embeddings", ops.positions())
    segments = ops.embedding("embeddings.token_type_embeddings", ops.token_type_ids())
    x = ops.layer_norm("embeddings.LayerNorm", ops.add(ops.add(words, segments), places), config.layer_norm_eps)
    return layers(ops, config, x)


def layers(ops: Ops[Array], config: Config, x: Array, bias: Array | None = None) -> Array:
    """The encoder's layers over embedded tokens; its siblings have the same. bias: of the attention of all layers."""
    for index in range(config.num_hidden_layers):
        layer = f"encoder.layer.{index}"
        parts = ops.linears([f"{layer}.attention.self.{name}" for name in ("query", "key", "value")], x)
        query, key, value = (ops.split_heads(part, config.num_attention_heads) for part in parts)
        attended = ops.attention(query, key, value, bias=bias)
        attended = ops.linear(f"{layer}.attention.output.dense", attended)
        x = ops.layer_norm(f"{layer}.attention.output.LayerNorm", ops.add(attended, x), config.layer_norm_eps)
        inner = ops.gelu(ops.linear(f"{layer}.intermediate.dense", x))
        inner = ops.linear(f"{layer}.output.dense", inner)
        x = ops.layer_norm(f"{layer}.output.LayerNorm", ops.add(inner, x), config.layer_norm_eps)
    return x
