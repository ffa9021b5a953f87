"""MPNet (Song et al. 2020): BERT's layers without segments, RoBERTa's places, and a bias by distance in all attention."""

from dataclasses import dataclass
from typing import Self

from shim.architectures import Array, Ops, bert, xlm_roberta
from shim.jsons import JsonObject

# To the names of BertModel, so that the layers are those of bert.py.
KEYS = (
    (r"^mpnet\.", ""),
    (r"\.attention\.attn\.q\.", ".attention.self.query."),
    (r"\.attention\.attn\.k\.", ".attention.self.key."),
    (r"\.attention\.attn\.v\.", ".attention.self.value."),
    (r"\.attention\.attn\.o\.", ".attention.output.dense."),
    (r"\.attention\.LayerNorm\.", ".attention.output.LayerNorm."),
)
DROPPED = xlm_roberta.DROPPED
OPTIONAL = bert.OPTIONAL
BIAS = "encoder.relative_attention_bias"
# 32 rows: not worth quantizing.
FULL_PRECISION = (rf"^{BIAS}\.",)
TABLES = (*bert.TABLES, rf"^{BIAS}\.")
ROWS = ()
scoring = xlm_roberta.scoring
# The model has these whatever `config.json` says: a padding id that no place is counted for, and how distances are parted.
PADDING, BUCKETS, FARTHEST = 1, 32, 128
ONLY = {"relative_attention_num_buckets": BUCKETS}


@dataclass(frozen=True)
class Config(bert.Config):
    """The keys of an MPNet `config.json` that the encoder needs."""

    @classmethod
    def read(cls, raw: JsonObject) -> Self:
        """From a parsed `config.json`. Raises SourceError for a missing key or a variant that this file does not compute."""
        bert.check_only(raw, ONLY)
        return super().read(raw | {"type_vocab_size": 1})  # there are no segments

    @property
    def max_tokens(self) -> int:
        """How many tokens have a position: the rows up to the padding id's own are never used."""
        return self.max_position_embeddings - PADDING - 1


def parameters(config: Config) -> dict[str, tuple[int, ...]]:
    """Name -> shape of every tensor that a checkpoint may have; a weight of two axes is a table or a matrix (out, in)."""
    shapes = {name: shape for name, shape in bert.parameters(config).items() if ".token_type_embeddings." not in name}
    return shapes | {f"{BIAS}.weight": (BUCKETS, config.num_attention_heads)}


def buckets() -> tuple[int, ...]:
    """The row of the table of biases for each distance of key less query, from -FARTHEST to FARTHEST.

    Half of the rows are for keys behind the query; in each half, half of the rows have one distance each, and the others
    wider and wider ranges, equal in logarithm, up to FARTHEST. Source: Raffel et al. 2020, T5; MPNet's code.
    """
    half, exact = BUCKETS // 2, BUCKETS // 4

    def row(away: int) -> int:
        wide = sum(away**exact >= exact**exact * (FARTHEST // exact) ** step for step in range(1, exact))
        return away if away < exact else exact + wide

    return tuple(row(abs(away)) + half * (away > 0) for away in range(-FARTHEST, FARTHEST + 1))


def encode(ops: Ops[Array], config: Config) -> Array:
    """Hidden states (n, length, hidden_size) of the last layer."""
    words = ops.embedding("embeddings.word_embeddings", ops.input_ids())
    places = ops.embedding("embeddings.position_embeddings", ops.positions_after(PADDING))
    x = ops.layer_norm("embeddings.LayerNorm", ops.add(words, places), config.layer_norm_eps)
    return bert.layers(ops, config, x, ops.embedding(BIAS, ops.relative(buckets())))


def score(ops: Ops[Array], config: Config) -> Array:
    """(n, 1) relevance logits of pairs: a dense layer and tanh over the first token, then one row."""
    return xlm_roberta.classify(ops, encode(ops, config))
