"""Mistral (Jiang et al. 2023): Llama's layers without biases, all of them within windows where `config.json` has these."""

from typing import Self

from shim import positions
from shim.architectures import bert, llama
from shim.architectures.llama import *  # noqa: F403
from shim.jsons import JsonObject

ROWS = llama.ROWS


class Config(llama.Config):
    """What Mistral needs of its `config.json`."""

    @classmethod
    def read(cls, raw: JsonObject) -> Self:
        """From a parsed `config.json`. Raises SourceError for a missing key or a variant that is not computed."""
        bert.check_only(raw, llama.ONLY | {"layer_types": None})
        slides = raw.get("sliding_window", positions.WINDOW) is not None
        types = positions.layer_types(raw, lambda _: slides)
        return cls.of(
            raw,
            qkv_bias=False,
            output_bias=False,
            windows=positions.windows(raw, types, positions.reaching(raw)),
            ropes=(positions.rope(raw),) * len(types),
        )
