"""However the weights lie, the same vectors come out: shards, pickles, 16 bits, prefixes, links, adapters."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from support import saved
from test_saved import TEXTS, checkpoint, converted, off, theirs
from transformers import BertModel


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("layouts")


def sharded(source: Path, to: Path, pickles: bool) -> Path:
    """The same checkpoint, its weights in several files."""
    shutil.copytree(source, to)
    tensors = load_file(to / "model.safetensors")
    (to / "model.safetensors").unlink()
    stem, end = ("pytorch_model", "bin") if pickles else ("model", "safetensors")
    places = {}
    for number in (1, 2):
        name = f"{stem}-0000{number}-of-00002.{end}"
        part = dict(list(tensors.items())[number - 1 :: 2])
        torch.save(part, to / name) if pickles else save_file(part, to / name, metadata={"format": "pt"})
        places |= dict.fromkeys(part, name)
    index = {"metadata": {"total_size": 1}, "weight_map": places}
    (to / f"{stem}.{'bin' if pickles else 'safetensors'}.index.json").write_text(json.dumps(index))
    return to


def halved(source: Path, to: Path, dtype: torch.dtype) -> Path:
    shutil.copytree(source, to)
    tensors = {key: value.to(dtype) for key, value in load_file(source / "model.safetensors").items()}
    save_file(tensors, to / "model.safetensors", metadata={"format": "pt"})
    return to


def prefixed(source: Path, to: Path) -> Path:
    shutil.copytree(source, to)
    tensors = {f"bert.{key}": value for key, value in load_file(source / "model.safetensors").items()}
    save_file(tensors, to / "model.safetensors", metadata={"format": "pt"})
    return to


def snapshot(source: Path, to: Path) -> Path:
    """As the hub's cache lays it: links to files named by their hashes."""
    blobs, commit = to / "blobs", to / "snapshots" / ("0" * 40)
    blobs.mkdir(parents=True)
    for number, path in enumerate(sorted(path for path in source.rglob("*") if path.is_file())):
        shutil.copyfile(path, blobs / str(number))
        link = commit / path.relative_to(source)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(blobs / str(number))
    return commit


LAYOUTS = {
    "sharded safetensors": lambda source, to: sharded(source, to, pickles=False),
    "sharded pickles": lambda source, to: sharded(source, to, pickles=True),
    "float16": lambda source, to: halved(source, to, torch.float16),
    "bfloat16": lambda source, to: halved(source, to, torch.bfloat16),
    "a prefix": prefixed,
    "a snapshot of links": snapshot,
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_of_weights_gives_upstreams_vectors(layout: str, folder: Path, tmp_path: Path, corpus_file: Path) -> None:
    source = LAYOUTS[layout](checkpoint("bert, mean, normalised", folder), tmp_path / "mine")
    model, manifest = converted(source, "onnx", 32, tmp_path / "out", corpus_file)
    assert off(model.embed(TEXTS).dense, theirs(source).encode(TEXTS)) < 1e-4
    weights = [name for name in manifest.source["files"] if name.endswith((".safetensors", ".bin"))]
    assert len(weights) == (2 if "sharded" in layout else 1)


def test_an_adapter_is_merged_into_its_base(folder: Path, tmp_path: Path, corpus_file: Path) -> None:
    peft = pytest.importorskip("peft")
    base = saved.bert(tmp_path / "base")
    low_rank = peft.LoraConfig(r=4, lora_alpha=8, target_modules=["query", "dense"], init_lora_weights=False)
    adapted = peft.get_peft_model(BertModel.from_pretrained(base), low_rank)
    transformer = saved.sentence_transformer(base, tmp_path / "mine", "cls", saved.dense(32, saved.TANH), saved.Normalize())
    for name in ("model.safetensors", "config.json"):
        (transformer / name).unlink()
    adapted.save_pretrained(transformer)
    plain = saved.sentence_transformer(base, tmp_path / "plain", "cls", saved.dense(32, saved.TANH), saved.Normalize())
    model, manifest = converted(transformer, "onnx", 32, tmp_path, corpus_file)
    wanted = theirs(transformer).encode(TEXTS)
    assert off(model.embed(TEXTS).dense, wanted) < 1e-4
    assert off(theirs(plain).encode(TEXTS), wanted) > 1e-2
    assert "adapter/adapter_model.safetensors" in manifest.source["files"]
