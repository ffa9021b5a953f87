"""The packing of ONNX Runtime's weights, held bit for bit to its own quantizers, and read back by its own kernels."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnxruntime.capi._pybind_state import quantize_matmul_4bits, quantize_matmul_8bits
from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer
from onnxruntime.quantization.quant_utils import quantize_data
from support.checkpoints import bert_config, write_bert, write_recipe

from converter import pipeline, recipe
from converter.candidate import Candidate
from converter.int8.weights import ZERO, nearest
from converter.quantize.grid import Codes, Scheme, round_to_nearest
from converter.quantize.torch_ops import TorchOps
from converter.source.open import open_source
from converter.targets import onnx as target
from converter.targets.onnx import GRID
from converter.targets.onnx.packed import pack
from converter.targets.onnx.tables import plane_widths, planes
from shim import load
from shim.architectures import bert
from shim.pooling import outputs

SIZE = 32  # of a block
TEXTS = ["one", "a rather longer text about rivers and their mouths", "двенадцать месяцев"]


def coded(bits: int, rows: int, blocks: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Codes, zero points, and weights whose blocks span all codes, so that their scales are a quarter and those zero points."""
    rng, top = np.random.default_rng(blocks), 2**bits - 1
    codes = rng.integers(0, top + 1, (rows, blocks * SIZE), dtype=np.uint8)
    codes[:, ::SIZE], codes[:, 1::SIZE] = 0, top
    zeros = rng.integers(0, top + 1, (rows, blocks), dtype=np.uint8)
    weight = (codes.reshape(rows, blocks, SIZE) - zeros[..., None].astype(np.float32)) * 0.25
    return codes, zeros, weight.reshape(rows, -1)


@pytest.mark.parametrize(("bits", "quantizer"), [(4, quantize_matmul_4bits), (8, quantize_matmul_8bits)])
@pytest.mark.parametrize("blocks", [1, 2, 3])
def test_codes_lie_in_bytes_as_onnxruntime_packs_them(bits: int, quantizer: Callable[..., Any], blocks: int) -> None:
    rows, per_byte = 5, 8 // bits
    codes, zeros, weight = coded(bits, rows, blocks)
    packed = np.zeros((rows, blocks, SIZE // per_byte), np.uint8)
    scales, points = np.zeros(rows * blocks, np.float32), np.zeros(rows * -(-blocks // per_byte), np.uint8)
    quantizer(packed, np.ascontiguousarray(weight.T), scales, points, SIZE, rows, blocks * SIZE, False)
    assert (scales == 0.25).all()
    np.testing.assert_array_equal(pack(codes, bits), packed.reshape(rows, -1))
    np.testing.assert_array_equal(pack(zeros, bits), points.reshape(rows, -1))


@pytest.mark.parametrize("blocks", [2, 4])  # onnxruntime's own quantizer lets a row begin in the middle of a byte
def test_a_table_lies_in_bytes_as_onnxruntimes_quantizer_puts_it(blocks: int) -> None:
    codes, zeros, weight = coded(4, 6, blocks)
    value = onnx.helper.make_tensor_value_info
    ends = [value("ids", onnx.TensorProto.INT64, ["n"])], [value("rows", onnx.TensorProto.FLOAT, ["n", blocks * SIZE])]
    node = onnx.helper.make_node("Gather", ["table", "ids"], ["rows"])
    graph = onnx.helper.make_graph([node], "table", *ends, [onnx.numpy_helper.from_array(weight, "table")])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 21)])
    quantizer = MatMulNBitsQuantizer(model, 4, SIZE, is_symmetric=False, op_types_to_quantize=("Gather",))
    quantizer.process()
    stored = {entry.name: entry for entry in quantizer.model.model.graph.initializer}
    assert pack(codes, 4).tobytes() == stored["table_Q4"].raw_data
    assert pack(zeros, 4).tobytes() == stored["table_zero_points"].raw_data
    assert (onnx.numpy_helper.to_array(stored["table_scales"]) == 0.25).all()


def test_rows_of_8_bits_are_those_of_onnxruntimes_quantizer() -> None:
    weight = np.random.default_rng(0).standard_normal((7, 40), np.float32)
    found = nearest(torch.from_numpy(weight))
    for row, codes, scale in zip(weight, found.codes, found.scales, strict=True):
        zero, step, wanted = quantize_data(row, onnx.TensorProto.INT8, symmetric=True)
        assert zero == 0
        np.testing.assert_allclose(scale[0], step, rtol=1e-6)
        np.testing.assert_array_equal(codes.astype(np.int16) - ZERO, wanted)


@pytest.mark.parametrize(("bits", "effort"), [(4, "balanced"), (8, "fast")])
@pytest.mark.filterwarnings("ignore:only .* calibration tokens")
@pytest.mark.parametrize("width", [64, 96])  # one block a row, and three, whose zero points end in half a byte
def test_the_kernels_read_what_was_meant(
    tmp_path: Path, few_to_learn_from: Path, monkeypatch: pytest.MonkeyPatch, bits: int, effort: str, width: int
) -> None:
    chosen: dict[str, Codes] = {}
    real = target.write

    def write(loaded: Any, checkpoint: Any, candidate: Candidate, *rest: Any) -> None:
        chosen.update(candidate.codes)
        real(loaded, checkpoint, candidate, *rest)

    monkeypatch.setattr(target, "write", write)
    directory = write_bert(tmp_path / "checkpoint", bert_config(hidden_size=width, intermediate_size=2 * width))
    tiny = recipe.load(str(write_recipe(tmp_path / "tiny.toml", dimensions=width)))
    request = pipeline.Request(tiny, "onnx", bits, str(directory), tmp_path / "out", verified=False, effort=effort)
    if effort != "fast":
        request = dataclasses.replace(request, calibration=few_to_learn_from)
    path, manifest = pipeline.convert(request, lambda *_: None)
    model = load(path, allow_unverified=True)
    checkpoint = open_source(tiny, str(directory)).without(bert.OPTIONAL)
    plan = {name: Scheme(**entry) for name, entry in manifest.quantization["tensors"].items()}
    if effort == "fast":
        codes = {name: round_to_nearest(checkpoint.read(f"{name}.weight"), scheme, GRID) for name, scheme in plan.items()}
    else:
        codes = chosen
        assert {name: found.scheme for name, found in codes.items()} == plan
    weights = {name: torch.from_numpy(checkpoint.read(name)) for name in checkpoint.tensors}
    meant = weights | {f"{name}.weight": torch.from_numpy(found.dequantize()) for name, found in codes.items()}
    batch = model.encoder.batch(model.encoder.encode(TEXTS))
    expected, exact = (
        outputs(TorchOps(tensors, batch), bert, bert.Config.read(checkpoint.config), "mean", ("dense",))["sentence_embedding"]
        for tensors in (meant, weights)
    )
    found = model.embed(TEXTS).dense
    assert np.abs(found - expected.numpy()).max() < 1e-4
    assert np.abs(found - exact.numpy()).max() > 1e-4, "not quantized at all?"


@pytest.mark.parametrize("bits", [1, 2, 3, 5, 6, 7])
def test_planes_hold_every_bit_once(bits: int) -> None:
    codes = np.random.default_rng(bits).integers(0, 2**bits, (5, 64), dtype=np.uint8)
    packed = planes(codes, bits)
    assert packed.shape == (5, 8 * bits)
    found, start, below = np.zeros((5, 64), np.uint8), 0, 0
    for width in plane_widths(bits):
        size = 64 * width // 8
        for column in range(64):  # the column's place: its part of the row is its place in the byte
            byte = packed[:, start + column % size]
            found[:, column] |= ((byte >> (width * (column // size))) & (2**width - 1)) << below
        start, below = start + size, below + width
    np.testing.assert_array_equal(found, codes)
