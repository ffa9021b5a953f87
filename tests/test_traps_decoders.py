"""Whatever a decoder's `config.json` says that changes what the upstream library returns is followed or refused."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from test_traps import asked, bases, copy, folder, follow, refuse
from test_witness import QWEN, edit
from test_witness_decoders import GEMMA, LLAMA, OLMO, QWEN2

from converter import corpus

__all__ = ["asked", "copy", "folder"]  # fixtures


def rope(kind: str, layers: str = "", beside: dict[str, Any] | None = None, **numbers: Any) -> Callable[[Path], None]:
    """How positions turn, as transformers 5 saves it, of all layers or of a kind of them; beside: other keys."""
    stated = {"rope_type": kind, "rope_theta": 1e4, **numbers}
    if not layers:
        return edit("config.json", rope_parameters=stated, **(beside or {}))
    return edit("config.json", rope_parameters={"sliding_attention": {"rope_type": "default"}, layers: stated})


def old_rope(base: float, **scaling: Any) -> Callable[[Path], None]:
    """The same as transformers 4 saved it."""
    return edit("config.json", rope_parameters=None, rope_theta=base, rope_scaling=scaling)


def hidden(layer: int) -> Callable[[Path], None]:
    """The hidden states that are pooled, as sentence-transformers saves it."""
    output = {"method": "forward", "method_output_name": ["hidden_states", layer]}
    return edit("sentence_bert_config.json", modality_config={"text": output}, module_output_name="token_embeddings")


FOLLOWED: dict[str, tuple[str, Callable[[Path], None]]] = {
    "attention to both sides": (QWEN, edit("config.json", is_causal=False)),
    "Qwen3 of transformers 4, stretched": (QWEN, old_rope(1e5, type="yarn", factor=4.0, original_max_position_embeddings=16)),
    "stretched beyond the places": (LLAMA, rope("yarn", factor=2.5, beta_fast=9, beta_slow=2, attention_factor=0.9)),
    "yarn that stretches nothing": (LLAMA, rope("yarn", factor=1.0)),
    "a rotary base that no key says": (LLAMA, edit("config.json", rope_parameters=None)),
    "all positions alike": (QWEN2, rope("linear", factor=3.0)),
    "places of training beside them": (QWEN2, rope("yarn", factor=4.0, beside={"original_max_position_embeddings": 12})),
    "another causal window": (QWEN2, edit("config.json", sliding_window=2)),
    "a causal window of one token": (QWEN2, edit("config.json", sliding_window=1)),
    "windows from another layer on": (QWEN2, edit("config.json", layer_types=None, max_window_layers=1)),
    "windows in no layer": (QWEN2, edit("config.json", layer_types=None, use_sliding_window=False)),
    "Gemma's other epsilon": (GEMMA, edit("config.json", rms_norm_eps=0.1)),
    "an odd window of both sides": (GEMMA, edit("config.json", sliding_window=5)),
    "a window of both sides of one token": (GEMMA, edit("config.json", sliding_window=1)),
    "Gemma's attention to one side": (GEMMA, edit("config.json", use_bidirectional_attention=None)),
    "Gemma's layers by their number": (GEMMA, edit("config.json", layer_types=None, sliding_window_pattern=2)),
    "Gemma's other scale": (GEMMA, edit("config.json", query_pre_attn_scalar=7)),
    "Gemma of transformers 4": (GEMMA, edit("config.json", rope_parameters=None, rope_theta=5e3, rope_local_base_freq=77.0)),
    "Gemma of transformers 4, stretched": (
        GEMMA,
        old_rope(5e3, rope_type="linear", factor=8.0),
    ),
    "OLMo of transformers 4": (OLMO, edit("config.json", rope_parameters=None, rope_theta=300.0)),
    "OLMo's first layer alone": (OLMO, hidden(1)),
    "OLMo's last layer by its number": (OLMO, hidden(-1)),
    "Gemma before the last layer": (GEMMA, hidden(-2)),
    "OLMo's layers by their number": (OLMO, edit("config.json", layer_types=None)),
    "OLMo's other factor": (OLMO, rope("yarn", "full_attention", factor=4.0, attention_factor=1.0)),
}


@pytest.mark.parametrize("case", FOLLOWED)
def test_what_changes_upstream_is_followed(case: str, copy: Callable[[str], Path], asked: list[corpus.Text]) -> None:
    follow(*FOLLOWED[case], copy, asked)


REFUSED: dict[str, tuple[str, Callable[[Path], None], str]] = {
    "both sides by Gemma's key": (QWEN, edit("config.json", use_bidirectional_attention=True), "bidirectional_attention True"),
    "a causality that is a word": (QWEN, edit("config.json", is_causal="no"), "is_causal must be true or false"),
    "a base that depends on the length": (QWEN, rope("dynamic", factor=2.0), "rope_type 'dynamic' is not supported"),
    "two sets of factors": (LLAMA, rope("longrope", long_factor=[1.0], short_factor=[1.0]), "rope_type 'longrope'"),
    "positions of a part of each head": (QWEN, rope("default", partial_rotary_factor=0.5), "partial_rotary_factor 0.5"),
    "the same beside them": (LLAMA, edit("config.json", partial_rotary_factor=0.5), "partial_rotary_factor 0.5"),
    "positions by the kind of layer": (LLAMA, edit("config.json", rope_parameters=bases(1e4, 1e4)), "each kind of layers"),
    "a factor that is no number": (LLAMA, rope("linear", factor="two"), "factor must be a positive number, not 'two'"),
    "a factor that is not there": (LLAMA, rope("yarn"), "factor must be a positive number, not None"),
    "an attention factor of nothing": (LLAMA, rope("yarn", factor=2.0, attention_factor=0.0), "attention_factor must be"),
    "yarn's scales of attention": (LLAMA, rope("yarn", factor=2.0, mscale=0.7), "mscale 0.7 is not supported"),
    "yarn without whole pairs": (OLMO, rope("yarn", "full_attention", factor=2.0, truncate=False), "truncate False"),
    "the same beside the kinds of layers": (OLMO, edit("config.json", rope_parameters={"truncate": False}), "truncate False"),
    "frequencies the other way round": (
        LLAMA,
        rope("llama3", factor=2.0, low_freq_factor=4.0, high_freq_factor=1.0),
        "high_freq_factor must be over",
    ),
    "Llama's other activation": (LLAMA, edit("config.json", hidden_act="gelu"), "hidden_act 'gelu'"),
    "heads that three groups do not share": (
        LLAMA,
        edit("config.json", num_key_value_heads=3),
        "must be a multiple of num_key",
    ),
    "windows that are switched off": (
        QWEN2,
        edit("config.json", use_sliding_window=False),
        "sliding_window must be a positive",
    ),
    "a window of no tokens": (OLMO, edit("config.json", sliding_window=0), "sliding_window must be a positive number"),
    "a layer that is not there": (OLMO, hidden(-4), "layer -4 of 3 layers; from 1 to 2, or from -2 to -3"),
    "what goes into the first layer": (OLMO, hidden(0), "layer 0 of 3 layers"),
    "too few kinds of OLMo's layers": (
        OLMO,
        edit("config.json", layer_types=["full_attention"]),
        "layer_types must be 3 times",
    ),
    "Gemma's other activation": (GEMMA, edit("config.json", hidden_activation="silu"), "hidden_activation 'silu'"),
    "capped scores": (GEMMA, edit("config.json", attn_logit_softcapping=50.0), "attn_logit_softcapping 50.0"),
    "both sides by Qwen's key": (GEMMA, edit("config.json", is_causal=False), "is_causal False is not supported"),
    "no scale of attention": (GEMMA, edit("config.json", query_pre_attn_scalar=0), "query_pre_attn_scalar must be"),
    "every 0 of Gemma's layers": (GEMMA, edit("config.json", layer_types=None, sliding_window_pattern=0), "pattern must be"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_not_followed_is_refused_in_one_line(case: str, copy: Callable[[str], Path], asked: list[corpus.Text]) -> None:
    refuse(*REFUSED[case], copy, asked)
