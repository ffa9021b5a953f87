"""Qwen3 (Yang et al. 2025): pre-norm decoder with rotary positions, grouped keys and values, queries and keys normalised."""

from dataclasses import dataclass
from typing import Self

from shim.architectures import Array, Ops, bert
from shim.errors import SourceError
from shim.jsons import JsonObject, array, table

# The embedding models' keys lack the prefix that mlx-lm and the rerankers have.
KEYS = ((r"^(?!model\.|lm_head\.|score\.)", "model."),)
# An embedding predicts no tokens; the two rows that a reranker needs are read as `score.weight`.
DROPPED = (r"^lm_head\.",)
OPTIONAL = ()
FULL_PRECISION = ()
TABLES = (r"^model\.embed_tokens\.",)
# A reranker answers with one of these words: the rows of the head that score it, or of the table that the head is tied to.
ROWS = ("no", "yes")
TABLE = "model.embed_tokens.weight"
# Only for these does this file compute what the checkpoint means; absent ones are these.
ONLY = {
    "hidden_act": "silu",
    "attention_bias": False,
    "use_sliding_window": False,
    "rope_scaling": None,
    "is_causal": True,
    "use_bidirectional_attention": False,
}


@dataclass(frozen=True)
class Config:
    """The keys of a Qwen3 `config.json` that the decoder needs."""

    vocab_size: int
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    intermediate_size: int
    max_position_embeddings: int
    rms_norm_eps: float
    rope_theta: float
    answers: int  # rows of a reranker's head: "no" and "yes", or a classifier's single label

    @classmethod
    def read(cls, raw: JsonObject) -> Self:
        """From a parsed `config.json`. Raises SourceError for a missing key or a variant that this file does not compute."""
        bert.check_only(raw, ONLY)
        rope = bert.plain_rope(table(raw, "rope_parameters"))  # where transformers 5 puts what was rope_theta
        values = {**rope, **raw, "answers": 1 if classifies(raw) else len(ROWS)}
        config = bert.read_config(cls, values)
        if config.num_attention_heads % config.num_key_value_heads or config.head_dim % 2:
            raise SourceError("config.json: num_attention_heads must be a multiple of num_key_value_heads, head_dim even")
        return config

    @property
    def max_tokens(self) -> None:
        """Rotary positions have no table that ends."""
        return


def classifies(raw: JsonObject) -> bool:
    """Whether `config.json` is that of a classifier, which scores by a head of its own and not by the words of ROWS."""
    return any(str(name).endswith("ForSequenceClassification") for name in array(raw, "architectures"))


def parameters(config: Config) -> dict[str, tuple[int, ...]]:
    """Name -> shape of every tensor that a checkpoint has; a weight of two axes is a table or a matrix (out, in)."""
    width, inner = config.hidden_size, config.intermediate_size
    queries, keys = config.num_attention_heads * config.head_dim, config.num_key_value_heads * config.head_dim
    shapes: dict[str, tuple[int, ...]] = {TABLE: (config.vocab_size, width)}
    for index in range(config.num_hidden_layers):
        layer = f"model.layers.{index}"
        shapes |= {
            f"{layer}.input_layernorm.weight": (width,),
            f"{layer}.self_attn.q_proj.weight": (queries, width),
            f"{layer}.self_attn.k_proj.weight": (keys, width),
            f"{layer}.self_attn.v_proj.weight": (keys, width),
            f"{layer}.self_attn.q_norm.weight": (config.head_dim,),
            f"{layer}.self_attn.k_norm.weight": (config.head_dim,),
            f"{layer}.self_attn.o_proj.weight": (width, queries),
            f"{layer}.post_attention_layernorm.weight": (width,),
            f"{layer}.mlp.gate_proj.weight": (inner, width),
            f"{layer}.mlp.up_proj.weight": (inner, width),
            f"{layer}.mlp.down_proj.weight": (width, inner),
        }
    return shapes | {"model.norm.weight": (width,)}


def encode(ops: Ops[Array], config: Config) -> Array:
    """Hidden states (n, length, hidden_size) behind the last norm."""
    return ops.rms_norm("model.norm", _layers(ops, config), config.rms_norm_eps)


def scoring(config: Config) -> dict[str, tuple[int, ...]]:
    """The tensors of a reranker besides `parameters`: the head's rows for "no" and "yes", or that of its label."""
    return {"score.weight": (config.answers, config.hidden_size)}


def score(ops: Ops[Array], config: Config) -> Array:
    """(n, 1) logit of "yes" less that of "no" behind the last token, the only position that the last norm and the head see.

    Its logistic function is the softmax over the two that the model card computes. Of a classifier, the logit of its label.
    """
    last = ops.rms_norm("model.norm", ops.pool(_layers(ops, config), "last"), config.rms_norm_eps)
    logits = ops.head("score", last, bias=False)
    if config.answers == 1:
        return logits
    no, yes = ops.split(logits, 2)
    return ops.subtract(yes, no)


def _layers(ops: Ops[Array], config: Config) -> Array:
    # The stream of additions is float32: in trained models single channels of it reach tens of thousands.
    x = ops.full(ops.embedding("model.embed_tokens", ops.input_ids()))
    for index in range(config.num_hidden_layers):
        layer = f"model.layers.{index}"
        x = ops.add(x, _attention(ops, config, layer, ops.rms_norm(f"{layer}.input_layernorm", x, config.rms_norm_eps)))
        normed = ops.rms_norm(f"{layer}.post_attention_layernorm", x, config.rms_norm_eps)
        gate, up = ops.linears([f"{layer}.mlp.gate_proj", f"{layer}.mlp.up_proj"], normed, bias=False)
        inner = ops.multiply(ops.silu(gate), up)
        x = ops.add(x, ops.linear(f"{layer}.mlp.down_proj", inner, bias=False))
    return x


def _attention(ops: Ops[Array], config: Config, layer: str, x: Array) -> Array:
    def place(name: str, part: Array, heads: int) -> Array:
        normed = ops.rms_norm(f"{layer}.self_attn.{name}_norm", ops.split_heads(part, heads), config.rms_norm_eps)
        return ops.rotate(normed, config.rope_theta)

    query, key, value = ops.linears([f"{layer}.self_attn.{name}_proj" for name in ("q", "k", "v")], x, bias=False)
    query, key = place("q", query, config.num_attention_heads), place("k", key, config.num_key_value_heads)
    attended = ops.attention(query, key, ops.split_heads(value, config.num_key_value_heads), causal=True)
    return ops.linear(f"{layer}.self_attn.o_proj", attended, bias=False)
