"""ModernBERT (Warner et al. 2024): pre-norm encoder, most layers of which attend within a window; rotary positions, GeGLU."""

from dataclasses import dataclass
from typing import Self

from shim.architectures import Array, MaskedHead, Ops, bert
from shim.errors import SourceError
from shim.jsons import Json, JsonObject, table
from shim.positions import FULL, SLIDING, layer_types

KEYS = ((r"^model\.", ""),)
DROPPED = (r"^decoder\.",)
# Of a reranker; a masked language model has it, too, and an embedder does not use it.
OPTIONAL = (r"^head\.",)
FULL_PRECISION = ()
TABLES = (r"^embeddings\.",)
ROWS = ()
# Only for these does this file compute what the checkpoint means; absent ones are these.
ONLY = {"hidden_activation": "gelu", "rope_scaling": None}
# Of each kind of layer, transformers 4's key of its rotary base, and the base where no key says it.
BASES = {FULL: ("global_rope_theta", 160_000.0), SLIDING: ("local_rope_theta", 10_000.0)}
POOLINGS = ("cls", "mean")  # of a reranker


@dataclass(frozen=True)
class Config:
    """The keys of a ModernBERT `config.json` that the encoder needs.

    local_attention: tokens of a window, the one in its middle included. full_rope_theta, sliding_rope_theta: the rotary bases.
    layer_types: FULL or SLIDING, for each layer. classifier_…: of a reranker.
    """

    vocab_size: int
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    intermediate_size: int
    local_attention: int
    full_rope_theta: float
    sliding_rope_theta: float
    norm_eps: float
    norm_bias: bool
    attention_bias: bool
    mlp_bias: bool
    layer_types: tuple[str, ...]
    classifier_pooling: str
    classifier_activation: str
    classifier_bias: bool

    @classmethod
    def read(cls, raw: JsonObject) -> Self:
        """From a parsed `config.json`. Raises SourceError for a missing key or a variant that this file does not compute."""
        bert.check_only(raw, ONLY)
        classifier: JsonObject = {"classifier_pooling": "cls", "classifier_activation": "gelu", "classifier_bias": False}
        bases = {f"{kind.split('_')[0]}_rope_theta": _base(raw, kind) for kind in BASES}
        config = bert.read_config(cls, classifier | raw | bases | {"layer_types": _layer_types(raw)})
        heads = config.num_attention_heads
        if config.hidden_size % (2 * heads):
            raise SourceError("config.json: hidden_size is not a multiple of twice num_attention_heads")
        bert.check_only(raw, {"head_dim": config.hidden_size // heads, "sliding_window": config.local_attention // 2})
        return config

    @property
    def max_tokens(self) -> None:
        """Rotary positions have no table that ends."""
        return


def _base(raw: JsonObject, kind: str) -> Json:
    rope = bert.plain_rope(table(table(raw, "rope_parameters"), kind))  # where transformers 5 puts it
    key, default = BASES[kind]
    return rope.get("rope_theta", raw.get(key, default))


def _layer_types(raw: JsonObject) -> tuple[str, ...]:
    """The kinds as listed, or as transformers 4 writes them: every so many layers attends to all, the first of all included."""
    every = raw.get("global_attn_every_n_layers", 3)
    if isinstance(every, bool) or not isinstance(every, int) or every < 1:
        raise SourceError(f"config.json: global_attn_every_n_layers must be a positive number, not {every!r}")
    return layer_types(raw, lambda index: index % every > 0)


def parameters(config: Config) -> dict[str, tuple[int, ...]]:
    """Name -> shape of every tensor that a checkpoint may have; a weight of two axes is a table or a matrix (out, in)."""
    width, inner = config.hidden_size, config.intermediate_size
    shapes: dict[str, tuple[int, ...]] = {"embeddings.tok_embeddings.weight": (config.vocab_size, width)}
    for index in range(config.num_hidden_layers):
        layer = f"layers.{index}"
        shapes |= {
            **bert.linear(f"{layer}.attn.Wqkv", (3 * width, width), config.attention_bias),
            **bert.linear(f"{layer}.attn.Wo", (width, width), config.attention_bias),
            **bert.linear(f"{layer}.mlp.Wi", (2 * inner, width), config.mlp_bias),
            **bert.linear(f"{layer}.mlp.Wo", (width, inner), config.mlp_bias),
        }
    norms = ["embeddings.norm", "final_norm", *(f"layers.{index}.mlp_norm" for index in range(config.num_hidden_layers))]
    norms += [f"layers.{index}.attn_norm" for index in range(1, config.num_hidden_layers)]
    for norm in norms:
        shapes |= bert.linear(norm, (width,), config.norm_bias)
    return shapes | _head(config)


def _head(config: Config) -> dict[str, tuple[int, ...]]:
    width = config.hidden_size
    dense = bert.linear("head.dense", (width, width), config.classifier_bias)
    return dense | bert.linear("head.norm", (width,), config.norm_bias)


def encode(ops: Ops[Array], config: Config) -> Array:
    """Hidden states (n, length, hidden_size) behind the last norm."""

    def norm(name: str, x: Array) -> Array:
        return ops.layer_norm(name, x, config.norm_eps, config.norm_bias)

    first = norm("embeddings.norm", ops.embedding("embeddings.tok_embeddings", ops.input_ids()))
    x = ops.full(first)  # the stream of additions is float32, as in qwen3.py
    for index in range(config.num_hidden_layers):
        layer = f"layers.{index}"
        normed = norm(f"{layer}.attn_norm", x) if index else first  # the first layer has no norm of its own
        x = ops.add(x, _attention(ops, config, index, normed))
        wide = ops.linear(f"{layer}.mlp.Wi", norm(f"{layer}.mlp_norm", x), config.mlp_bias)
        up, gate = ops.split(wide, 2)
        inner = ops.multiply(ops.gelu(up), gate)
        x = ops.add(x, ops.linear(f"{layer}.mlp.Wo", inner, config.mlp_bias))
    return norm("final_norm", x)


def _attention(ops: Ops[Array], config: Config, index: int, x: Array) -> Array:
    name, heads = f"layers.{index}.attn", config.num_attention_heads
    slides = config.layer_types[index] == SLIDING
    base = config.sliding_rope_theta if slides else config.full_rope_theta
    parts = ops.split(ops.linear(f"{name}.Wqkv", x, config.attention_bias), 3)
    query, key, value = (ops.split_heads(part, heads) for part in parts)
    query, key = (ops.rotate(part, base) for part in (query, key))
    attended = ops.attention(query, key, value, window=config.local_attention // 2 if slides else None)
    return ops.linear(f"{name}.Wo", attended, config.attention_bias)


def masked_head(config: Config) -> MaskedHead:
    """The head of its masked language model. Raises SourceError for one of another kind."""
    _check_activation(config)
    names = "head.dense", "head.norm", "decoder"
    table = "embeddings.tok_embeddings"
    return MaskedHead(*names, "", config.norm_eps, table, config.classifier_bias, config.norm_bias)


def _check_activation(config: Config) -> None:
    bert.check_only({"classifier_activation": config.classifier_activation}, {"classifier_activation": "gelu"})


def scoring(config: Config) -> dict[str, tuple[int, ...]]:
    """The tensors of a cross-encoder: of its head, and the one row behind it. Raises SourceError for one of another kind."""
    _check_activation(config)
    if config.classifier_pooling not in POOLINGS:
        known = " or ".join(POOLINGS)
        raise SourceError(f"config.json: classifier_pooling {config.classifier_pooling!r} is not supported (only {known})")
    return _head(config) | bert.with_bias("classifier", (1, config.hidden_size))


def score(ops: Ops[Array], config: Config) -> Array:
    """(n, 1) relevance logits of pairs: the first token, or the mean of all; a dense layer, GELU and norm; then one row."""
    pooled = ops.pool(encode(ops, config), config.classifier_pooling)
    dense = ops.gelu(ops.head("head.dense", pooled, config.classifier_bias))
    return ops.head("classifier", ops.layer_norm("head.norm", dense, config.norm_eps, config.norm_bias))
