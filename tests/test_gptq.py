"""GPTQ and the clip search, on the objective that they are for."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from converter.quantize.gptq import clip, gptq, objective, searched
from converter.quantize.grid import Codes, Grid, Scheme, round_to_nearest

BITS = (2, 3, 4, 5, 6, 8)
MLX, ONNX = Grid(np.float16, integer_zero=False), Grid(np.float32, integer_zero=True)
grids = pytest.mark.parametrize("grid", [MLX, ONNX])


def problem(seed: int, tokens: int = 300, rows: int = 16, columns: int = 128) -> tuple[Tensor, Tensor]:
    """A matrix, and the Hessian of inputs that depend on each other and have a mean and a few large channels."""
    make = torch.Generator().manual_seed(seed)
    inputs = torch.randn(tokens, 20, generator=make) @ torch.randn(20, columns, generator=make)
    inputs += 0.3 * torch.randn(tokens, columns, generator=make) + torch.randn(columns, generator=make)
    inputs[:, :3] *= 10
    inputs = inputs.double()
    return torch.randn(rows, columns, generator=make) * 0.05, inputs.T @ inputs / tokens


def check_stored(codes: Codes, grid: Grid) -> None:
    """Codes are what the packers take: within their bits, scales and offsets as they are stored."""
    top = 2**codes.scheme.bits - 1
    assert codes.codes.dtype == np.uint8
    assert codes.codes.max() <= top
    for stored in (codes.scales, codes.offsets):
        np.testing.assert_array_equal(stored, stored.astype(grid.dtype).astype(np.float32))
    if grid.integer_zero:
        zeros = -codes.offsets / codes.scales
        np.testing.assert_allclose(zeros, np.round(zeros), atol=1e-4)
        assert zeros.min() > -0.01
        assert zeros.max() < top + 0.01


@grids
@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), bits=st.sampled_from(BITS), group=st.sampled_from([32, 64, 128]), tokens=st.integers(1, 300))
def test_no_row_is_worse_than_rounded_to_nearest(grid: Grid, seed: int, bits: int, group: int, tokens: int) -> None:
    weight, hessian = problem(seed, tokens)
    scheme = Scheme(bits, group)
    ours = objective(weight, gptq(weight, hessian, scheme, grid), hessian)
    nearest = objective(weight, round_to_nearest(weight.numpy(), scheme, grid), hessian)
    assert (ours <= nearest).all()


@grids
@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 10**6), group=st.sampled_from([32, 64, 128]))
def test_more_bits_are_never_worse(grid: Grid, seed: int, group: int) -> None:
    weight, hessian = problem(seed)
    found = [objective(weight, gptq(weight, hessian, Scheme(bits, group), grid), hessian).sum() for bits in BITS]
    assert found == sorted(found, reverse=True)


@grids
def test_it_is_much_better_than_rounding_where_inputs_depend_on_each_other(grid: Grid) -> None:
    weight, hessian = problem(0)
    ours = objective(weight, gptq(weight, hessian, Scheme(4, 64), grid), hessian).sum()
    nearest = objective(weight, round_to_nearest(weight.numpy(), Scheme(4, 64), grid), hessian).sum()
    assert ours < nearest / 4


@grids
def test_codes_are_what_the_packers_take(grid: Grid) -> None:
    weight, hessian = problem(1)
    codes = gptq(weight, hessian, Scheme(3, 32), grid)
    check_stored(codes, grid)


def test_dead_channels_are_rounded_and_disturb_nothing() -> None:
    weight, hessian = problem(2)
    hessian[40:60], hessian[:, 40:60] = 0, 0
    found = gptq(weight, hessian, Scheme(4, 64), MLX).dequantize()
    assert np.isfinite(found).all()
    assert np.abs(found - weight.numpy())[:, 40:60].max() < 0.1


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 0.0])
def test_a_useless_hessian_leaves_rounding_to_nearest(value: float) -> None:
    weight, hessian = problem(3)
    codes = gptq(weight, torch.full_like(hessian, value), Scheme(4, 64), MLX)
    np.testing.assert_array_equal(codes.dequantize(), round_to_nearest(weight.numpy(), Scheme(4, 64), MLX).dequantize())


def test_constant_and_zero_weights_stay_what_they_are() -> None:
    _, hessian = problem(4)
    weight = torch.zeros(3, 128)
    weight[1] = 0.25
    np.testing.assert_allclose(gptq(weight, hessian, Scheme(4, 64), MLX).dequantize(), weight.numpy(), atol=1e-6)


def test_clipping_spends_the_grid_on_what_is_important() -> None:
    weight = torch.linspace(-1, 1, 64)[None]
    weight[0, 0] = -8
    scale, _ = clip(weight.T, torch.where(weight > -2, 1.0, 1e-6)[0], Scheme(4, 64), MLX)
    whole, _ = clip(weight.T, torch.where(weight > -2, 1e-6, 1.0)[0], Scheme(4, 64), MLX)
    assert scale < 0.8 * whole


@grids
@pytest.mark.parametrize("bits", [4, 6, 8])
def test_the_clip_search_is_nearer_than_rounding_at_any_bits(grid: Grid, bits: int) -> None:
    weight, _ = problem(5, rows=64)
    ours, nearest = (
        float(np.square(codes.dequantize() - weight.numpy()).sum())
        for codes in (searched(weight, Scheme(bits, 32), grid), round_to_nearest(weight.numpy(), Scheme(bits, 32), grid))
    )
    assert ours < 0.97 * nearest


def test_a_single_row_is_left_as_it_was_given() -> None:
    weight = torch.randn(1, 64, generator=torch.Generator().manual_seed(0))
    before = weight.clone()
    gptq(weight, torch.eye(64, dtype=torch.float64), Scheme(4, 32), Grid())
    assert weight.equal(before)
