"""GTE (Zhang et al. 2024, mGTE): jina-embeddings-v3's post-norm layers with rotary positions, with GeGLU and no adapters."""

from dataclasses import dataclass
from typing import Self

from shim.architectures import Array, Ops, bert
from shim.architectures import jina_embeddings_v3 as rotary
from shim.jsons import JsonObject, table

# The names of transformers' classes, which saves them as the repositories first had them.
KEYS = (
    (r"^(new|gte)\.", ""),
    (r"^encoder\.layer\.", "layers."),
    (r"\.attention\.o_proj\.", ".self_attn.o_proj."),
    (r"\.attn_ln\.", ".post_attention_layernorm."),
    (r"\.mlp_ln\.", ".post_mlp_layernorm."),
)
FUSED = ((r"\battention\.qkv_proj\b", rotary.QKV), (r"\bmlp\.up_gate_proj\b", ("mlp.up_proj", "mlp.gate_proj")))
DROPPED = (r"^lm_head\.",)
OPTIONAL = bert.OPTIONAL
FULL_PRECISION = bert.FULL_PRECISION
TABLES = bert.TABLES
ROWS = ()
# Only for these does this file compute what the checkpoint means; absent ones are these.
ONLY = {"hidden_act": "gelu", "is_decoder": False}


@dataclass(frozen=True)
class Config:
    """The keys of a GTE `config.json` that the encoder needs. segments: whether there are any, and so a table of them."""

    vocab_size: int
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    intermediate_size: int
    type_vocab_size: int
    layer_norm_eps: float
    rope_theta: float
    segments: bool

    @classmethod
    def read(cls, raw: JsonObject) -> Self:
        """From a parsed `config.json`. Raises SourceError for a missing key or a variant that this file does not compute."""
        bert.check_only(raw, ONLY)
        values: dict[str, object] = {**bert.plain_rope(table(raw, "rope_parameters")), **raw}
        values["segments"] = values.get("type_vocab_size") != 0
        config = bert.read_config(cls, values if values["segments"] else values | {"type_vocab_size": 1})
        rotary.check_heads(config)
        return config

    @property
    def max_tokens(self) -> None:
        """Rotary positions have no table that ends."""
        return


def parameters(config: Config) -> dict[str, tuple[int, ...]]:
    """Name -> shape of every tensor that a checkpoint may have; a weight of two axes is a table or a matrix (out, in)."""
    width, inner = config.hidden_size, config.intermediate_size
    shapes = rotary.base(config)
    if not config.segments:
        del shapes[f"{rotary.SEGMENTS}.weight"]
    for index in range(config.num_hidden_layers):
        shapes |= {f"layers.{index}.mlp.{name}_proj.weight": (inner, width) for name in ("up", "gate")}
        shapes |= bert.with_bias(f"layers.{index}.mlp.down_proj", (width, inner))
    return shapes


def encode(ops: Ops[Array], config: Config) -> Array:
    """Hidden states (n, length, hidden_size) of the last layer."""

    def feed_forward(layer: str, x: Array) -> Array:
        gate, up = ops.linears([f"{layer}.mlp.gate_proj", f"{layer}.mlp.up_proj"], x, bias=False)
        return ops.linear(f"{layer}.mlp.down_proj", ops.multiply(up, ops.gelu(gate)))

    x = ops.embedding(rotary.WORDS, ops.input_ids())
    if config.segments:
        x = ops.add(x, ops.embedding(rotary.SEGMENTS, rotary.segment_ids(ops, config)))
    x = ops.layer_norm("embeddings.LayerNorm", x, config.layer_norm_eps)
    return rotary.layers(ops, config, x, ops.linears, feed_forward)


def scoring(config: Config) -> dict[str, tuple[int, ...]]:
    """The tensors of a cross-encoder besides `parameters`, whose pooler it uses."""
    return bert.with_bias("classifier", (1, config.hidden_size)) | bert.with_bias("pooler.dense", (config.hidden_size,) * 2)


def score(ops: Ops[Array], config: Config) -> Array:
    """(n, 1) relevance logits of pairs: a dense layer and tanh over the first token, then one row."""
    return bert.classify(ops, encode(ops, config))
