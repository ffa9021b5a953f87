"""Tables by what their errors do to the vectors: the slopes are those of the model, and codes are the better for them."""

import numpy as np
import pytest
import torch
from checkpoints import minilm
from test_lockstep import BATCHES, CONFIGS
from test_sensitivity import Model

from converter import calibrate, corpus, recipe
from converter.quantize import tables
from converter.quantize.gptq import gptq, searched
from converter.quantize.grid import Codes, Grid, Scheme
from converter.quantize.losses import loss, masks_of
from converter.source import open_source

HEADS = {"xlm_roberta": ("dense", "sparse", "colbert")}


@pytest.mark.parametrize("name", CONFIGS)
def test_slopes_foretell_what_small_errors_in_rows_cost(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Errors of every token by itself, as those of different words are, in a few directions; all heads together."""
    monkeypatch.setattr(tables, "PROBES", 200)
    monkeypatch.setattr(tables, "SPREAD", 0.0)
    model = Model(name, HEADS.get(name, ("dense",)))
    weights = {key: torch.from_numpy(value) for key, value in model.weights.items()}
    found = tables.slopes(weights, model.run, BATCHES)
    assert set(found) == {key.removesuffix(".weight") for key in weights if "embed" in key and "norm" not in key.lower()}
    word = next(key for key in found if "word" in key or "tokens" in key)
    make = torch.Generator().manual_seed(1)
    directions = torch.randn(3, found[word].shape[0], generator=make)

    class Moved(tables.TorchOps):
        def embedding(self, key: str, ids: torch.Tensor) -> torch.Tensor:
            given = super().embedding(key, ids)
            amounts = torch.randn((*ids.shape, 3), generator=make)
            return given + 1e-3 * (amounts @ directions) if key == word else given

    with torch.no_grad():
        exact = [model.run(tables.TorchOps(weights, tokens)) for tokens in BATCHES]
        costs = []
        for _ in range(400):
            moved = [model.run(Moved(weights, tokens)) for tokens in BATCHES]
            for head in tables.VECTORS:
                if head in exact[0]:
                    parts = ({head: [part[head] for part in side]} for side in (exact, moved))
                    costs.append(loss(*parts, masks_of(BATCHES)).mean())
    expected = 1e-6 * float((directions.double() @ found[word] * directions).sum()) / 2
    assert np.sum(costs) / 400 == pytest.approx(expected, rel=0.15)


def test_a_table_quantized_by_them_costs_less() -> None:
    ours = recipe.load("all-minilm-l6-v2")
    checkpoint = open_source(ours, str(minilm()))
    shown = corpus.read(corpus.CALIBRATION)
    learned, held = (calibrate.prepare(checkpoint, ours, part) for part in (shown[::3], shown[1::10]))
    name, scheme, grid = "embeddings.word_embeddings", Scheme(4, 64), Grid()
    weight = torch.from_numpy(checkpoint.read(f"{name}.weight"))
    square = calibrate._slopes(checkpoint, ours, learned, None)[name]
    exact = calibrate.run(checkpoint, ours, held)

    def cost(codes: Codes) -> np.ndarray:
        return loss(exact, calibrate.run(checkpoint, ours, held, {name: codes}.get), masks_of(held))

    better, plain = cost(gptq(weight, square, scheme, grid)), cost(searched(weight, scheme, grid))
    assert better.mean() < 0.85 * plain.mean()
    assert better.max() < plain.max()


def test_a_model_too_large_to_be_held_is_done_without(monkeypatch: pytest.MonkeyPatch) -> None:
    ours = recipe.load("all-minilm-l6-v2")
    checkpoint = open_source(ours, str(minilm()))
    tokens = calibrate.prepare(checkpoint, ours, corpus.read(corpus.CALIBRATION)[::9])
    monkeypatch.setattr(calibrate, "WHOLE", 10**6)
    assert calibrate._slopes(checkpoint, ours, tokens, None) == {}
