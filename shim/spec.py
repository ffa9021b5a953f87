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
STEPS = {"normalize": ("identity",), "dense": ("identity", "tanh")}  # type -> activations
SIMILARITIES = ("cosine", "dot", "euclidean", "manhattan")
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

    @property
    def normalized(self) -> bool:
        """Whether the dense vectors have length 1."""
        return bool(self.modules) and self.modules[-1].type == "normalize"

    @property
    def projected(self) -> bool:
        """Whether linear layers follow the pooling."""
        return any(step.type == "dense" for step in self.modules)
