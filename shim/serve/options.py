"""What a request asks of a model beside its texts, and how these become tokens for it."""

from dataclasses import dataclass

from shim import encoding as tokens
from shim.encoding import Encode
from shim.model import Model


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
    spec = model.manifest.model
    return tokens.encoding(model.encoder, spec, prompt, options.task, options.prompt_name, options.side)
