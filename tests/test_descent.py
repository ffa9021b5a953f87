"""Coordinate descent over codes that are there already, on the objective that it is for."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_gptq import BITS, MLX, check_stored, grids, problem
from torch import Tensor

from converter.quantize.descent import descend
from converter.quantize.gptq import gptq, objective
from converter.quantize.grid import Codes, Grid, Scheme, round_to_nearest


def damped(hessian: Tensor) -> Tensor:
    return (hessian + 0.01 * hessian.diagonal().mean() * torch.eye(len(hessian))).float()


@grids
@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), bits=st.sampled_from(BITS), group=st.sampled_from([32, 64, 128]), tokens=st.integers(1, 300))
def test_no_row_gets_worse(grid: Grid, seed: int, bits: int, group: int, tokens: int) -> None:
    weight, hessian = problem(seed, tokens)
    square = damped(hessian)
    nearest = round_to_nearest(weight.numpy(), Scheme(bits, group), grid)  # of either sign: its grid may run downward
    before, after = (objective(weight, codes, square) for codes in (nearest, descend(weight, square, nearest, grid)))
    assert (after <= before * (1 + 1e-4)).all()


@grids
@pytest.mark.parametrize("bits", [4, 8])
def test_it_betters_what_went_over_the_columns_once(grid: Grid, bits: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each part of it: the codes alone, and the scales with them."""
    weight, hessian = problem(0)

    def off() -> float:
        return float(objective(weight, gptq(weight, hessian, Scheme(bits, 32), grid), hessian).sum())

    both = off()
    monkeypatch.setattr("converter.quantize.descent._refitted", lambda code, stored, *rest: stored)
    codes = off()
    monkeypatch.setattr("converter.quantize.gptq.descend", lambda weight, square, codes, grid: codes)
    once = off()
    assert codes < 0.8 * once
    assert both < 0.9 * codes


@grids
def test_what_it_gives_can_be_stored(grid: Grid) -> None:
    weight, hessian = problem(1)
    codes = descend(weight, damped(hessian), round_to_nearest(weight.numpy(), Scheme(3, 32), grid), grid)
    check_stored(codes, grid)


def test_a_group_of_zeros_stays_finite() -> None:
    weight, hessian = problem(3)
    weight[:, 32:64] = 0
    found = descend(weight, damped(hessian), round_to_nearest(weight.numpy(), Scheme(4, 32), MLX), MLX).dequantize()
    assert np.isfinite(found).all()
    assert np.abs(found).max() < 2 * weight.abs().max()


@grids
def test_each_row_may_have_a_hessian_of_its_own(grid: Grid) -> None:
    weight, hessian = problem(4)
    other = damped(problem(5)[1])
    start = round_to_nearest(weight.numpy(), Scheme(4, 32), grid)
    half = len(weight) // 2
    own = torch.stack([damped(hessian)] * half + [other] * (len(weight) - half), dim=2)
    found = descend(weight, own, start, grid)
    for part, square in ((slice(half), damped(hessian)), (slice(half, None), other)):
        alone = Codes(start.codes[part], start.scales[part], start.offsets[part], start.scheme)
        alone = descend(weight[part], square, alone, grid)
        gave = objective(weight[part], Codes(found.codes[part], found.scales[part], found.offsets[part], found.scheme), square)
        torch.testing.assert_close(gave, objective(weight[part], alone, square), rtol=0.05, atol=0)
