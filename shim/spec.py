"""What the serving side must know of a model, as the manifest records it."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Module:
    """A step behind the pooling: `normalize` (L2), or `dense`, a linear layer to `width` values and its activation."""

    type: str
    width: int = 0
    bias: bool = False
    activation: str = "identity"  # or "tanh"


NORMALIZE = Module("normalize")


@dataclass(frozen=True)
class ColBert:
    """How a query and a document become the tokens of ColBERT (Khattab and Zaharia 2020), and which of these have a vector.

    query_length: tokens of a query at most; a document has ModelSpec.max_tokens. expansion: tokens of a query at least, filled
    up with the id `mask`; 0 for none. attended: whether attention sees those. skipped: ids without a vector; skipped_in: where,
    `document` and `query`. markers: prefixes that are one token each wherever they stand.
    """

    query_length: int
    expansion: int = 0
    mask: int = 0
    attended: bool = False
    skipped: list[int] = field(default_factory=list)
    skipped_in: list[str] = field(default_factory=lambda: ["document"])
    markers: list[str] = field(default_factory=list)


STEPS = {"normalize": ("identity",), "dense": ("identity", "tanh")}  # type -> activations
SIMILARITIES = ("cosine", "dot", "euclidean", "manhattan")
MAXIMAL = ("maxsim", "meanmaxsim")  # similarities of a vector per token
SPLADE = ("relu", "log1p_relu")  # activations of a masked language model's logits, before log1p
ACTIVATIONS = ("sigmoid", "identity")  # of a reranker's logits, in its own library


@dataclass(frozen=True)
class ModelSpec:
    """What the serving side must know of a model; written from recipe and checkpoint, read by `shim.load`.

    prompts: by task, or the templates of shim.text. prompt_names: prompts by the names that the checkpoint gives them;
    default_prompt: the one of these that a text gets when nothing is asked for, "" for none. modules: what follows the
    pooling. similarity: how the checkpoint says vectors are compared. activation: what its own library makes of a relevance
    logit, `sigmoid` or `identity`; ours is always the probability. lower_case: texts are lower-cased before tokenization.
    layer: the hidden states that are pooled, counted as transformers does: 0 what goes into the first layer, -2 what goes into
    the last; None those behind the last norm.
    adapters: the tasks that the model has an adapter of its own for, in the order of their numbers; None where it has none.
    splade: of a model whose only head is `sparse`, a weight of each word of the vocabulary: the activation, one of SPLADE;
    pooling is then the `max` or the `sum` over the tokens. colbert: of a model whose only head is that.
    """

    architecture: str
    pooling: str
    max_tokens: int
    dimensions: int
    heads: list[str]
    prompts: dict[str, str] = field(default_factory=dict)
    prompt_names: dict[str, str] = field(default_factory=dict)
    default_prompt: str = ""
    modules: list[Module] = field(default_factory=lambda: [NORMALIZE])
    similarity: str = "cosine"
    activation: str = "sigmoid"
    lower_case: bool = False
    layer: int | None = None
    adapters: list[str] | None = None
    splade: str | None = None
    colbert: ColBert | None = None

    @property
    def normalized(self) -> bool:
        """Whether the dense vectors have length 1."""
        return bool(self.modules) and self.modules[-1].type == "normalize"

    @property
    def longest(self) -> int:
        """Tokens that a text may have, be it a document or a query."""
        return max(self.max_tokens, 0 if self.colbert is None else self.colbert.query_length)

    @property
    def markers(self) -> list[str]:
        """Words of the vocabulary that are control tokens, though tokenizer.json does not say so."""
        return [] if self.colbert is None else self.colbert.markers

    @property
    def projected(self) -> bool:
        """Whether linear layers follow the pooling."""
        return any(step.type == "dense" for step in self.modules)
