"""What sets decoders apart: numbers that outgrow float16, and an upstream model that is held in 16 bits."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer
from support import upstream
from support.saved_decoders import DECODERS
from support.seeded import LIMIT
from test_saved import TEXTS

from converter import pipeline
from converter.proof import loading
from converter.source.draft import draft
from converter.source.open import find, open_source
from shim import load
from shim.runtimes.mlx import open_runtime
from shim.text import Tokens

HALF = 65504  # the greatest number in float16


def outgrown(kind: str, folder: Path) -> Path:
    """A checkpoint whose stream, and what each of its layers gives, are beyond float16; its weights are not.

    The norms behind the layers, which take out how large these are, put it into the stream again.
    """
    source = DECODERS[kind](folder, **({"use_bidirectional_attention": False} if kind == "gemma3_text" else {}))
    weights = load_file(source / "model.safetensors")
    for name, weight in weights.items():
        if name.endswith(("up_proj.weight", "gate_proj.weight", "v_proj.weight")):
            weight *= 12
        if name.endswith("down_proj.weight"):
            weight *= 40
        if name.endswith("o_proj.weight"):
            weight *= 3000
        if kind == "gemma3_text" and name.endswith(("post_attention_layernorm.weight", "post_feedforward_layernorm.weight")):
            weight *= 30_000
    save_file(weights, source / "model.safetensors", metadata={"format": "pt"})
    return source


def largest(source: Path, ends: tuple[str, ...]) -> dict[str, float]:
    """{end of a module's name: the greatest number that such modules give for TEXTS}, upstream."""
    model = upstream.AutoModel.from_pretrained(source, dtype=torch.float32).eval()
    found = dict.fromkeys(ends, 0.0)

    def look(end: str) -> object:
        def hook(_: object, __: object, output: torch.Tensor) -> None:
            found[end] = max(found[end], float(output.abs().max()))

        return hook

    for name, module in model.named_modules():
        for end in ends:
            if name.endswith(end):
                module.register_forward_hook(look(end))
    with torch.inference_mode():
        for text in TEXTS:
            model(**upstream.tokenizer(source)(text, truncation=True, max_length=LIMIT, return_tensors="pt"))
    return found


@pytest.mark.parametrize("kind", ["gemma3_text", "olmo3"])
def test_what_outgrows_float16_is_given_all_the_same(kind: str, tmp_path: Path, corpus_file: Path) -> None:
    source = outgrown(kind, tmp_path / "source")
    seen = largest(source, ("o_proj", "down_proj", "post_feedforward_layernorm"))
    assert seen["o_proj"] > HALF
    assert seen["down_proj"] > HALF
    assert seen["post_feedforward_layernorm"] > HALF or kind == "olmo3"
    wanted = upstream.vectors(source, TEXTS, "mean", LIMIT)
    drafted = draft(find(str(source)), pooling="mean", normalize=True, license="mit")
    paths = {}
    for target in ("onnx", "mlx"):
        given = {"corpus": corpus_file, "verified": False}
        request = pipeline.Request(drafted, target, 16, str(source), tmp_path / target, **given)
        paths[target], manifest = pipeline.convert(request, lambda *_: None)
    model = load(paths["onnx"], allow_unverified=True)
    assert (model.embed(TEXTS).dense * wanted).sum(axis=1).min() > 0.9995
    tokens = model.encoder.batch(model.encoder.encode(TEXTS))
    assert all(np.isfinite(value).all() for value in products(paths["onnx"] / "onnx/model.onnx", tokens))
    runtime = open_runtime(paths["mlx"], manifest, "cpu", kernels="quantized")  # in float16, as on a GPU
    (found,) = runtime.run(tokens, ("sentence_embedding",)).values()
    assert (found * wanted).sum(axis=1).min() > 0.9995


def products(path: Path, tokens: Tokens) -> list[np.ndarray]:
    """All products in float16; a CPU has no kernels for these, and keeps them in float32 where no one asks for them."""
    graph = onnx.load(path)
    names = [node.output[0] for node in graph.graph.node if node.op_type in ("MatMul", "Mul", "Gelu")]
    graph.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    session = ort.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    found = session.run(names, {value.name: vars(tokens)[value.name] for value in session.get_inputs()})
    return [value for value in found if value.dtype == np.float16]


def test_upstream_in_16_bits_is_computed_in_32(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Gemma multiplies embedded tokens by a number that bfloat16 has not."""
    source = DECODERS["gemma3_text"](tmp_path / "source", hidden_size=96)
    weights = {name: weight.bfloat16() for name, weight in load_file(source / "model.safetensors").items()}
    save_file(weights, source / "model.safetensors", metadata={"format": "pt"})
    wanted = upstream.vectors(source, TEXTS, "mean", LIMIT)
    drafted = draft(find(str(source)), pooling="mean", normalize=True, license="mit")
    monkeypatch.setattr(loading, "SMALL", 0)
    model = loading.load(SentenceTransformer, open_source(drafted, str(source)))
    assert next(model.parameters()).dtype is torch.bfloat16
    found = model.encode(TEXTS, normalize_embeddings=True)
    assert np.abs(found - wanted).max() < 1e-5


def test_hidden_states_of_a_layer_that_a_recipe_names(tmp_path: Path, corpus_file: Path) -> None:
    """Of a checkpoint that no file says to be an embedder: what is behind that layer is not in the artifact."""
    source = DECODERS["olmo3"](tmp_path / "source")
    drafted = draft(find(str(source)), pooling="mean", normalize=True, license="mit")
    model = dataclasses.replace(drafted.model, layer=-2)
    named = dataclasses.replace(drafted, model=model, stated=drafted.stated | {"layer"})
    request = pipeline.Request(named, "onnx", 32, str(source), tmp_path, corpus=corpus_file)
    path, manifest = pipeline.convert(request, lambda *_: None)
    assert manifest.verdict == "pass"
    assert manifest.parity.witness.given["layer"] == -2
    config = json.loads((path / "config.json").read_text())
    assert (config["num_hidden_layers"], config["layer_types"]) == (2, ["sliding_attention", "full_attention"])
    names = {value.name for value in onnx.load(path / "onnx/model.onnx").graph.initializer}
    assert not [name for name in names if "layers.2." in name or name == "model.norm.weight"]
    theirs, encode = upstream.AutoModel.from_pretrained(source).eval(), upstream.tokenizer(source)
    for text, found in zip(TEXTS, load(path).embed(TEXTS).dense, strict=True):
        with torch.inference_mode():
            batch = encode(text, truncation=True, max_length=LIMIT, return_tensors="pt")
            pooled = theirs(**batch, output_hidden_states=True).hidden_states[-2][0].mean(dim=0)
        assert np.abs(found - (pooled / pooled.norm()).numpy()).max() < 2e-6
