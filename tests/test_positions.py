"""Rotary positions and windows as a config.json has them: transformers' own numbers, and no value that is not refused."""

import math

import numpy as np
import pytest
from test_layerwise import CONFIGS
from transformers import LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from shim import positions
from shim.architectures import architecture
from shim.errors import SourceError
from shim.jsons import Json

TRAINED = (3, 64, 4096, 131072)
SCALED = [
    *({"rope_type": "linear", "factor": factor} for factor in (1.0, 2.5)),
    *(
        {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": low, "high_freq_factor": high}
        for low, high in ((1.0, 4.0), (0.5, 30.0), (2, 3))
    ),
    {"rope_type": "yarn", "factor": 1.0},
    {"rope_type": "yarn", "factor": 40.0},
    {"rope_type": "yarn", "factor": 4.0, "beta_fast": 8, "beta_slow": 2.5},
    {"rope_type": "yarn", "factor": 4.0, "attention_factor": 0.7},
]


@pytest.mark.parametrize("size", [2, 20, 128])
@pytest.mark.parametrize("stated", SCALED, ids=str)
def test_what_divides_angles_is_what_transformers_divides_by(stated: dict[str, Json], size: int) -> None:
    for base in (10.0, 1e4, 1e6):
        for trained in TRAINED:
            given = stated | {"original_max_position_embeddings": trained}
            rope = positions.read(given, base, None)
            settings = {"hidden_size": size, "num_attention_heads": 1, "head_dim": size, "max_position_embeddings": trained}
            config = LlamaConfig(**settings, rope_parameters={"rope_theta": base, **given})
            speeds, factor = ROPE_INIT_FUNCTIONS[str(stated["rope_type"])](config)
            ours = base ** (-np.arange(0, size, 2) / size) / np.array(rope.factors(size))
            np.testing.assert_allclose(ours, speeds.numpy(), rtol=1e-5)
            assert rope.attention_factor == pytest.approx(factor)


VALUES = (None, -1, 0, 1.5, "x", [], {}, True, 1e30, math.nan, math.inf, [1], {"full_attention": 3}, 10**400)
KEYS = [
    "rope_parameters",
    "rope_scaling",
    "rope_theta",
    "rope_local_base_freq",
    "partial_rotary_factor",
    "max_position_embeddings",
    "original_max_position_embeddings",
    "sliding_window",
    "layer_types",
    "max_window_layers",
    "use_sliding_window",
    "sliding_window_pattern",
    "head_dim",
    "is_causal",
    "use_bidirectional_attention",
    "attention_bias",
    "mlp_bias",
    "final_norm",
    "query_pre_attn_scalar",
    "architectures",
]


@pytest.mark.parametrize("name", ["llama", "mistral", "qwen2", "qwen3", "gemma3_text", "olmo3"])
def test_any_value_of_a_config_is_read_or_refused(name: str) -> None:
    """A list where an object should be is a TypeError, which all who read a config.json take for a malformed file."""
    module, refused = architecture(name), []
    inner = [{"rope_type": kind, "rope_theta": value} for kind in (*positions.NEEDED, None, []) for value in VALUES]
    inner += [{"rope_type": "yarn", "factor": value, "original_max_position_embeddings": 9} for value in VALUES]
    nested = [{"full_attention": value, "sliding_attention": value} for value in inner]
    for key in [*CONFIGS[name], *KEYS]:
        for value in (*VALUES, *(inner + nested if key.startswith("rope_p") else ())):
            try:
                config = module.Config.read(CONFIGS[name] | {key: value})
            except (SourceError, TypeError) as error:
                refused.append(error)
                continue
            assert len(config.windows) == len(config.ropes) == config.num_hidden_layers
            assert all(factor > 0 for rope in config.ropes for factor in rope.factors(config.head_dim))
            assert module.parameters(config)
    assert len(refused) > 100
    assert all(isinstance(error, SourceError) or " is not a" in str(error) for error in refused)
    assert not [error for error in refused if "\n" in str(error)]
