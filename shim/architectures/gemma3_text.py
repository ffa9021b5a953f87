"""Gemma 3 (Gemma Team 2025) and EmbeddingGemma, which sees both sides: norms around all, windows, and GELU in the gate."""

from typing import Self

from shim import positions
from shim.architectures import bert, llama
from shim.architectures.llama import *  # noqa: F403
from shim.errors import SourceError
from shim.jsons import JsonObject
from shim.positions import FULL, SLIDING

ROWS = ()  # a reranker has a head of its own
# Only for these does this file compute what the checkpoint means; absent ones are these.
ONLY = {
    "hidden_activation": "gelu_pytorch_tanh",
    "attn_logit_softcapping": None,
    "is_causal": True,
    "partial_rotary_factor": 1.0,
}
EVERY = 6  # layers, of which the last attends to all, where no key says it


class Config(llama.Config):
    """What Gemma 3 needs of its `config.json`."""

    @classmethod
    def read(cls, raw: JsonObject) -> Self:
        """From a parsed `config.json`. Raises SourceError for a missing key or a variant that is not computed."""
        bert.check_only(raw, ONLY)
        both = bool(raw.get("use_bidirectional_attention"))
        every, scalar = raw.get("sliding_window_pattern", EVERY), raw.get("query_pre_attn_scalar", 256)
        size, width = raw.get("head_dim"), raw.get("hidden_size")
        if isinstance(every, bool) or not isinstance(every, int) or every < 1:
            raise SourceError(f"config.json: sliding_window_pattern must be a positive number, not {every!r}")
        numbers = [value for value in (size, width, scalar) if isinstance(value, int | float) and 0 < value < bert.MAX_VALUE]
        if len(numbers) < 3:
            raise SourceError("config.json: head_dim, hidden_size and query_pre_attn_scalar must be positive numbers")
        types = positions.layer_types(raw, lambda index: (index + 1) % every > 0)
        bases = {FULL: raw.get("rope_theta", 1e6), SLIDING: raw.get("rope_local_base_freq", 1e4)}
        return cls.of(
            raw,
            is_causal=not both,
            windows=positions.windows(raw, types, lambda width: width // 2 if both else width - 1),
            ropes=positions.ropes(raw, types, bases),
            query_scale=(numbers[0] / numbers[2]) ** 0.5,
            embedding_scale=numbers[1] ** 0.5,
            norms=("input_layernorm", "post_attention_layernorm", "pre_feedforward_layernorm", "post_feedforward_layernorm"),
            norms_from_one=True,
            head_norms="each",
            activation="gelu_tanh",
        )
