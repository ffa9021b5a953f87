"""The quantization grid and both packings, held to MLX's and ONNX Runtime's own."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from converter.quantize.grid import Grid, Scheme, round_to_nearest
from converter.targets.mlx import pack
from converter.targets.onnx.packed import unsigned

BITS = (2, 3, 4, 5, 6, 8)


def weights(seed: int = 0, rows: int = 24, columns: int = 256) -> np.ndarray:
    """Normal weights with groups that are constant, zero, one-sided and with an outlier."""
    values = np.random.default_rng(seed).standard_normal((rows, columns), np.float32) * np.float32(0.05)
    values[0, :64], values[1, :64], values[2, 3] = 0.25, 0, 7
    values[3], values[4] = np.abs(values[3]), -np.abs(values[4])
    return values


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("group_size", [32, 64, 128])
def test_codes_scales_and_packing_are_those_of_mlx(bits: int, group_size: int) -> None:
    import mlx.core as mx

    expected = mx.quantize(mx.array(weights()), group_size=group_size, bits=bits)
    ours = round_to_nearest(weights(), Scheme(bits, group_size), Grid(np.float32))
    for got, wanted in zip((pack(ours.codes, bits), ours.scales, ours.offsets), expected, strict=True):
        np.testing.assert_array_equal(got, np.array(wanted))


@pytest.mark.parametrize("bits", BITS)
def test_mlx_reads_what_we_pack_as_what_we_meant(bits: int) -> None:
    import mlx.core as mx

    ours = round_to_nearest(weights(1), Scheme(bits, 64), Grid())
    packed = (mx.array(pack(ours.codes, bits)), mx.array(ours.scales), mx.array(ours.offsets))
    read = np.array(mx.dequantize(*packed, group_size=64, bits=bits))
    np.testing.assert_allclose(read, ours.dequantize(), rtol=1e-6, atol=1e-7)


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(BITS),
    st.integers(0, 2**32 - 1),
    st.floats(1e-4, 100),
    st.floats(-3, 3),
    st.booleans(),
)
def test_no_weight_is_further_than_the_grid_allows(bits: int, seed: int, spread: float, shift: float, zero: bool) -> None:
    """Half a step for rounding, and half a step more at the far end, because the grid is moved to have zero on it."""
    rng = np.random.default_rng(seed)
    weight = ((rng.standard_normal((4, 64)) + shift) * spread).astype(np.float32)
    codes = round_to_nearest(weight, Scheme(bits, 64), Grid(np.float32, zero))
    error = np.abs(codes.dequantize() - weight).max(axis=1)
    assert (error <= np.abs(codes.scales[:, 0]) * (1.01 + 2**-bits) + 1e-6 * np.abs(weight).max()).all()


@pytest.mark.parametrize("bits", [4, 8])
def test_unsigned_codes_say_the_same_as_signed_scales(bits: int) -> None:
    codes = round_to_nearest(weights(2), Scheme(bits, 32), Grid(np.float32, True))
    turned, scales, zeros = unsigned(codes)
    assert (scales > 0).all()
    assert turned.max() < 2**bits
    assert zeros.max() < 2**bits
    grouped = turned.reshape(24, -1, 32).astype(np.float32)
    again = ((grouped - zeros[..., None]) * scales[..., None]).reshape(weights().shape)
    np.testing.assert_allclose(again, codes.dequantize(), atol=1e-6)
    np.testing.assert_allclose(again, weights(2), atol=0.6 * scales.max())


def test_more_bits_are_never_worse() -> None:
    errors = [
        np.square(round_to_nearest(weights(3), Scheme(bits, 64), Grid()).dequantize() - weights(3)).sum() for bits in BITS
    ]
    assert errors == sorted(errors, reverse=True)
