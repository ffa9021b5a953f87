"""Tables by what their errors do to the vectors: the matrices are those of the model, and codes are the better for them."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from support.checkpoints import minilm
from support.jobs import calibration_of
from test_layerwise import BATCHES, CONFIGS
from test_sensitivity import Model

from converter import calibration, corpus, recipe
from converter.candidate import HeldCodes
from converter.corpus.calibration import prepare
from converter.quantize import embeddings
from converter.quantize.gptq import gptq, searched
from converter.quantize.grid import Codes, Grid, Scheme
from converter.quantize.losses import loss, masks_of
from converter.source.open import open_source

HEADS = {"xlm_roberta": ("dense", "sparse", "colbert")}


@pytest.mark.slow
@pytest.mark.parametrize("name", CONFIGS)
def test_matrices_predict_what_small_errors_in_rows_cost(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Errors of every token by itself, as those of different words are, in a few directions; all heads together."""
    monkeypatch.setattr(embeddings, "PROBES", 200)
    monkeypatch.setattr(embeddings, "SPREAD", 0.0)
    model = Model(name, HEADS.get(name, ("dense",)))
    weights = {key: torch.from_numpy(value) for key, value in model.weights.items()}
    found = embeddings.gauss_newton(weights, model.run, BATCHES)
    looked_up = ("embed", "relative_attention_bias")
    named = {key.removesuffix(".weight") for key in weights if any(part in key for part in looked_up) and ".lora_" not in key}
    assert set(found) == {key for key in named if "norm" not in key.lower()}
    word = next(key for key in found if "word" in key or "tok" in key)
    make = torch.Generator().manual_seed(1)
    directions = torch.randn(3, found[word].shared.shape[0], generator=make)

    class Moved(embeddings.TorchOps):
        def embedding(self, key: str, ids: torch.Tensor) -> torch.Tensor:
            given = super().embedding(key, ids)
            amounts = torch.randn((*ids.shape, 3), generator=make)
            return given + 1e-3 * (amounts @ directions) if key == word else given

    with torch.no_grad():
        exact = [model.run(embeddings.TorchOps(weights, tokens)) for tokens in BATCHES]
        costs = []
        for _ in range(400):
            moved = [model.run(Moved(weights, tokens)) for tokens in BATCHES]
            for head in embeddings.VECTORS:
                if head in exact[0]:
                    parts = ({head: [part[head] for part in side]} for side in (exact, moved))
                    costs.append(loss(*parts, masks_of(BATCHES)).mean())
    expected = 1e-6 * float((directions.double() @ found[word].shared * directions).sum()) / 2
    assert np.sum(costs) / 400 == pytest.approx(expected, rel=0.15)


@pytest.mark.convert
def test_a_table_quantized_by_them_costs_less() -> None:
    ours = recipe.load("all-minilm-l6-v2")
    checkpoint = open_source(ours, str(minilm()))
    shown = corpus.read(corpus.CALIBRATION)
    learned, held = (calibration_of(checkpoint, ours, prepare(checkpoint, part)) for part in (shown[::5], shown[1::20]))
    name, scheme, grid = "embeddings.word_embeddings", Scheme(4, 64), Grid()
    whole = checkpoint.read(f"{name}.weight")
    tokens = [*learned.tokens, *held.tokens]
    ids = np.unique(np.concatenate([batch.input_ids.ravel() for batch in tokens]))  # codes of other rows change nothing
    weight = torch.from_numpy(whole[ids])
    known = learned._tables()[name]
    known = replace(known, rows=torch.from_numpy(np.searchsorted(ids, known.rows)))
    exact = held.outputs()

    def cost(codes: Codes) -> np.ndarray:
        table = whole.copy()
        table[ids] = codes.dequantize()
        given: Any = SimpleNamespace(dequantize=lambda: table, scheme=scheme)
        return loss(exact, held.outputs(HeldCodes({name: given})), masks_of(held.tokens))

    plain, shared = searched(weight, scheme, grid), gptq(weight, known.shared, scheme, grid)
    own = embeddings.quantized(weight, known, scheme, grid)
    assert cost(shared).mean() < 0.85 * cost(plain).mean()
    assert cost(own).mean() < 0.95 * cost(shared).mean(), "rows that come often have a matrix of their own"
    assert cost(own).max() < cost(plain).max()
    changed = (own.dequantize() != shared.dequantize()).any(axis=1).nonzero()[0]
    assert set(changed) <= set(known.rows.tolist())
    assert {101, 102} <= set(ids[known.rows].tolist()), "[CLS] and [SEP] are in every text"


def test_a_row_moves_as_one_wherever_it_stands_in_a_text() -> None:
    ids, mask = torch.tensor([[7, 8, 7], [7, 9, 0]]), torch.tensor([[True, True, True], [True, True, False]])
    parts = torch.arange(12.0).reshape(2, 3, 2)
    rows, sums = embeddings._by_text(ids, parts, mask)
    found = sorted(zip(rows.tolist(), sums.tolist(), strict=True))
    assert found == [(7, [4.0, 6.0]), (7, [6.0, 7.0]), (8, [2.0, 3.0]), (9, [8.0, 9.0])]
    rows, sums = embeddings._by_text(torch.tensor([0, 1, 2]), parts[0], mask)
    assert rows.tolist() == [0, 1, 2]
    assert sums.equal(parts[0])


def test_matrices_that_are_not_finite_are_done_without() -> None:
    weight = torch.randn(6, 64, generator=torch.Generator().manual_seed(0))
    square = torch.eye(64, dtype=torch.float64)
    bad = embeddings.GaussNewton(square, torch.tensor([1]), torch.full((64, 64, 1), torch.nan))
    found = embeddings.quantized(weight, bad, Scheme(4, 32), Grid())
    assert np.array_equal(found.codes, gptq(weight, square, Scheme(4, 32), Grid()).codes)


def test_a_model_too_large_to_be_held_is_done_without(monkeypatch: pytest.MonkeyPatch) -> None:
    ours = recipe.load("all-minilm-l6-v2")
    checkpoint = open_source(ours, str(minilm()))
    tokens = prepare(checkpoint, corpus.read(corpus.CALIBRATION)[::9])
    monkeypatch.setattr(calibration, "WHOLE", 10**6)
    assert calibration_of(checkpoint, ours, tokens)._tables() == {}
