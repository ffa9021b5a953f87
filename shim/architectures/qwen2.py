"""Qwen2 (Yang et al. 2024): Llama's layers with biases of queries, keys and values, in some models within windows."""

from typing import Self

from shim import positions
from shim.architectures import bert, llama
from shim.architectures.llama import *  # noqa: F403
from shim.jsons import Json, JsonObject

ROWS = llama.ROWS
FIRST = 28  # the layer from which on all slide, where no key says it


class Config(llama.Config):
    """What Qwen2 needs of its `config.json`."""

    @classmethod
    def read(cls, raw: JsonObject) -> Self:
        """From a parsed `config.json`. Raises SourceError for a missing key or a variant that is not computed."""
        bert.check_only(raw, llama.ONLY)
        return cls.of(raw, qkv_bias=True, output_bias=False, **windowed(raw))


def windowed(raw: JsonObject) -> dict[str, object]:
    """The flags of a model whose layers may slide, and that turns queries and keys alike in all; Qwen3's, too."""
    within, first = raw.get("use_sliding_window", False), raw.get("max_window_layers", FIRST)
    width: Json = raw.get("sliding_window", positions.WINDOW) if within else None
    types = positions.layer_types(raw, lambda index: width is not None and isinstance(first, int) and index >= first)
    return {
        "windows": positions.windows(raw | {"sliding_window": width}, types, positions.reaching(raw)),
        "ropes": (positions.rope(raw),) * len(types),
    }
