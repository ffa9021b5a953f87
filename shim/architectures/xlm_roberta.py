"""XLM-RoBERTa (Conneau et al. 2020): BERT's layers over a table of positions that starts after the padding id."""

from dataclasses import dataclass

from shim.architectures import Array, Ops, bert

KEYS = ((r"^roberta\.", ""),)
DROPPED = (r"^embeddings\.position_ids$", r"^lm_head\.")
OPTIONAL = bert.OPTIONAL
FULL_PRECISION = bert.FULL_PRECISION
TABLES = bert.TABLES
ROWS = ()
parameters = bert.parameters


@dataclass(frozen=True)
class Config(bert.Config):
    """The keys of an XLM-RoBERTa `config.json` that the encoder needs."""

    pad_token_id: int

    @property
    def max_tokens(self) -> int:
        """How many tokens have a position: the rows up to the padding id's own are never used."""
        return self.max_position_embeddings - self.pad_token_id - 1


def encode(ops: Ops[Array], config: Config) -> Array:
    """Hidden states (n, length, hidden_size) of the last layer.

    A token's place is counted after pad_token_id, without tokens of that id: `<pad>` in a text has none. There is one segment.
    """
    words = ops.embedding("embeddings.word_embeddings", ops.input_ids())
    places = ops.embedding("embeddings.position_embeddings", ops.positions_after(config.pad_token_id))
    segment = ops.embedding("embeddings.token_type_embeddings", ops.index(0))
    x = ops.layer_norm("embeddings.LayerNorm", ops.add(ops.add(words, segment), places), config.layer_norm_eps)
    return bert.layers(ops, config, x)


def scoring(config: Config) -> dict[str, tuple[int, ...]]:
    """The tensors of a cross-encoder besides `parameters`."""
    width = config.hidden_size
    return bert.with_bias("classifier.dense", (width, width)) | bert.with_bias("classifier.out_proj", (1, width))


def score(ops: Ops[Array], config: Config) -> Array:
    """(n, 1) relevance logits of pairs: a dense layer and tanh over the first token, then one row."""
    return classify(ops, encode(ops, config))


def classify(ops: Ops[Array], hidden: Array) -> Array:
    """What the head makes of hidden states (n, length, hidden_size); MPNet has the same."""
    return ops.head("classifier.out_proj", ops.tanh(ops.head("classifier.dense", ops.pool(hidden, "cls"))))
