"""Our safetensors reader is as strict as the format, and every type reads as the values it stands for."""

import json
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from converter.source.checkpoint import Checkpoint, index
from converter.source.layout import Layout
from shim.errors import SourceError
from shim.spec import ModelSpec


def bare(folder: Path) -> Checkpoint:
    """The tensors in a folder, of no model."""
    spec = ModelSpec("bert", "mean", 8, 4, ["dense"])
    return Checkpoint(folder, {}, {}, index(folder), spec, folder, folder, Layout(), {})


def write(path: Path, header: dict[str, Any], size: int) -> None:
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(size))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_every_type_reads_as_its_values(tmp_path: Path, dtype: torch.dtype) -> None:
    tensor = torch.randn(7, 5).to(dtype)
    save_file({"first": torch.zeros(3), "w": tensor}, tmp_path / "model.safetensors")
    got = bare(tmp_path).read("w")
    assert got.dtype == np.float32
    np.testing.assert_array_equal(got, tensor.float().numpy())


def entry(first: int, last: int, dtype: str = "F32", shape: tuple[int, ...] = (2,)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [first, last]}


@pytest.mark.parametrize(
    ("header", "size", "message"),
    [
        ({"a": entry(0, 8), "b": entry(16, 24)}, 24, "not readable as safetensors .*nvalid offset for tensor .b."),
        ({"a": entry(0, 8), "b": entry(4, 12)}, 12, "not readable as safetensors .*nvalid offset for tensor .b."),
        ({"a": entry(0, 8)}, 16, "not readable as safetensors .*is the download complete"),
        ({"a": entry(0, 4)}, 4, "not readable as safetensors .*is the download complete"),
        ({"a": entry(0, 8, "F8_E5M2", (8,))}, 8, "type F8_E5M2, which is not supported"),
        ({"a": {"dtype": "F32"}}, 0, "not readable as safetensors"),
        ({"a": []}, 0, "not readable as safetensors"),
    ],
)
def test_a_header_that_lies_is_refused(tmp_path: Path, header: dict[str, Any], size: int, message: str) -> None:
    write(tmp_path / "model.safetensors", header, size)
    with pytest.raises(SourceError, match=message):
        index(tmp_path)


def test_integers_are_no_weights_but_may_lie_beside_them(tmp_path: Path) -> None:
    save_file({"position_ids": torch.arange(9), "mask": torch.ones(3, dtype=torch.bool)}, tmp_path / "model.safetensors")
    checkpoint = bare(tmp_path)
    assert set(checkpoint.tensors) == {"position_ids", "mask"}
    with pytest.raises(SourceError, match="position_ids has type I64, not a floating-point one"):
        checkpoint.read("position_ids")


def test_a_weight_that_float16_cannot_hold_is_named(tmp_path: Path) -> None:
    save_file({"w": torch.tensor([1.0, 70_000.0])}, tmp_path / "model.safetensors")
    checkpoint = bare(tmp_path)
    assert checkpoint.read("w").max() == 70_000
    with pytest.raises(SourceError, match="tensor w is out of the range of float16"):
        checkpoint.read("w", np.float16)


def test_strides_that_reach_behind_the_file_are_refused(tmp_path: Path) -> None:
    """Read as they stand, they would be whatever lies in memory behind the file's numbers."""
    path = tmp_path / "pytorch_model.bin"
    torch.save({"weight": torch.zeros(8, 4).T}, path)
    assert index(tmp_path)["weight"].shape == (4, 8)
    lying = tmp_path / "lying"
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(lying, "w") as changed:
        for entry in source.infolist():
            content = source.read(entry)
            if entry.filename.endswith("data.pkl"):  # its strides (1, 4), as two one-byte integers, become (1, 65535)
                assert content.count(b"K\x01K\x04") == 1
                content = content.replace(b"K\x01K\x04", b"K\x01M\xff\xff")
            changed.writestr(entry, content)
    lying.replace(path)
    with pytest.raises(SourceError, match="ends behind the file"):
        index(tmp_path)
