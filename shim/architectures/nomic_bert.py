"""Nomic BERT (Nussbaum et al. 2024): BERT's post-norm layers with rotary positions, SwiGLU, and matrices without biases."""

from dataclasses import dataclass
from typing import Self

from shim.architectures import Array, Ops, bert
from shim.errors import SourceError
from shim.jsons import JsonObject, table

KEYS = ((r"^bert\.", ""),)
DROPPED = (r"^cls\.",)
OPTIONAL = (r"^pooler\.",)
FULL_PRECISION = bert.FULL_PRECISION
TABLES = bert.TABLES
ROWS = ()
# Only for these does this file compute what the checkpoint means; absent ones are these.
ONLY = {
    "activation_function": "swiglu",
    "prenorm": False,
    "use_rms_norm": False,
    "qkv_proj_bias": False,
    "mlp_fc1_bias": False,
    "mlp_fc2_bias": False,
    "rotary_emb_fraction": 1.0,
    "rotary_emb_interleaved": False,
    "rotary_scaling_factor": None,
    "hidden_act": "silu",
}
# transformers' own names of the keys, which go before: the published file has others.
NAMES = {
    "n_embd": "hidden_size",
    "n_layer": "num_hidden_layers",
    "n_head": "num_attention_heads",
    "n_inner": "intermediate_size",
    "layer_norm_epsilon": "layer_norm_eps",
}


@dataclass(frozen=True)
class Config:
    """The keys of a Nomic BERT `config.json` that the encoder needs."""

    vocab_size: int
    n_embd: int
    n_layer: int
    n_head: int
    n_inner: int
    type_vocab_size: int
    rotary_emb_base: float
    layer_norm_epsilon: float

    @classmethod
    def read(cls, raw: JsonObject) -> Self:
        """From a parsed `config.json`. Raises SourceError for a missing key or a variant that this file does not compute."""
        bert.check_only(raw, ONLY)
        rope = bert.plain_rope(table(raw, "rope_parameters"))
        values = raw | {own: raw[name] for own, name in NAMES.items() if name in raw}
        if "rope_theta" in rope:
            values["rotary_emb_base"] = rope["rope_theta"]
        config = bert.read_config(cls, values)
        if config.n_embd % (2 * config.n_head):
            raise SourceError("config.json: n_embd is not a multiple of twice n_head")
        return config

    @property
    def hidden_size(self) -> int:
        return self.n_embd

    @property
    def max_tokens(self) -> None:
        """Rotary positions have no table that ends."""
        return


def parameters(config: Config) -> dict[str, tuple[int, ...]]:
    """Name -> shape of every tensor that a checkpoint may have; a weight of two axes is a table or a matrix (out, in)."""
    width, inner = config.n_embd, config.n_inner
    shapes: dict[str, tuple[int, ...]] = {
        "embeddings.word_embeddings.weight": (config.vocab_size, width),
        "embeddings.token_type_embeddings.weight": (config.type_vocab_size, width),
        **bert.with_bias("emb_ln", (width,)),
        **bert.with_bias("pooler.dense", (width, width)),
    }
    for index in range(config.n_layer):
        layer = f"encoder.layers.{index}"
        shapes |= {
            f"{layer}.attn.Wqkv.weight": (3 * width, width),
            f"{layer}.attn.out_proj.weight": (width, width),
            f"{layer}.mlp.fc11.weight": (inner, width),
            f"{layer}.mlp.fc12.weight": (inner, width),
            f"{layer}.mlp.fc2.weight": (width, inner),
            **bert.with_bias(f"{layer}.norm1", (width,)),
            **bert.with_bias(f"{layer}.norm2", (width,)),
        }
    return shapes


def encode(ops: Ops[Array], config: Config) -> Array:
    """Hidden states (n, length, n_embd) of the last layer."""
    words = ops.embedding("embeddings.word_embeddings", ops.input_ids())
    segments = ops.embedding("embeddings.token_type_embeddings", ops.token_type_ids())
    x = ops.layer_norm("emb_ln", ops.add(words, segments), config.layer_norm_epsilon)
    for index in range(config.n_layer):
        layer = f"encoder.layers.{index}"
        parts = ops.split(ops.linear(f"{layer}.attn.Wqkv", x, bias=False), 3)
        query, key, value = (ops.split_heads(part, config.n_head) for part in parts)
        query, key = (ops.rotate(part, config.rotary_emb_base) for part in (query, key))
        attended = ops.linear(f"{layer}.attn.out_proj", ops.attention(query, key, value), bias=False)
        x = ops.layer_norm(f"{layer}.norm1", ops.add(attended, x), config.layer_norm_epsilon)
        gate, up = ops.linears([f"{layer}.mlp.fc12", f"{layer}.mlp.fc11"], x, bias=False)
        inner = ops.multiply(up, ops.silu(gate))
        inner = ops.linear(f"{layer}.mlp.fc2", inner, bias=False)
        x = ops.layer_norm(f"{layer}.norm2", ops.add(inner, x), config.layer_norm_epsilon)
    return x
