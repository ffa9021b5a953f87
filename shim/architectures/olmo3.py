"""OLMo 3 (Team Olmo 2025): Llama's layers whose outputs alone are normalised; queries and keys are, too, over all heads."""

from typing import Self

from shim import positions
from shim.architectures import bert, llama
from shim.architectures.llama import *  # noqa: F403
from shim.jsons import JsonObject
from shim.positions import FULL, SLIDING

ROWS = llama.ROWS
BASE = 500_000.0  # of rotary positions, where no key says it
EVERY = 4  # layers, of which the last attends to all, where no key says it


class Config(llama.Config):
    """What OLMo 3 needs of its `config.json`."""

    @classmethod
    def read(cls, raw: JsonObject) -> Self:
        """From a parsed `config.json`. Raises SourceError for a missing key or a variant that is not computed."""
        bert.check_only(raw, llama.ONLY)
        types = positions.layer_types(raw, lambda index: (index + 1) % EVERY > 0)
        return cls.of(
            raw,
            windows=positions.windows(raw, types, positions.reaching(raw)),
            # `rope_theta`, transformers 4's key, is of full attention alone, as transformers 5 has it.
            ropes=positions.ropes(raw, types, {FULL: raw.get("rope_theta", BASE), SLIDING: BASE}),
            norms=("", "post_attention_layernorm", "", "post_feedforward_layernorm"),
            head_norms="all",
        )
