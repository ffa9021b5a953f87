"""Llama (Touvron et al. 2023): pre-norm decoder with rotary positions; by flags also the decoders that are much like it."""

from dataclasses import dataclass
from typing import Self

from shim.architectures import Array, Ops, bert
from shim.errors import SourceError
from shim.jsons import Json, JsonObject, array
from shim.positions import Rope, layers, rope

# What its siblings have, too; Config and ROWS are their own.
__all__ = [
    "DROPPED",
    "FULL_PRECISION",
    "KEYS",
    "OPTIONAL",
    "TABLE",
    "TABLES",
    "classifies",
    "continues",
    "encode",
    "parameters",
    "score",
    "scoring",
]
# The embedding models' keys lack the prefix that mlx-lm and the rerankers have.
KEYS = ((r"^(?!model\.|lm_head\.|score\.)", "model."),)
# An embedding predicts no tokens; the two rows that a reranker needs are read as `score.weight`. The other is a buffer.
DROPPED = (r"^lm_head\.", r"\.rotary_emb\.inv_freq$")
OPTIONAL = ()
FULL_PRECISION = ()
TABLES = (r"^model\.embed_tokens\.",)
# A reranker answers with one of these words: the rows of the head that score it, or of the table that the head is tied to.
ROWS = ("no", "yes")
TABLE = "model.embed_tokens.weight"
# Only for these does this file compute what the checkpoint means; absent ones are these.
ONLY = {"hidden_act": "silu", "use_bidirectional_attention": False, "partial_rotary_factor": 1.0}
# What goes into a layer with a norm behind it is multiplied by this, and the norm takes it out again: so float16 holds what
# the layer gives. A power of two, with which float32 loses nothing.
SMALL = 2.0**-6
# Keys of every decoder's config.json; the next is what sets Llama apart from its siblings.
NUMBERS = (
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "intermediate_size",
    "rms_norm_eps",
)
LLAMA = {
    "mlp_bias": False,
    "query_scale": 1.0,
    "embedding_scale": 1.0,
    "norms": ("input_layernorm", "", "post_attention_layernorm", ""),
    "norms_from_one": False,
    "head_norms": "",
    "activation": "silu",
}


@dataclass(frozen=True)
class Config:
    """What a decoder needs of its `config.json`, and the flags of its family.

    windows: for each layer, how many places before and behind it a token attends to; None for all. ropes: for each layer.
    query_scale, embedding_scale: what queries, beside 1 / sqrt(head_dim), and embedded tokens are multiplied by.
    norms: the names of those before and behind attention, then before and behind the gated layers; "" for none.
    norms_from_one: whether 1 is added to the weights of all norms. head_norms: of queries and keys, `each` head by itself or
    `all` together; "" for none. activation: of the gate, `silu` or `gelu_tanh`.
    final_norm: false where hidden states are those before the last layer. answers: rows of a reranker's head: "no" and "yes",
    or a classifier's single label.
    """

    vocab_size: int
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    intermediate_size: int
    rms_norm_eps: float
    is_causal: bool
    qkv_bias: bool
    output_bias: bool
    mlp_bias: bool
    final_norm: bool
    answers: int
    windows: tuple[int | None, ...]
    ropes: tuple[Rope, ...]
    query_scale: float
    embedding_scale: float
    norms: tuple[str, str, str, str]
    norms_from_one: bool
    head_norms: str
    activation: str

    @classmethod
    def read(cls, raw: JsonObject) -> Self:
        """From a parsed `config.json`. Raises SourceError for a missing key or a variant that this file does not compute."""
        bert.check_only(raw, ONLY)
        return cls.of(raw, mlp_bias=raw.get("mlp_bias", False))

    @classmethod
    def of(cls, raw: JsonObject, **flags: object) -> Self:
        """The same of a family with these flags in place of Llama's. Raises SourceError as `read` does."""
        heads, bias = raw.get("num_attention_heads"), raw.get("attention_bias", False)
        values: dict[str, object] = {"num_key_value_heads": heads, "head_dim": _part(raw.get("hidden_size"), heads)}
        values |= {name: raw[name] for name in NUMBERS if raw.get(name) is not None}
        values |= LLAMA | {"qkv_bias": bias, "output_bias": bias, "answers": 1 if classifies(raw) else len(ROWS)}
        values |= {name: raw.get(name, True) for name in ("is_causal", "final_norm")}
        if "ropes" not in flags:
            flags |= {"windows": (None,) * layers(raw), "ropes": (rope(raw),) * layers(raw)}
        config = bert.read_config(cls, values | flags)
        if config.num_attention_heads % config.num_key_value_heads or config.head_dim % 2:
            raise SourceError("config.json: num_attention_heads must be a multiple of num_key_value_heads, head_dim even")
        return config

    @property
    def max_tokens(self) -> None:
        """Rotary positions have no table that ends."""
        return


def _part(whole: Json, parts: Json) -> int | None:
    return whole // parts if isinstance(whole, int) and isinstance(parts, int) and parts > 0 else None


def classifies(raw: JsonObject) -> bool:
    """Whether `config.json` is that of a classifier, which scores by a head of its own and not by the words of ROWS."""
    return any(str(name).endswith("ForSequenceClassification") for name in array(raw, "architectures"))


def continues(config: Config) -> bool:
    """Whether keys and values of what rows begin with may stand for it: each token sees all before it and none behind."""
    return config.is_causal and not any(window is not None for window in config.windows)


def parameters(config: Config) -> dict[str, tuple[int, ...]]:
    """Name -> shape of every tensor that a checkpoint has; a weight of two axes is a table or a matrix (out, in)."""
    width, inner, size = config.hidden_size, config.intermediate_size, config.head_dim
    queries, keys = config.num_attention_heads * size, config.num_key_value_heads * size
    shapes: dict[str, tuple[int, ...]] = {TABLE: (config.vocab_size, width)}
    for index in range(config.num_hidden_layers):
        layer = f"model.layers.{index}"
        for name, rows in (("q_proj", queries), ("k_proj", keys), ("v_proj", keys)):
            shapes |= bert.linear(f"{layer}.self_attn.{name}", (rows, width), config.qkv_bias)
        shapes |= bert.linear(f"{layer}.self_attn.o_proj", (width, queries), config.output_bias)
        for name, shape in (("gate_proj", (inner, width)), ("up_proj", (inner, width)), ("down_proj", (width, inner))):
            shapes |= bert.linear(f"{layer}.mlp.{name}", shape, config.mlp_bias)
        shapes |= {f"{layer}.{name}.weight": (width,) for name in config.norms if name}
        for name, whole in (("q_norm", queries), ("k_norm", keys)) if config.head_norms else ():
            shapes[f"{layer}.self_attn.{name}.weight"] = (whole if config.head_norms == "all" else size,)
    return shapes | ({"model.norm.weight": (width,)} if config.final_norm else {})


def encode(ops: Ops[Array], config: Config) -> Array:
    """Hidden states (n, length, hidden_size) behind the last norm, where there is one."""
    return _final(ops, config, _layers(ops, config))


def scoring(config: Config) -> dict[str, tuple[int, ...]]:
    """The tensors of a reranker besides `parameters`: the head's rows for "no" and "yes", or that of its label."""
    return {"score.weight": (config.answers, config.hidden_size)}


def score(ops: Ops[Array], config: Config) -> Array:
    """(n, 1) logit of "yes" less that of "no" behind the last token, the only position that the last norm and the head see.

    Its logistic function is the softmax over the two that the model card computes. Of a classifier, the logit of its label.
    """
    last = _final(ops, config, ops.pool(_layers(ops, config), "last"))
    logits = ops.head("score", last, bias=False)
    if config.answers == 1:
        return logits
    no, yes = ops.split(logits, 2)
    return ops.subtract(yes, no)


def _final(ops: Ops[Array], config: Config, x: Array) -> Array:
    return _norm(ops, config, "model.norm", x) if config.final_norm else x


def _norm(ops: Ops[Array], config: Config, name: str, x: Array) -> Array:
    return ops.rms_norm(name, x, config.rms_norm_eps, float(config.norms_from_one))


def _layers(ops: Ops[Array], config: Config) -> Array:
    # The stream of additions is float32: in trained models single channels of it reach tens of thousands.
    x = ops.full(ops.embedding("model.embed_tokens", ops.input_ids()))
    if config.embedding_scale != 1:
        x = ops.scale(x, config.embedding_scale)
    before_attention, behind_attention, before_mlp, behind_mlp = config.norms
    for index in range(config.num_hidden_layers):
        layer = f"model.layers.{index}"
        attended = _attention(ops, config, index, _taken(ops, config, layer, before_attention, x))
        attended = _given(ops, config, layer, "self_attn.o_proj", behind_attention, attended, config.output_bias)
        x = ops.add(x, attended)
        inner = _gated(ops, config, layer, _taken(ops, config, layer, before_mlp, x))
        x = ops.add(x, _given(ops, config, layer, "mlp.down_proj", behind_mlp, inner, config.mlp_bias))
    return x


def _taken(ops: Ops[Array], config: Config, layer: str, norm: str, x: Array) -> Array:
    """What attention or the layers behind it take of the stream."""
    return _norm(ops, config, f"{layer}.{norm}", x) if norm else ops.narrow(x)


def _given(ops: Ops[Array], config: Config, layer: str, name: str, norm: str, x: Array, bias: bool) -> Array:
    """What they give, which is added to the stream."""
    if not norm:
        return ops.linear(f"{layer}.{name}", x, bias)
    small = 1.0 if bias else SMALL
    y = ops.linear(f"{layer}.{name}", ops.scale(x, small), bias)
    eps = config.rms_norm_eps * small**2
    return ops.rms_norm(f"{layer}.{norm}", y, eps, float(config.norms_from_one), full=True)


def _gated(ops: Ops[Array], config: Config, layer: str, x: Array) -> Array:
    gate, up = ops.linears([f"{layer}.mlp.gate_proj", f"{layer}.mlp.up_proj"], x, config.mlp_bias)
    return ops.multiply(ops.gelu_tanh(gate) if config.activation == "gelu_tanh" else ops.silu(gate), up)


def _attention(ops: Ops[Array], config: Config, index: int, x: Array) -> Array:
    layer, rope = f"model.layers.{index}.self_attn", config.ropes[index]
    factors = rope.factors(config.head_dim)
    scale = config.query_scale * rope.attention_factor**2  # that of queries and that of keys

    def place(name: str, part: Array, heads: int) -> Array:
        norm = f"{layer}.{name}_norm"
        part = _norm(ops, config, norm, part) if config.head_norms == "all" else part
        part = ops.split_heads(part, heads)
        part = _norm(ops, config, norm, part) if config.head_norms == "each" else part
        return ops.rotate(part, rope.base, factors)

    query, key, value = ops.linears([f"{layer}.{name}_proj" for name in ("q", "k", "v")], x, config.qkv_bias)
    query, key = place("q", query, config.num_attention_heads), place("k", key, config.num_key_value_heads)
    query = query if scale == 1 else ops.scale(query, scale)
    value = ops.split_heads(value, config.num_key_value_heads)
    return ops.attention(query, key, value, causal=config.is_causal, window=config.windows[index])
