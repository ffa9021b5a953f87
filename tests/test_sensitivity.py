"""Every variant in one pass is what the model with that one weight changed gives by itself; costs add up."""

import numpy as np
import pytest
import torch
from test_layerwise import BATCHES, CONFIGS, POOLING

from converter.quantize import sensitivity
from converter.quantize.grid import Codes, Grid, Scheme, round_to_nearest
from converter.quantize.torch_ops import TorchOps
from shim.architectures import architecture
from shim.pooling import head_tensors, outputs
from shim.text import Tokens


class Model:
    def __init__(self, name: str, heads: tuple[str, ...] = ("dense",)):
        self.module, self.heads, self.pooling = architecture(name), heads, POOLING.get(name, "mean")
        self.config = self.module.Config.read(CONFIGS[name])
        rng = np.random.default_rng(0)
        shapes = self.module.parameters(self.config) | head_tensors(self.module, self.config, heads)
        self.weights = {key: rng.standard_normal(shape, np.float32) * np.float32(0.3) for key, shape in shapes.items()}

    def run(self, ops):
        return outputs(ops, self.module, self.config, self.pooling, self.heads)

    def codes(self, bits: int) -> dict[str, Codes]:
        names = [key.removesuffix(".weight") for key in self.module.parameters(self.config) if key.endswith(".weight")]
        matrices = [name for name in names if self.weights[f"{name}.weight"].ndim == 2 and "attention_bias" not in name]
        return {name: round_to_nearest(self.weights[f"{name}.weight"], Scheme(bits, 32), Grid()) for name in matrices}

    def costs(self, codes: dict[str, Codes]) -> dict[str, np.ndarray]:
        layers = [found.codes.shape for name, found in codes.items() if "embed" not in name]
        return sensitivity.costs(self.run, self.weights.__getitem__, codes, BATCHES, layers, lambda *_: None)

    def alone(self, changes: dict[str, np.ndarray]) -> torch.Tensor:
        """The vectors of the model with these weights changed, batch by batch, in plain torch."""
        tensors = {key: torch.from_numpy(changes.get(key, value)) for key, value in self.weights.items()}
        return torch.cat([self.run(TorchOps(tensors, tokens))["sentence_embedding"] for tokens in BATCHES]).double()


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("memory", [sensitivity.MEMORY, 1.0])  # all at once, and one after the other
def test_costs_are_those_of_each_change_alone(name: str, memory: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sensitivity, "MEMORY", memory)
    model = Model(name)
    codes = model.codes(4)
    found = model.costs(codes)
    assert found.keys() == codes.keys()
    clean = model.alone({})
    for module, costs in found.items():
        changed = model.alone({f"{module}.weight": codes[module].dequantize()})
        expected = (clean - changed).square().sum(dim=1) / 2  # of unit vectors, 1 - cosine
        np.testing.assert_allclose(costs, expected.numpy(), rtol=1e-3, atol=1e-9)
        assert (costs.max() > 0) != module.startswith(("pooler", "head"))  # these are not used


def test_costs_of_all_heads_add_up_to_that_of_all_changes() -> None:
    model = Model("xlm_roberta", ("dense", "sparse", "colbert"))
    codes = model.codes(8)
    costs = model.costs(codes)
    texts = sum(len(batch.input_ids) for batch in BATCHES)
    assert all(rows.shape == (3 * texts,) for rows in costs.values())
    changes = {f"{name}.weight": found.dequantize() for name, found in codes.items()}
    together = 1 - torch.cosine_similarity(model.alone({}), model.alone(changes))
    assert np.sum(list(costs.values()), axis=0)[:texts].mean() == pytest.approx(float(together.mean()), rel=0.5)


def test_fewer_texts_are_looked_at_where_a_model_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sensitivity, "WORK", 1.0)
    monkeypatch.setattr(sensitivity, "TOKENS", (4, 6000))
    model = Model("bert")
    assert len(next(iter(model.costs(model.codes(4)).values()))) < 3


def test_a_single_pair_tells_what_a_rerankers_tensors_cost(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Model("qwen3", ("score",))
    codes = model.codes(4)
    every = model.costs(codes)
    monkeypatch.setattr(sensitivity, "TOKENS", (1, 1))
    few = model.costs(codes)
    for name, costs in few.items():
        assert len(costs) < len(every[name])
        assert np.isclose(costs[:, None], every[name], rtol=1e-2, atol=1e-9).any(axis=1).all(), "the same variance for both"


def test_the_texts_looked_at_are_of_all_lengths() -> None:
    batches = [Tokens(*[np.full((count, length), length)] * 3) for count, length in ((40, 5), (20, 20), (4, 100))]
    chosen, count = sensitivity.some(batches, 250)
    assert [batch.input_ids.shape for batch in chosen] == [(10, 5), (5, 20), (1, 100)]
    assert count == sum(batch.input_ids.size for batch in chosen) == 250
    alone, _ = sensitivity.some(batches, 1)
    assert [batch.input_ids.shape for batch in alone] == [(1, 5)], "the shortest, where even one text is more than enough"


def test_the_farthest_texts_are_picked_as_far_as_they_may_cost() -> None:
    batches = [Tokens(*[np.full((count, length), length)] * 3) for count, length in ((4, 5), (2, 20), (1, 100))]
    losses = np.array([1.0, 9.0, 2.0, 8.0, 7.0, 3.0, 6.0])
    chosen, picked = sensitivity.farthest(batches, losses, 30)
    assert [batch.input_ids.shape for batch in chosen] == [(2, 5), (1, 20)]
    assert picked.tolist() == [9.0, 8.0, 7.0]
    chosen, picked = sensitivity.farthest(batches, losses[::-1].copy(), 3)
    assert [batch.input_ids.shape for batch in chosen] == [(1, 20)], "one at least"
    assert picked.tolist() == [9.0]
