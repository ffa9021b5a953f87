"""Smoothing: the function stays, the calibration objective never gets worse, and nothing breaks on useless channels."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from converter.int8.inputs import Activation, rounded
from converter.int8.smoothing import ALPHAS, Shown, Smoothing, activations, search, smoothing
from converter.int8.weights import joined, nearest

MODES = ("tensor", "tensor+8", "token", "block", "none")


def problem(seed: int, tokens: int = 64, width: int = 64, rows: int = 24) -> tuple[Tensor, Tensor]:
    """Inputs with a mean and two channels that are far larger than the others, and a matrix."""
    make = torch.Generator().manual_seed(seed)
    x = torch.randn(tokens, width, generator=make) + torch.randn(width, generator=make)
    x[:, :2] *= 40
    return x, torch.randn(rows, width, generator=make) * 0.05


def objective(x: Tensor, weight: Tensor, found: Smoothing, activation: Activation) -> float:
    """The mean square error of the product in integers."""
    apart, moved = list(activation.apart), found.weight(weight)
    if activation.mode in ("block", "none"):
        size = {"block": 32, "none": 64}[activation.mode]
        parts = moved.reshape(-1, size)
        low, high = parts.amin(dim=1, keepdim=True), parts.amax(dim=1, keepdim=True)
        step = (high - low) / 255
        stored = (torch.round((parts - low) / step) * step + low).reshape(moved.shape)
    else:
        rest = moved.clone()
        rest[:, apart] = 0
        stored = joined(nearest(rest), moved[:, apart], apart)
    expected = x @ weight.T - found.bias(weight)
    return float((rounded(found.input(x), activation) @ stored.T - expected).square().mean())


def made(x: Tensor, weight: Tensor, alpha: float, shifted: bool) -> Smoothing:
    return smoothing(x.amin(dim=0), x.amax(dim=0), weight, alpha, shifted)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), alpha=st.sampled_from(ALPHAS), shifted=st.booleans())
def test_the_function_stays_what_it_was(seed: int, alpha: float, shifted: bool) -> None:
    x, weight = problem(seed)
    found = made(x, weight, alpha, shifted)
    expected = (x.double() @ weight.double().T).numpy()
    product = found.input(x) @ found.weight(weight).T + found.bias(weight)
    np.testing.assert_allclose(product.numpy(), expected, atol=1e-5 * np.abs(expected).max())


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6), shifted=st.booleans())
def test_a_norm_takes_the_smoothing_in(seed: int, shifted: bool) -> None:
    make = torch.Generator().manual_seed(seed)
    hidden, gain, bias = (torch.randn(*shape, generator=make) for shape in ((30, 64), (64,), (64,)))
    normed = torch.nn.functional.layer_norm(hidden, (64,), gain, bias)
    found = made(normed, problem(seed)[1], 0.8, shifted)
    folded = torch.nn.functional.layer_norm(hidden, (64,), *found.norm(gain, bias))
    torch.testing.assert_close(folded, found.input(normed), rtol=1e-4, atol=1e-4)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10**6), mode=st.sampled_from(MODES), scales=st.booleans())
def test_the_search_is_never_worse_than_no_smoothing(seed: int, mode: str, scales: bool) -> None:
    x, weight = problem(seed)
    shown = Shown(x, x.amin(dim=0), x.amax(dim=0))
    found, activation, error = search(shown, weight, [mode], scales, scales)[mode]
    plain = Smoothing.identity(x.shape[1])
    assert error == pytest.approx(objective(x, weight, found, activation), rel=1e-3)
    tried = activations(plain, shown, mode.split("+")[0], activation.apart)
    assert error <= min(objective(x, weight, plain, one) for one in tried) * (1 + 1e-6)
    assert len(activation.apart) == (8 if "+" in mode else 0)
    assert found.is_identity or scales


def test_it_is_much_better_where_channels_differ() -> None:
    x, weight = problem(0)
    found, _, error = search(Shown(x, x.amin(dim=0), x.amax(dim=0)), weight, ["token"], True, True)["token"]
    assert not found.is_identity
    assert error < objective(x, weight, Smoothing.identity(64), Activation("token")) / 4


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 0.0])
@pytest.mark.parametrize("mode", MODES)
def test_useless_channels_get_no_factor(value: float, mode: str) -> None:
    x, weight = problem(1)
    low, high = x.amin(dim=0), x.amax(dim=0)
    low[5], high[5] = value, value
    weight[:, 7] = 0
    found = smoothing(low, high, weight, 0.8, shifted=True)
    for channel in (5, 7):
        assert (found.scale[channel], found.shift[channel]) == (1, 0)
    assert torch.isfinite(found.scale).all()
    assert torch.isfinite(found.shift).all()
    assert (found.scale > 0).all()
    x[:, 5] = 0
    chosen = search(Shown(x, low, high), weight, [mode], True, True)[mode]
    assert np.isfinite(chosen[2])
    assert torch.isfinite(chosen[0].scale).all()


def test_channels_that_calibration_hardly_showed_are_not_scaled_without_end() -> None:
    low, high = -torch.ones(8), torch.ones(8)
    low[0], high[0] = -1e-30, 1e-30
    found = smoothing(low, high, torch.ones(3, 8), 1.0, shifted=False)
    assert found.scale.max() / found.scale.min() <= 1.0001e4


def test_channels_apart_are_exact_and_let_the_others_be_rounded_more_finely() -> None:
    x, weight = problem(0)
    shown = Shown(x, x.amin(dim=0), x.amax(dim=0))
    _, plain, error = search(shown, weight, ["tensor"], False, False)["tensor"]
    _, activation, less = search(shown, weight, ["tensor+8"], False, False)["tensor+8"]
    assert {0, 1} <= set(activation.apart)  # the two large channels
    assert activation.scale < plain.scale / 10
    assert less < error / 50
    given = rounded(x, activation)
    assert torch.equal(given[:, list(activation.apart)], x[:, list(activation.apart)])
    assert (given - x).abs().max() <= activation.scale * 0.501


@pytest.mark.parametrize("zero", [1, 20, 128, 254])
def test_rounding_errs_by_half_a_step_of_each_tokens_own(zero: int) -> None:
    mode = "token"
    x = torch.randn(50, 32, generator=torch.Generator().manual_seed(2)) * torch.logspace(-20, 20, 50)[:, None]
    step = torch.maximum(x.amax(dim=1) / (255 - zero), -x.amin(dim=1) / zero)
    error = (rounded(x, Activation(mode, zero)) - x).abs().amax(dim=1)
    assert (error <= step * 0.501).all()
    assert (rounded(torch.zeros(2, 32), Activation(mode, zero)) == 0).all()
    alone = torch.cat([rounded(row[None], Activation(mode, zero)) for row in x])
    assert torch.equal(alone, rounded(x, Activation(mode, zero)))
