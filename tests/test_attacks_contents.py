"""Files made to do harm, with the right hashes, as whoever wrote them wrote the manifest, too: one line from both programs."""

import json
import re
import shutil
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from support.commands import one_line, run
from support.published import publish, refused, replace

import shim
from shim.errors import IntegrityError


def tensors(header: object, data: bytes = b"", length: int | None = None) -> bytes:
    """A safetensors file; `length` is what it says of its header."""
    packed = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(packed) if length is None else length) + packed + data


F32 = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}
SAFETENSORS = {
    "a header longer than the file": tensors({"a": F32}, b"1234", 1 << 40),
    "a header of 2^64 bytes": tensors({"a": F32}, b"1234", (1 << 64) - 1),
    "a header that ends early": tensors({"a": F32}, b"1234", 5),
    "a deep header": tensors(b'{"a":' + b"[" * 1_000_000),
    "data behind the end": tensors({"a": {**F32, "data_offsets": [1 << 50, (1 << 50) + 4]}}, b"1234"),
    "data before the start": tensors({"a": {**F32, "data_offsets": [-4, 0]}}, b"1234"),
    "a shape that is too large": tensors({"a": {**F32, "shape": [1 << 31, 1 << 31, 4]}}, b"1234"),
    "a negative shape": tensors({"a": {**F32, "shape": [-1]}}, b"1234"),
    "bytes that are no text": tensors(b'{"\xff\xfe": 1}'),
    "nothing": b"",
}


@pytest.mark.parametrize("name", SAFETENSORS)
def test_safetensors_that_lie_are_refused_by_both(tiny_mlx: Path, tiny: Path, tmp_path: Path, name: str) -> None:
    folder = publish(tmp_path / "mlx", tiny_mlx, name="tiny-mlx-8bit")
    replace(folder, "model.safetensors", SAFETENSORS[name])
    assert "MLX cannot load it" in refused(folder)
    checkpoint = Path(shutil.copytree(tiny / "checkpoint", tmp_path / "checkpoint"))
    (checkpoint / "model.safetensors").write_bytes(SAFETENSORS[name])
    one_line(run("converter", tiny / "tiny.toml", "--source", checkpoint, "--to", "mlx", "--out", tmp_path / "out", check=3))


def test_a_pickle_that_is_compressed_does_not_reach_the_memory(tiny: Path, tmp_path: Path) -> None:
    """3 MB would be 3 GB."""
    checkpoint = Path(shutil.copytree(tiny / "checkpoint", tmp_path / "checkpoint"))
    (checkpoint / "model.safetensors").unlink()
    torch.save({"a": torch.zeros(3)}, tmp_path / "good.bin")
    with zipfile.ZipFile(tmp_path / "good.bin") as good, zipfile.ZipFile(checkpoint / "pytorch_model.bin", "w") as bomb:
        for name in good.namelist():
            packed = zipfile.ZIP_DEFLATED if name.endswith("version") else zipfile.ZIP_STORED
            bomb.writestr(name, good.read(name) + b"\n" * 100_000_000 * (packed == zipfile.ZIP_DEFLATED), packed)
    command = (tiny / "tiny.toml", "--source", checkpoint, "--to", "mlx", "--out", tmp_path / "out")
    assert "pytorch_model.bin: refused, it is compressed" in one_line(run("converter", *command, check=3))


def elsewhere(graph: Path, location: str) -> None:
    """Have the graph take its external data from somewhere else."""
    model = onnx.load(graph, load_external_data=False)
    for tensor in model.graph.initializer:
        for each in tensor.external_data:
            if each.key == "location":
                each.value = location
    graph.write_bytes(model.SerializeToString())


PLACES: dict[str, Callable[[Path], str]] = {
    "a file of the system": lambda outside: "/etc/passwd",
    "absolute": str,
    "above": lambda outside: "../../outside",
    "through a folder's symlink": lambda outside: "link/outside",
    "a symlink": lambda outside: "linked",
    "in a file that no list names": lambda outside: "more_data",
    "in another file of the artifact": lambda outside: "../assets/parity.svg",
    "nowhere": lambda outside: "nowhere",
    "in the graph": lambda outside: "model_quantized.onnx",
    "in the folder": lambda outside: ".",
}


@pytest.mark.parametrize("where", PLACES)
def test_external_data_outside_the_graphs_folder_is_refused(tiny_8bit: Path, tmp_path: Path, where: str) -> None:
    """Where there are symlinks, the manifest lists them as the files that they lead to."""
    folder = publish(tmp_path / "published", tiny_8bit, external=True)
    graph = folder / "onnx/model_quantized.onnx"
    outside = Path(shutil.copy(f"{graph}_data", tmp_path / "outside"))
    elsewhere(graph, PLACES[where](outside))
    if where == "through a folder's symlink":
        (folder / "onnx/link").symlink_to(tmp_path)
    if where == "a symlink":
        (folder / "onnx/linked").symlink_to(outside)
        replace(folder, "onnx/linked", outside.read_bytes())
    if where == "in a file that no list names":
        shutil.copy(outside, folder / "onnx/more_data")
    replace(folder, "onnx/model_quantized.onnx", graph.read_bytes())
    assert re.search("onnxruntime cannot load it|is not listed in the manifest", refused(folder))


BERT = {"type": "BertProcessing", "sep": ["[SEP]", 4_000_000_000], "cls": ["[CLS]", 4_000_000_000]}
TEMPLATE = {"type": "TemplateProcessing", "pair": [], "special_tokens": {}}
TOKENIZERS: dict[str, Callable[[dict[str, Any]], object]] = {
    "ids that no table has": lambda t: t.update(post_processor=BERT),
    "words that no table has": lambda t: t["model"].update(vocab={w: i + 10**9 for w, i in t["model"]["vocab"].items()}),
    "no words": lambda t: t["model"].update(vocab={}),
    "a table that its library panics at": lambda t: t.update(
        normalizer={"type": "Precompiled", "precompiled_charsmap": "AAAA"}
    ),
    "a token that there is not": lambda t: t.update(
        post_processor={**TEMPLATE, "single": [{"SpecialToken": {"id": "[NONE]", "type_id": 0}}]}
    ),
    "a second text that there is not": lambda t: t.update(
        post_processor={**TEMPLATE, "single": [{"Sequence": {"id": "B", "type_id": 0}}]}
    ),
    "an expression that takes for ever": lambda t: t.update(
        pre_tokenizer={"type": "Split", "pattern": {"Regex": "(a+)+$"}, "behavior": "Isolated", "invert": False}
    ),
}


@pytest.mark.parametrize("target", ["tiny_8bit", "tiny_mlx"])
@pytest.mark.parametrize("name", TOKENIZERS)
def test_a_tokenizer_that_does_not_fit_is_refused(
    request: pytest.FixtureRequest, tmp_path: Path, target: str, name: str
) -> None:
    """MLX looks up any id, and reads the memory behind a table where it has no row."""
    folder = Path(shutil.copytree(request.getfixturevalue(target), tmp_path / "artifact"))
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    TOKENIZERS[name](tokenizer)
    replace(folder, "tokenizer.json", json.dumps(tokenizer).encode())
    assert "tokenizer.json" in refused(folder)


CONFIGS: dict[str, bytes] = {
    "deep": b"[" * 1_000_000,
    "deep objects": b'{"a":' * 1_000_000,
    "a long number": b'{"a": 1' + b"0" * 1_000_000 + b"}",
    "huge": b'{"a": "' + b"x" * (16 << 20) + b'"}',
    "layers without end": b'{"num_hidden_layers": 1000000000}',
    "a padding id of a hundred digits": b'{"pad_token_id": 1' + b"0" * 100 + b"}",
    "a group of nothing": b'{"quantization": {"bits": 8, "group_size": 0}}',
    "no settings": b'{"quantization": null}',
    "few positions": b'{"max_position_embeddings": 16}',
}


@pytest.mark.parametrize("name", CONFIGS)
def test_a_config_that_would_fill_memory_or_time_is_refused(tiny_mlx: Path, tmp_path: Path, name: str) -> None:
    folder = Path(shutil.copytree(tiny_mlx, tmp_path / "artifact"))
    content = CONFIGS[name]
    if len(content) < 200:
        content = json.dumps({**json.loads((folder / "config.json").read_text()), **json.loads(content)}).encode()
    replace(folder, "config.json", content)
    assert "config.json" in refused(folder)


def test_a_graph_that_is_no_encoder_is_refused(tiny_8bit: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_8bit, tmp_path / "artifact"))
    for old, new, message in (("attention_mask", "__class__", "inputs are"), ("sentence_embedding", "other", "outputs are")):
        model = onnx.load(tiny_8bit / "onnx/model.onnx")
        for values in (model.graph.input, model.graph.output):
            for value in values:
                value.name = new if value.name == old else value.name
        for node in model.graph.node:
            for names in (node.input, node.output):
                names[:] = [new if name == old else name for name in names]
        replace(folder, "onnx/model.onnx", model.SerializeToString())
        assert message in refused(folder)


def test_two_graphs_are_not_one(tiny_8bit: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_8bit, tmp_path / "artifact"))
    replace(folder, "onnx/more.onnx", (folder / "onnx/model.onnx").read_bytes())
    with pytest.raises(IntegrityError, match="2 .onnx files"):
        shim.load(folder)
