"""8-bit weights with one scale a row: never worse than rounded, and better where inputs depend on each other."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from converter.int8.weights import joined, nearest, per_channel
from converter.quantize.gptq import objective


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6), tokens=st.integers(1, 300))
def test_no_row_of_8_bit_weights_is_worse_than_rounded(seed: int, tokens: int) -> None:
    make = torch.Generator().manual_seed(seed)
    x = (torch.randn(tokens, 12, generator=make) @ torch.randn(12, 160, generator=make)).double()
    weight, hessian = torch.randn(16, 160, generator=make), x.T @ x / tokens
    (found, _), plain = per_channel(weight, hessian), nearest(weight)
    assert (objective(weight, found, hessian) <= objective(weight, plain, hessian)).all()
    assert found.codes.min() >= 1
    np.testing.assert_allclose(plain.dequantize(), weight, atol=0.501 * plain.scales.max())


def test_8_bit_weights_are_much_better_than_rounded_where_inputs_depend_on_each_other() -> None:
    make = torch.Generator().manual_seed(1)
    x = (torch.randn(400, 12, generator=make) @ torch.randn(12, 160, generator=make)).double()
    weight, hessian = torch.randn(16, 160, generator=make), x.T @ x / 400
    ours, plain = (objective(weight, codes, hessian).sum() for codes in (per_channel(weight, hessian)[0], nearest(weight)))
    assert ours < plain / 4


def test_columns_apart_are_not_rounded_and_make_up_for_the_others() -> None:
    make = torch.Generator().manual_seed(2)
    x = (torch.randn(400, 12, generator=make) @ torch.randn(12, 160, generator=make)).double()
    weight, hessian, apart = torch.randn(16, 160, generator=make), x.T @ x / 400, (3, 77, 120, 159)
    codes, beside = per_channel(weight, hessian, apart)
    assert (codes.dequantize()[:, list(apart)] == 0).all()

    def error(kept: torch.Tensor) -> float:
        return float(((joined(codes, kept, apart) - weight).double() @ x.T).square().mean())

    assert error(beside) < error(weight[:, list(apart)]) / 2


@pytest.mark.parametrize("value", [float("nan"), 0.0])
def test_a_useless_hessian_leaves_the_weights_rounded(value: float) -> None:
    weight = torch.randn(4, 64, generator=torch.Generator().manual_seed(0))
    weight[2] = 0
    found, _ = per_channel(weight, torch.full((64, 64), value, dtype=torch.float64))
    np.testing.assert_array_equal(found.codes, nearest(weight).codes)
    assert (found.dequantize()[2] == 0).all()
