"""Distillation: nearer to the original on texts it learned nothing from, never farther, and in numbers that can be stored."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from test_layerwise import CONFIGS, POOLING, batch

from converter.quantize import distil as module
from converter.quantize.distil import WORST, Distilled, _Matrix, differences, distil
from converter.quantize.grid import Codes, Grid, Scheme, round_to_nearest
from converter.quantize.losses import by_head, loss
from shim.architectures import architecture
from shim.pooling import head_tensors, outputs

MLX, ONNX = Grid(np.float16, integer_zero=False), Grid(np.float32, integer_zero=True)
LEARNED = [batch(seed, (9, 8, 7, 7, 5)) for seed in range(6)]
HELD = [batch(seed, (9, 8, 4, 2)) for seed in (10, 11)]


@pytest.fixture(autouse=True)
def brisk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small models on few texts learn in few steps, and fast."""
    paced(monkeypatch, steps=40, rate=1e-3)


def paced(monkeypatch: pytest.MonkeyPatch, steps: int, rate: float) -> None:
    monkeypatch.setattr(module, "STEPS", steps)
    monkeypatch.setattr(module, "SCALE_RATE", rate)
    monkeypatch.setattr(module, "OTHER_RATE", rate / 3)


def model(name: str, heads: tuple[str, ...] = ("dense",), grid: Grid = MLX, bits: int = 4) -> SimpleNamespace:
    """What `distil` needs of a seeded model that is rounded to nearest."""
    definition = architecture(name)
    config = definition.Config.read(CONFIGS[name])
    shapes = definition.parameters(config) | head_tensors(definition, config, heads)
    rng = np.random.default_rng(0)
    weights = {key: rng.standard_normal(shape, np.float32) * np.float32(0.15) for key, shape in shapes.items()}
    weights = {key: value + (value.ndim == 1) * np.float32(not key.endswith("bias")) for key, value in weights.items()}
    names = [key.removesuffix(".weight") for key, value in weights.items() if value.ndim == 2 and value.shape[1] % 32 == 0]
    codes = {key: round_to_nearest(weights[f"{key}.weight"], Scheme(bits, 32), grid) for key in names if "position" not in key}
    codes = {key: value for key, value in codes.items() if key not in ("sparse_linear", "colbert_linear", "classifier")}
    pooling = POOLING.get(name, "mean")
    return SimpleNamespace(
        weights={key: torch.from_numpy(value) for key, value in weights.items()},
        codes=codes,
        run=lambda ops: outputs(ops, definition, config, pooling, heads),
        grid=grid,
    )


def distilled(given: SimpleNamespace, learned: list = LEARNED) -> Distilled:
    return distil(given.weights, given.codes, given.run, (learned, HELD), given.grid, lambda *_: None)


def total(figures: tuple[float, float]) -> float:
    return figures[0] + WORST * figures[1]


@pytest.mark.parametrize("name", CONFIGS)
def test_every_architecture_comes_nearer(name: str) -> None:
    found = distilled(model(name))
    assert total(found.after) < 0.98 * total(found.before)
    assert found.tensors


@pytest.mark.parametrize("heads", [("dense", "sparse", "colbert"), ("score",)])
def test_every_head_comes_nearer(heads: tuple[str, ...]) -> None:
    found = distilled(model("xlm_roberta", heads))
    assert total(found.after) < 0.98 * total(found.before)
    assert not [name for name, value in found.tensors.items() if value.ndim != 1]


@pytest.mark.parametrize("grid", [MLX, ONNX])
def test_the_result_can_be_stored(grid: Grid) -> None:
    given = model("bert", grid=grid)
    found = distilled(given)
    assert found.codes.keys() == given.codes.keys()
    assert found.codes is not given.codes
    for name, codes in found.codes.items():
        assert codes.scheme == given.codes[name].scheme
        assert codes.codes.dtype == np.uint8
        assert codes.codes.max() <= 15
        for stored in (codes.scales, codes.offsets):
            assert stored.dtype == np.float32
            np.testing.assert_array_equal(stored, stored.astype(grid.dtype).astype(np.float32))
        if grid.integer_zero:
            np.testing.assert_array_equal(codes.offsets, np.round(codes.offsets / codes.scales) * codes.scales)


def test_the_codes_stay() -> None:
    given = model("bert")
    for name, codes in distilled(given).codes.items():
        np.testing.assert_array_equal(codes.codes, given.codes[name].codes)


@pytest.mark.parametrize("rate", [0.3, 1e3, 1e30])
def test_what_diverges_is_never_returned(rate: float, monkeypatch: pytest.MonkeyPatch) -> None:
    given = model("bert")
    paced(monkeypatch, 12, rate)
    found = distilled(given)
    assert total(found.after) <= total(found.before)
    if found.after == found.before:
        assert found.codes == given.codes
        assert found.tensors == {}


def test_learning_the_wrong_thing_is_never_returned(monkeypatch: pytest.MonkeyPatch) -> None:
    """One text of one token, and thousands of steps' worth of rate: what it learns does not hold for other texts."""
    paced(monkeypatch, 20, 0.05)
    found = distilled(model("bert"), [batch(3, (1,))])
    assert total(found.after) <= total(found.before)


def test_a_teacher_that_is_not_finite_teaches_nothing() -> None:
    given = model("bert")
    given.weights["encoder.layer.1.output.LayerNorm.bias"][3] = torch.nan
    found = distilled(given)
    assert found.codes == given.codes
    assert found.tensors == {}


def test_the_same_arguments_give_the_same_result(monkeypatch: pytest.MonkeyPatch) -> None:
    paced(monkeypatch, 10, 1e-3)
    one, same, other = (distilled(model("bert"), learned) for learned in (LEARNED, LEARNED, LEARNED[:3]))
    for name in one.codes:
        np.testing.assert_array_equal(one.codes[name].dequantize(), same.codes[name].dequantize())
    assert one.after == same.after != other.after


def test_nothing_of_what_was_given_is_changed() -> None:
    given, untouched = model("bert"), model("bert")
    distilled(given)
    for name, weight in untouched.weights.items():
        torch.testing.assert_close(given.weights[name], weight, rtol=0, atol=0)
    for name, codes in untouched.codes.items():
        np.testing.assert_array_equal(given.codes[name].dequantize(), codes.dequantize())


@pytest.mark.parametrize("grid", [MLX, ONNX])
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_a_matrix_that_did_not_move_is_what_it_was(grid: Grid, bits: int) -> None:
    weight = torch.randn(8, 128, generator=torch.Generator().manual_seed(0))
    codes = round_to_nearest(weight.numpy(), Scheme(bits, 64), grid)
    matrix = _Matrix(codes, grid)
    np.testing.assert_allclose(matrix.codes().dequantize(), codes.dequantize(), atol=1e-6)
    np.testing.assert_array_equal(matrix.codes().codes, codes.codes)
    torch.testing.assert_close(matrix.weight(), torch.from_numpy(codes.dequantize()))


def test_gradients_are_those_of_scale_and_offset() -> None:
    codes = Codes(
        np.array([[0, 3], [1, 2]], np.uint8), np.full((2, 1), 0.5, np.float32), np.zeros((2, 1), np.float32), Scheme(2, 2)
    )
    matrix = _Matrix(codes, MLX)
    pull = torch.tensor([[1.0, 2.0], [3.0, 5.0]])
    (matrix.weight() * pull).sum().backward()
    scale, offset = (part.grad for part in matrix.moved)
    torch.testing.assert_close(scale, 0.5 * (torch.from_numpy(codes.codes).float() * pull).sum(dim=1, keepdim=True))
    torch.testing.assert_close(offset, 0.5 * pull.sum(dim=1, keepdim=True))


def test_padding_and_empty_sparse_vectors_are_no_difference() -> None:
    mask = torch.tensor([[True, True, False], [True, False, False]])
    wanted = {"sentence_embedding": torch.eye(2, 4), "sparse_weights": torch.tensor([[1.0, 2.0, 0.0], [0.0, 0.0, 0.0]])}
    given = {**wanted, "sparse_weights": torch.tensor([[1.0, 2.0, 9.0], [0.0, 3.0, 3.0]])}
    torch.testing.assert_close(differences(given, wanted, mask, 1.0), torch.zeros(2))


def test_faint_sparse_vectors_are_no_difference() -> None:
    """What is a hundredth of the usual weights adds nothing to a score, however its cosine turns out."""
    masks = [torch.ones(2, 2, dtype=torch.bool), torch.ones(1, 2, dtype=torch.bool)]
    wanted = {"sparse_weights": [torch.tensor([[1.0, 0.0], [0.01, 0.0]]), torch.tensor([[0.0, 2.0]])]}
    given = {"sparse_weights": [torch.tensor([[1.0, 0.0], [0.0, 0.01]]), torch.tensor([[0.0, 2.0]])]}
    assert loss(wanted, given, masks).tolist() == [0, 0, 0]
    given["sparse_weights"][1] = torch.tensor([[2.0, 0.0]])
    assert loss(wanted, given, masks).tolist() == [0, 0, 1]


def test_of_several_heads_the_worst_of_each_text_counts() -> None:
    wanted = {"sentence_embedding": [torch.eye(2)], "colbert_vecs": [torch.eye(2)[:, None]]}
    given = {"sentence_embedding": [torch.eye(2)[[1, 1]]], "colbert_vecs": [torch.eye(2)[[0, 0], None]]}
    masks = [torch.ones(2, 1, dtype=torch.bool)]
    assert by_head(wanted, given, masks).tolist() == [[1, 0], [0, 1]]
    assert loss(wanted, given, masks).tolist() == [1, 1]
