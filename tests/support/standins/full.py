"""Full-size stand-ins: a real repository's own files, and seeded weights of the real shapes, written block by block."""

import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoModelForSequenceClassification

from support.standins.layouts import Standin
from support.standins.weights import blocks, draw

SHARD = 5 * 10**9  # bytes; the greatest size of a file of weights, as transformers cuts them
BYTES = {"F32": 4, "BF16": 2, "I64": 8}
SPARSE = 0.2  # what the sparse head gives to a state on average
Shapes = dict[str, tuple[int, ...]]


def build(standin: Standin, hub: Path, directory: Path, progress: Callable[[str], None]) -> None:
    """Write a complete checkpoint into an empty directory: the files of `hub`, bge-m3's real heads among them, and weights."""
    for path in (path for path in hub.rglob("*") if path.is_file()):
        copy = directory / path.relative_to(hub)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, copy)
    shapes = parameters(standin, hub)
    size = sum(int(np.prod(shape)) for shape in shapes.values()) / 1e9
    progress(f"{standin.repo}: drawing {size:.2f} billion weights")
    if standin.repo == "BAAI/bge-m3":
        tensors = {name: torch.from_numpy(draw(name, shape)) for name, shape in shapes.items()}
        # The real sparse head was trained on states for which most of its weights are positive, about 0.1 to 0.3.
        head = torch.load(hub / "sparse_linear.pt", weights_only=True)
        bias = tensors[max((name for name in tensors if name.endswith(".output.LayerNorm.bias")), key=_layer)]
        bias += SPARSE * head["weight"][0].float() / head["weight"].float().square().sum()
        positions = torch.arange(standin.positions)[None]
        torch.save({"embeddings.position_ids": positions} | tensors, directory / "pytorch_model.bin")
        return
    write(directory, shapes, standin.type)


def _layer(name: str) -> tuple[int, bool]:
    return int(name.split(".")[2]), ".attention." not in name


def parameters(standin: Standin, hub: Path) -> Shapes:
    """{name: shape} of the real checkpoint: for these repositories they are transformers' own, less the tied head."""
    kinds = {"xlm_roberta_reranker": AutoModelForSequenceClassification, "qwen3_reranker": AutoModelForCausalLM}
    with torch.device("meta"):
        model = kinds.get(standin.family, AutoModel).from_config(AutoConfig.from_pretrained(hub))
    return {name: tuple(value.shape) for name, value in model.named_parameters()}


def write(directory: Path, shapes: Shapes, kind: str) -> None:
    """model.safetensors, or shards and their index."""
    shards: list[Shapes] = [{}]
    filled = 0
    for name, shape in shapes.items():
        size = int(np.prod(shape)) * BYTES[kind]
        if filled + size > SHARD:
            shards.append({})
            filled = 0
        shards[-1][name] = shape
        filled += size
    if len(shards) == 1:
        write_file(directory / "model.safetensors", shapes, kind)
        return
    places = {}
    for number, shard in enumerate(shards, 1):
        file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        write_file(directory / file, shard, kind)
        places |= dict.fromkeys(shard, file)
    total = sum(int(np.prod(shape)) * BYTES[kind] for shape in shapes.values())
    index = {"metadata": {"total_size": total}, "weight_map": places}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")


def write_file(path: Path, shapes: Shapes, kind: str) -> None:
    """One file. Format: https://github.com/huggingface/safetensors, "Format"."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, shape in shapes.items():
        start, end = end, end + int(np.prod(shape)) * BYTES[kind]
        header[name] = {"dtype": kind, "shape": shape, "data_offsets": (start, end)}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name, shape in shapes.items():
            for values in blocks(name, shape):
                file.write((bfloat16(values) if kind == "BF16" else values).data)


def bfloat16(values: np.ndarray) -> np.ndarray:
    """uint16: the upper halves of float32, rounded to the nearest and, between two, to the even one."""
    bits = values.view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
