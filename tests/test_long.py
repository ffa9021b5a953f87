"""Texts as long as the models take, in three languages: 8,192 and 32,768 tokens, against transformers."""

import functools
import json
import os
import re
import resource
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import made, standin, standin_recipe
from safetensors.torch import load_file, save_file
from support import upstream

from converter import pipeline
from shim import Model, load
from shim.text import TextEncoder

BOOKS = {
    "en": "The ferryman counted his passengers twice and the barrels once, for barrels do not walk away. ",
    "ru": "Паромщик дважды пересчитал пассажиров и один раз бочки: бочки сами не уходят. ",
    "zh": "船夫把乘客数了两遍，把木桶数了一遍，因为木桶自己不会走开。",
}
MODELS = (("bge-m3", "cls"), ("nomic-embed-text-v1.5", "mean"), ("qwen3-embedding-0.6b", "last"))
# MLX on a Linux CPU takes two minutes over 32,768 tokens, so there it gets one language: one model at its limit, others less.
MLX = {"bge-m3": 8192, "nomic-embed-text-v1.5": 4096, "qwen3-embedding-0.6b": 4096}


@functools.cache
def shallow(name: str) -> Path:
    """The small checkpoint with its first layer only: what a text's length changes is in each layer, and so is its time."""
    source, folder = standin(name), Path(tempfile.mkdtemp(dir=os.environ["SEALPORT_TESTS"])) / name
    shutil.copytree(source, folder, ignore=shutil.ignore_patterns("pytorch_model.bin", "model.safetensors"))
    pickled = source / "pytorch_model.bin"
    tensors = torch.load(pickled) if pickled.exists() else load_file(source / "model.safetensors")
    first = {key: tensor.contiguous() for key, tensor in tensors.items() if not re.search(r"layers?\.[1-9]", key)}
    save_file(first, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    layers = {key: 1 for key in ("num_hidden_layers", "n_layer", "max_window_layers") if key in config}
    kinds = {"layer_types": config["layer_types"][:1]} if "layer_types" in config else {}
    (folder / "config.json").write_text(json.dumps(config | layers | kinds))
    return folder


def loaded(name: str, target: str, bits: int) -> Model:
    """Its artifact, which these tests are the measurement of."""
    out = shallow(name).parent
    request = pipeline.Request(standin_recipe(name), target, bits, str(shallow(name)), out, verified=False, force=True)
    return load(pipeline.convert(request, lambda *_: None)[0], allow_unverified=True)


def text_of(lang: str, tokens: int) -> str:
    """A text of more than `tokens` tokens in which no two sentences are the same."""
    return "".join(f"{number}. {BOOKS[lang]}" for number in range(tokens // 4))


@pytest.mark.parametrize("lang", BOOKS)
@pytest.mark.parametrize(("name", "pooling"), MODELS)
def test_the_ids_of_a_text_at_the_limit(name: str, pooling: str, lang: str) -> None:
    encoder = TextEncoder(standin(name), limit := standin_recipe(name).model.max_tokens)
    theirs = upstream.tokenizer(standin(name))
    (ours,) = encoder.encode([text := text_of(lang, limit)])
    assert ours.ids == theirs(text, truncation=True, max_length=limit)["input_ids"]
    assert (len(ours.ids), ours.truncated) == (limit, True)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "pooling", "lang"), [(*model, lang) for model, lang in zip(MODELS, BOOKS, strict=True)])
def test_a_text_at_the_limit(name: str, pooling: str, lang: str) -> None:
    model = loaded(name, "onnx", 32)
    text, limit = text_of(lang, model.max_tokens), model.max_tokens
    out = model.embed([text, "short"])
    assert (out.tokens[0], out.truncated) == (limit, [True, False])
    assert out.dense[0] @ upstream.vectors(shallow(name), [text], pooling, limit)[0] > 0.9999
    assert abs(out.dense[0] @ out.dense[1]) < 0.999


@pytest.mark.slow
@pytest.mark.parametrize(("name", "pooling"), MODELS)
def test_a_long_text_in_mlx(name: str, pooling: str) -> None:
    model, most, text = loaded(name, "mlx", 16), MLX[name], text_of("zh", MLX[name])
    tokenizer = upstream.tokenizer(standin(name))
    while model.max_tokens > most < len(tokenizer(text)["input_ids"]):
        text = text[: len(text) * 9 // 10]
    out = model.embed([text, "short"])
    assert most * 0.8 < out.tokens[0] <= most
    assert out.truncated == [most == model.max_tokens, False]
    assert out.dense[0] @ upstream.vectors(shallow(name), [text], pooling, model.max_tokens)[0] > 0.9999
    assert abs(out.dense[0] @ out.dense[1]) < 0.999


@pytest.mark.slow
def test_memory_of_a_long_text_is_given_back() -> None:
    model, page = loaded("bge-m3", "onnx", 32), resource.getpagesize()

    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * page

    model.embed(["short"] * 8)
    before = resident()
    model.embed([text_of("en", model.max_tokens)])
    assert resident() - before < 20e6


def test_blocks_of_queries_give_what_one_block_gives(tmp_path: Path) -> None:
    """Around the length at which attention goes block by block, and well beyond it, a text's vector follows transformers'."""
    for name, pooling in (("bge-m3", "cls"), ("qwen3-embedding-0.6b", "last")):
        for target, bits in (("onnx", 32), ("mlx", 16)):
            model = load(made(name, target, bits)[0])
            words = text_of("en", 1000)
            texts = [words[: len(words) * part // 40].strip() for part in (1, 5, 6, 7, 20)]
            out = model.embed(texts)
            assert min(out.tokens) < 512 < max(out.tokens)
            expected = upstream.vectors(standin(name), texts, pooling, model.max_tokens)
            assert np.abs(out.dense - expected).max() < (1e-5 if bits == 32 else 2e-3)
