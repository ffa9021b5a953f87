"""All batches in step: the same outputs as batch by batch, and Hessians of what really goes into each layer."""

import re

import numpy as np
import pytest
import torch
from support.checkpoints import bert_config, seeded_weights, xlm_roberta_config

from converter.quantize.layerwise import Hessian, LayerwiseOps, hessian
from converter.quantize.torch_ops import TorchOps
from shim.architectures import architecture
from shim.pooling import outputs
from shim.text import Tokens

NOMIC = {"vocab_size": 500, "n_embd": 64, "n_layer": 2, "n_head": 4, "n_inner": 96, "n_positions": 64, "type_vocab_size": 2}
NOMIC |= {"rotary_emb_base": 1000, "layer_norm_epsilon": 1e-12}
QWEN3 = {"vocab_size": 500, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
QWEN3 |= {"head_dim": 16, "intermediate_size": 96, "max_position_embeddings": 64, "rms_norm_eps": 1e-6, "rope_theta": 1e6}
DISTILBERT = {"vocab_size": 500, "dim": 64, "n_layers": 2, "n_heads": 4, "hidden_dim": 96, "max_position_embeddings": 64}
MODERNBERT = {"vocab_size": 500, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 96}
MODERNBERT |= {"local_attention": 4, "norm_eps": 1e-5, "norm_bias": False, "attention_bias": False, "mlp_bias": False}
LLAMA = {"vocab_size": 500, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 96}
LLAMA |= {"max_position_embeddings": 64, "rms_norm_eps": 1e-6}
GEMMA3 = LLAMA | {"num_key_value_heads": 2, "head_dim": 16, "query_pre_attn_scalar": 20, "use_bidirectional_attention": True}
GEMMA3 |= {"sliding_window": 4, "layer_types": ["sliding_attention", "full_attention"]}
JINA = {"vocab_size": 500, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 96}
JINA |= {"type_vocab_size": 1, "layer_norm_eps": 1e-5, "rope_theta": 2e4}
TWO = {"lora_adaptations": ["retrieval.query", "separation"], "lora_rank": 2, "lora_alpha": 1}
CONFIGS = {
    "bert": bert_config(vocab_size=500),
    "xlm_roberta": xlm_roberta_config(),
    "qwen3": QWEN3,
    "nomic_bert": NOMIC,
    "distilbert": DISTILBERT,
    "mpnet": bert_config(vocab_size=500),
    "modernbert": MODERNBERT,
    "llama": LLAMA | {"is_causal": False},
    "qwen2": LLAMA | {"use_sliding_window": True, "sliding_window": 3, "max_window_layers": 1},
    "mistral": LLAMA | {"sliding_window": None},
    "gemma3_text": GEMMA3,
    "olmo3": LLAMA | {"sliding_window": 3, "layer_types": GEMMA3["layer_types"]},
    "jina_embeddings_v3": JINA | TWO,
    "gte": JINA,
}
POOLING = {"qwen3": "last", "qwen2": "last"}


def batch(seed: int, lengths: tuple[int, ...]) -> Tokens:
    rng = np.random.default_rng(seed)
    ids = rng.integers(5, 500, (len(lengths), max(lengths)))
    mask = (np.arange(max(lengths)) < np.array(lengths)[:, None]).astype(np.int64)
    return Tokens(ids * mask, mask, np.zeros_like(ids), np.arange(len(lengths)) % 3 - 1)


BATCHES = [batch(0, (9, 4, 9)), batch(1, (3, 2))]


@pytest.mark.parametrize("name", CONFIGS)
def test_outputs_are_those_of_each_batch_alone(name: str) -> None:
    module = architecture(name)
    config = module.Config.read(CONFIGS[name])
    shapes = module.parameters(config)
    rng = np.random.default_rng(0)
    weights = {key: rng.standard_normal(shape, np.float32) * np.float32(0.3) for key, shape in shapes.items()}
    settings = (module, config, POOLING.get(name, "mean"), ("dense",))
    seen = {}

    def replace(layer: str, weight: torch.Tensor, found: Hessian | None) -> torch.Tensor:
        if found is not None:
            seen[layer] = (weight, found())
        return weight

    together = outputs(LayerwiseOps(weights.__getitem__, BATCHES, replace), *settings)["sentence_embedding"]
    tensors = {key: torch.from_numpy(value) for key, value in weights.items()}
    for tokens, got in zip(BATCHES, together, strict=True):
        torch.testing.assert_close(got, outputs(TorchOps(tensors, tokens), *settings)["sentence_embedding"])
    others = re.compile("|".join([*module.TABLES, *module.OPTIONAL]))
    linear = {key for key, value in weights.items() if value.ndim == 2 and not others.search(key)}
    assert {f"{layer}.weight" for layer in seen} == linear
    assert all(found.shape == (weight.shape[1],) * 2 for weight, found in seen.values())


def test_a_layer_sees_what_the_replaced_layers_before_it_give() -> None:
    module = architecture("bert")
    config = module.Config.read(CONFIGS["bert"])
    weights = seeded_weights(module, CONFIGS["bert"])
    last = "encoder.layer.1.output.dense"

    def run(factor: float) -> torch.Tensor:
        seen = {}

        def replace(layer: str, weight: torch.Tensor, found: Hessian | None) -> torch.Tensor:
            if found is None:
                return weight
            seen[layer] = found()
            return weight * factor

        outputs(LayerwiseOps(weights.__getitem__, BATCHES, replace), module, config, "mean", ("dense",))
        return seen[last]

    assert not torch.allclose(run(1.0), run(0.5), rtol=0.05)


def test_padding_is_no_part_of_a_hessian() -> None:
    x = torch.tensor([[[1.0, 2.0], [3.0, 0.0], [100.0, 100.0]]])
    mask = torch.tensor([[True, True, False]])
    torch.testing.assert_close(hessian([x], [mask]), torch.tensor([[5.0, 1.0], [1.0, 2.0]]).double())


def test_a_long_text_weighs_no_more_than_a_short_one() -> None:
    short, long = torch.ones(1, 1, 2), 3 * torch.ones(1, 50, 2)
    masks = [torch.ones(1, 1, dtype=torch.bool), torch.ones(1, 50, dtype=torch.bool)]
    torch.testing.assert_close(hessian([short, long], masks), torch.full((2, 2), 5.0).double(), rtol=1e-6, atol=0)
