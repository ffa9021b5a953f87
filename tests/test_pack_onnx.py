"""The packing of ONNX Runtime's 4-bit weights, held to its own quantizer, and read back by its own kernels."""

from pathlib import Path

import numpy as np
import pytest
import torch
from checkpoints import bert_config, write_bert, write_recipe
from onnxruntime.capi._pybind_state import quantize_matmul_4bits

from converter import calibrate, corpus, pipeline, recipe
from converter.quantize.grid import Scheme, round_to_nearest
from converter.quantize.torch_ops import TorchOps
from converter.source import open_source
from converter.targets.onnx import GRID
from converter.targets.onnx.recorder import pack
from shim import load
from shim.architectures import bert
from shim.pooling import outputs

TEXTS = ["one", "a rather longer text about rivers and their mouths", "двенадцать месяцев"]


@pytest.mark.parametrize("blocks", [1, 2, 3])
def test_two_codes_lie_in_a_byte_as_onnxruntime_packs_them(blocks: int) -> None:
    rows, size = 5, 32
    rng = np.random.default_rng(blocks)
    codes = rng.integers(0, 16, (rows, blocks * size), dtype=np.uint8)
    codes[:, ::size], codes[:, 1::size] = 0, 15  # so that the span of each block tells its scale and zero point
    zeros = rng.integers(0, 16, (rows, blocks), dtype=np.uint8)
    weight = ((codes.reshape(rows, blocks, size) - zeros[..., None].astype(np.float32)) * 0.25).reshape(rows, -1)
    packed = np.zeros((rows, blocks, size // 2), np.uint8)
    scales, points = np.zeros(rows * blocks, np.float32), np.zeros(rows * -(-blocks // 2), np.uint8)
    quantize_matmul_4bits(packed, np.ascontiguousarray(weight.T), scales, points, size, rows, blocks * size, False)
    assert (scales == 0.25).all()
    np.testing.assert_array_equal(pack(codes, 4), packed.reshape(rows, -1))
    np.testing.assert_array_equal(pack(zeros, 4), points.reshape(rows, -1))


@pytest.mark.parametrize(("bits", "effort"), [(4, "balanced"), (8, "fast")])
@pytest.mark.parametrize("width", [64, 96])  # one block a row, and three, whose zero points end in half a byte
def test_the_kernels_read_what_was_meant(tmp_path: Path, bits: int, effort: str, width: int) -> None:
    directory = write_bert(tmp_path / "checkpoint", bert_config(hidden_size=width, intermediate_size=2 * width))
    tiny = recipe.load(str(write_recipe(tmp_path / "tiny.toml", dimensions=width)))
    request = pipeline.Request(tiny, "onnx", bits, str(directory), tmp_path / "out", verified=False, effort=effort)
    path, manifest = pipeline.convert(request, lambda *_: None)
    model = load(path, allow_unverified=True)
    checkpoint = open_source(tiny, str(directory)).without(bert.OPTIONAL)
    plan = {name: Scheme(**entry) for name, entry in manifest.quantization["tensors"].items()}
    if effort == "fast":
        codes = {name: round_to_nearest(checkpoint.read(f"{name}.weight"), scheme, GRID) for name, scheme in plan.items()}
    else:
        tokens = calibrate.prepare(checkpoint, tiny, corpus.read(corpus.CALIBRATION))
        codes = calibrate.quantize(checkpoint, tiny, plan, tokens, GRID, "gptq", lambda *_: None).codes
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
