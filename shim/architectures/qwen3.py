"""Qwen3 (Yang et al. 2025): Llama's layers with queries and keys normalised, each head by itself."""

from typing import Self

from shim.architectures import bert, llama, qwen2
from shim.architectures.llama import *  # noqa: F403
from shim.jsons import JsonObject

ROWS = llama.ROWS


class Config(llama.Config):
    """What Qwen3 needs of its `config.json`."""

    @classmethod
    def read(cls, raw: JsonObject) -> Self:
        """From a parsed `config.json`. Raises SourceError for a missing key or a variant that is not computed."""
        bert.check_only(raw, llama.ONLY)
        return cls.of(raw, head_norms="each", **qwen2.windowed(raw))
