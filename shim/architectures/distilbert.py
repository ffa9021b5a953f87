"""DistilBERT (Sanh et al. 2019): BERT's layers under names of their own, without segments and without a pooler."""

from dataclasses import dataclass
from typing import Self

from shim.architectures import Array, MaskedHead, Ops, bert
from shim.errors import SourceError
from shim.jsons import JsonObject

# To the names of BertModel, so that the layers are those of bert.py.
KEYS = (
    (r"^distilbert\.", ""),
    (r"^transformer\.", "encoder."),
    (r"\.attention\.q_lin\.", ".attention.self.query."),
    (r"\.attention\.k_lin\.", ".attention.self.key."),
    (r"\.attention\.v_lin\.", ".attention.self.value."),
    (r"\.attention\.out_lin\.", ".attention.output.dense."),
    (r"\.sa_layer_norm\.", ".attention.output.LayerNorm."),
    (r"\.ffn\.lin1\.", ".intermediate.dense."),
    (r"\.ffn\.lin2\.", ".output.dense."),
    (r"\.output_layer_norm\.", ".output.LayerNorm."),
)
DROPPED = (r"^embeddings\.position_ids$", r"^vocab_")
OPTIONAL = ()
FULL_PRECISION = ()
TABLES = bert.TABLES
ROWS = ()
# Its own names of BERT's keys; transformers takes either.
NAMES = {
    "dim": "hidden_size",
    "n_layers": "num_hidden_layers",
    "n_heads": "num_attention_heads",
    "hidden_dim": "intermediate_size",
    "activation": "hidden_act",
}
# Not in `config.json`: the model has one epsilon, and no segments.
FIXED: JsonObject = {"layer_norm_eps": 1e-12, "type_vocab_size": 1}


@dataclass(frozen=True)
class Config(bert.Config):
    """The keys of a DistilBERT `config.json` that the encoder needs, under BERT's names."""

    @classmethod
    def read(cls, raw: JsonObject) -> Self:
        """From a parsed `config.json`. Raises SourceError for a missing key or a variant that this file does not compute."""
        for own, name in NAMES.items():
            if own in raw and raw.get(name, raw[own]) != raw[own]:
                raise SourceError(f"config.json: {own} {raw[own]!r} is not {name} {raw[name]!r}")
        return super().read(raw | {name: raw[own] for own, name in NAMES.items() if own in raw} | FIXED)


def parameters(config: Config) -> dict[str, tuple[int, ...]]:
    """Name -> shape of every tensor that a checkpoint has; a weight of two axes is a table or a matrix (out, in)."""
    absent = ("embeddings.token_type_embeddings.", "pooler.")
    return {name: shape for name, shape in bert.parameters(config).items() if not name.startswith(absent)}


def encode(ops: Ops[Array], config: Config) -> Array:
    """Hidden states (n, length, hidden_size) of the last layer."""
    words = ops.embedding("embeddings.word_embeddings", ops.input_ids())
    places = ops.embedding("embeddings.position_embeddings", ops.positions())
    x = ops.layer_norm("embeddings.LayerNorm", ops.add(words, places), config.layer_norm_eps)
    return bert.layers(ops, config, x)


def masked_head(config: Config) -> MaskedHead:
    """The head of its masked language model."""
    names = "vocab_transform", "vocab_layer_norm", "vocab_projector"
    return MaskedHead(*names, "", config.layer_norm_eps)


def scoring(config: Config) -> dict[str, tuple[int, ...]]:
    """The tensors of a cross-encoder besides `parameters`."""
    width = config.hidden_size
    return bert.with_bias("pre_classifier", (width, width)) | bert.with_bias("classifier", (1, width))


def score(ops: Ops[Array], config: Config) -> Array:
    """(n, 1) relevance logits of pairs: a dense layer and ReLU over the first token, then one row."""
    first = ops.pool(encode(ops, config), "cls")
    return ops.head("classifier", ops.relu(ops.head("pre_classifier", first)))
