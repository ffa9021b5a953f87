"""What a request asks of a model beside its texts, and how these become tokens for it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from shim import encoding as tokens
from shim.contents import Steps
from shim.errors import UsageError
from shim.model import Model
from shim.text import Encoded, adapted
from shim.token_ids import TokenIds, reading


@dataclass(frozen=True)
class Options:
    """How texts are to be embedded; see `Model.embed`. truncate: whether a text too long is cut, on `side`, or refused.

    normalize: whether vectors have length 1; None as the model gives them.
    """

    task: str | None = None
    prompt_name: str | None = None
    instruction: str | None = None
    dimensions: int | None = None
    heads: tuple[str, ...] = ("dense",)
    normalize: bool | None = None
    truncate: bool = True
    side: str = "right"
    late_chunking: bool = False

    def by_default(self, task: str | None) -> "Options":
        """The same, for this task where nothing is asked for that says what goes before a text."""
        silent = self.task is None and self.prompt_name is None and self.instruction is None
        return replace(self, task=task) if silent else self


def encoding(model: Model, options: Options, prompt: str) -> Callable[[Sequence[str]], Steps[list[Encoded]]]:
    """What makes texts tokens, behind the prompt and through the adapter that are asked for."""
    spec = model.manifest.model
    return tokens.encoding(model.encoder, spec, prompt, options.task, options.prompt_name, options.side)


def encoding_ids(model: Model, options: Options) -> Callable[[Sequence[TokenIds]], Steps[list[Encoded]]]:
    """The same for texts that are token ids already. Raises UsageError for ColBERT: its queries have others."""
    adapter = model.adapter(options.task, options.prompt_name)
    if model.manifest.model.colbert is not None:
        raise UsageError(f"{model.name} takes strings, as it marks with tokens of its own what is a query", "texts")

    def encode(part: Sequence[TokenIds]) -> Steps[list[Encoded]]:
        return adapted((yield from reading(model.encoder, part, options.side)), adapter)

    return encode
