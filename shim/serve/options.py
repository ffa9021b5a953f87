"""What a request asks of a model beside its texts, and how these become tokens for it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from shim.contents import Steps
from shim.model import Model
from shim.text import Encoded, adapted

Encode = Callable[[Sequence[str]], Steps[list[Encoded]]]


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


def encoding(model: Model, options: Options, prompt: str) -> Encode:
    """What makes texts tokens, behind the prompt and through the adapter that are asked for."""
    adapter = model.adapter(options.task, options.prompt_name)

    def encode(part: Sequence[str]) -> Steps[list[Encoded]]:
        return adapted((yield from model.encoder.encoding(part, prompt, options.side)), adapter)

    return encode
