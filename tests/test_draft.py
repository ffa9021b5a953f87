"""`convert DIR | ORG/REPO` without a recipe: what the files say is used and printed, what none says is asked for."""

import json
import os
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import httpx
import numpy as np
import pytest
from sentence_transformers import CrossEncoder, SentenceTransformer
from support import saved
from support.commands import one_line, one_object, run_process
from test_saved import TEXTS, checkpoint, converted, off, theirs

from converter import recipe
from converter.source.draft import draft, name_of, to_toml
from converter.source.open import find, open_source
from shim.errors import SourceError, UsageError

Convert = Callable[..., subprocess.CompletedProcess[str]]
PROMPTED, UNNORMALISED = "bert, prompts and a default", "bert, cls, dot"


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("drafted")


def test_a_directory_converts_is_served_and_answers_as_sentence_transformers(
    folder: Path, tmp_path: Path, corpus_file: Path, convert: Convert, serve: Callable[..., str]
) -> None:
    source = checkpoint(PROMPTED, folder)
    done = convert(source, "--to", "onnx", "--bits", 32, "--license", "mit", "--corpus", corpus_file, "--out", tmp_path)
    assert "pooling        mean  (1_Pooling/config.json)" in done.stderr
    assert "default_prompt query  (config_sentence_transformers.json)" in done.stderr
    assert "witness  sentence-transformers" in done.stdout
    manifest = json.loads(next(tmp_path.glob("*/artifact.json")).read_text())
    assert manifest["source"]["facts"]["pooling"] == "1_Pooling/config.json"
    upstream = SentenceTransformer(str(source), device="cpu")
    base = serve(next(tmp_path.glob("*-onnx-32bit")))
    for name in (None, "query", "document", "clustering"):
        wanted = upstream.encode(TEXTS, prompt_name=name)
        named = {"prompt_name": name} if name else {}
        body = {"model": manifest["name"], "input": TEXTS, **named}
        openai = httpx.post(f"{base}/v1/embeddings", json=body).json()
        assert off(np.array([row["embedding"] for row in openai["data"]]), wanted) < 1e-4
        tei = httpx.post(f"{base}/embed", json={"inputs": TEXTS, **named}).json()
        assert off(np.array(tei), wanted) < 1e-4
    described = httpx.get(f"{base}/v1/models").json()["data"][0]
    assert (described["similarity"], described["default_prompt"]) == ("cosine", "query")
    assert described["prompts"] == saved.PROMPTS
    assert httpx.post(f"{base}/embed", json={"inputs": "a", "prompt_name": "qurey"}).status_code == 400


def test_vectors_that_are_not_normalised_are_so_in_every_dialect(
    folder: Path, tmp_path: Path, corpus_file: Path, serve: Callable[..., str]
) -> None:
    source = checkpoint(UNNORMALISED, folder)
    _, manifest = converted(source, "onnx", 32, tmp_path, corpus_file)
    wanted = SentenceTransformer(str(source), device="cpu").encode(TEXTS)
    assert (np.abs(np.linalg.norm(wanted, axis=1) - 1) > 0.1).all()
    base = serve(tmp_path / manifest.name)
    described = httpx.get(f"{base}/v1/models").json()["data"][0]
    assert (described["similarity"], described["normalized"]) == ("dot", False)
    tei = np.array(httpx.post(f"{base}/embed", json={"inputs": TEXTS}).json())
    assert off(tei, wanted) < 1e-4
    unit = np.array(httpx.post(f"{base}/embed", json={"inputs": TEXTS, "normalize": True}).json())
    assert off(unit, wanted / np.linalg.norm(wanted, axis=1, keepdims=True)) < 1e-4

    def openai(**more: object) -> np.ndarray:
        body = {"model": manifest.name, "input": TEXTS, **more}
        return np.array([row["embedding"] for row in httpx.post(f"{base}/v1/embeddings", json=body).json()["data"]])

    assert off(openai(), wanted) < 1e-4
    assert off(openai(dimensions=16), wanted[:, :16]) < 1e-4
    assert off(openai(normalized=True), unit) < 1e-4
    cosines = httpx.post(f"{base}/similarity", json={"inputs": {"source_sentence": TEXTS[0], "sentences": TEXTS}}).json()
    np.testing.assert_allclose(cosines, unit @ unit[0], atol=1e-4)


def test_a_cut_and_an_unnormalised_vector_of_a_dense_model(folder: Path, tmp_path: Path, corpus_file: Path) -> None:
    """Behind a linear layer, what is not normalised is that layer's output."""
    source = checkpoint("bert, dense tanh, normalised", folder)
    upstream = theirs(source)
    del upstream[-1]
    raw = upstream.encode(TEXTS)
    for target, bits, near in (("onnx", 32, 1e-4), ("mlx", 16, 1e-2)):
        model, _ = converted(source, target, bits, tmp_path / target, corpus_file)
        encoded = model.encoder.encode(TEXTS)
        out = model.embeddings(model.compute_all(encoded, ("pooled",)), ("dense",), normalize=False)
        assert off(out.dense, raw) < near
        cut = raw[:, :8] / np.linalg.norm(raw[:, :8], axis=1, keepdims=True)
        assert off(model.embed(TEXTS, dimensions=8).dense, cut) < near


def test_what_no_file_says_is_asked_for(folder: Path, tmp_path: Path, corpus_file: Path, convert: Convert) -> None:
    plain = saved.bert(tmp_path / "plain")
    line = one_line(convert(plain, "--to", "onnx", check=2))
    assert "a model without pooling, as no modules.json says" in line
    assert "say --pooling cls|mean|last" in line
    flags = ("--pooling", "cls", "--normalize", "--bits", 32, "--corpus", corpus_file, "--out", tmp_path)
    refused = convert(plain, "--to", "onnx", *flags, check=2).stderr
    assert "plain: its license is unknown, as no file states one; --license ID says it" in refused
    flags = (*flags, "--license", "apache-2.0")
    made = one_object(convert(plain, "--to", "onnx", *flags, "--json"))
    assert made["license"] == "apache-2.0"
    assert made["parity"]["witness"]["given"] == {"pooling": "cls", "modules": ["normalize"]}
    given = saved.sentence_transformer(plain, tmp_path / "given", "cls", saved.Normalize())
    import shim

    assert off(shim.load(made["path"]).embed(TEXTS).dense, theirs(given).encode(TEXTS)) < 1e-4
    listed = json.loads((Path(made["path"]) / "modules.json").read_text())
    assert [entry["type"].rsplit(".", 1)[-1] for entry in listed] == ["Transformer", "Pooling", "Normalize"]
    line = one_line(convert(checkpoint("bert, mean, normalised", folder), "--to", "onnx", "--pooling", "cls", check=2))
    assert "1_Pooling/config.json says already what --pooling would" in line
    assert "leave --pooling" in one_line(convert("bge-m3", "--to", "onnx", "--pooling", "cls", check=2))


def only(*names: str) -> Callable[[Path], None]:
    def spoil(source: Path) -> None:
        (source / "model.safetensors").unlink()
        for name in names:
            (source / name).parent.mkdir(exist_ok=True)
            (source / name).write_bytes(b"x")

    return spoil


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (only("model-q4.gguf"), "model-q4.gguf, weights quantized for llama.cpp; convert the original"),
        (only("onnx/model.onnx"), "model.onnx, an ONNX graph; convert the original"),
        (only("tf_model.h5"), "tf_model.h5, TensorFlow weights; convert the original"),
        (only(), "no model.safetensors, model.safetensors.index.json or pytorch_model.bin; is the download complete"),
    ],
)
def test_other_formats_are_named(spoil: Callable[[Path], None], message: str, folder: Path, tmp_path: Path) -> None:
    source = Path(shutil.copytree(checkpoint("bert, mean, normalised", folder), tmp_path / "mine"))
    spoil(source)
    with pytest.raises((UsageError, SourceError)) as caught:
        open_source(draft(find(str(source))), str(source))
    assert message in str(caught.value)


def test_a_repository_has_its_recipe_and_another_is_no_misspelling(convert: Convert, tmp_path: Path) -> None:
    found = recipe.find("BAAI/bge-m3")
    assert found is not None
    assert (found[0].name, found[1]) == ("bge-m3", None)
    found = recipe.find("baai/bge-m3@abc")
    assert found is not None
    assert (found[0].name, found[1]) == ("bge-m3", "baai/bge-m3@abc")
    offline = {"env": {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}}
    line = one_line(run_process("converter", "BAAI/bge-large-zh-v1.5", "--to", "onnx", check=3, **offline))
    assert "BAAI/bge-large-zh-v1.5@main: cannot be fetched from the hub" in line
    assert "bge-large-en" not in line
    assert "not a directory, pkg:MODULE or REPO" in one_line(convert("./missing/a/b", "--to", "onnx", check=3))


def test_a_recipe_is_printed_that_converts_the_same(folder: Path, tmp_path: Path, corpus_file: Path, convert: Convert) -> None:
    source = checkpoint("bert, two dense", folder)
    text = convert("recipe", source).stdout
    parsed = tomllib.loads(text)
    assert parsed["model"]["modules"][1] == {"type": "dense", "width": 32, "bias": True, "activation": "tanh"}
    assert "# 1_Pooling/config.json" in text
    (tmp_path / "mine.toml").write_text(text)
    loaded = recipe.load(str(tmp_path / "mine.toml"))
    assert open_source(loaded, str(source)).spec == open_source(draft(find(str(source))), str(source)).spec
    prompted = tomllib.loads(convert("recipe", checkpoint(PROMPTED, folder)).stdout)
    assert (prompted["model"]["default_prompt"], prompted["prompt_names"]) == ("query", saved.PROMPTS)


def test_a_causal_rerankers_recipe_is_printed_to_be_completed(tmp_path: Path, convert: Convert) -> None:
    base = saved.qwen3(tmp_path / "base", append=False)
    CrossEncoder(str(base), device="cpu").save_pretrained(str(tmp_path / "mine"))
    assert "write it as `pair` into a recipe" in one_line(convert(tmp_path / "mine", "--to", "onnx", check=2))
    text = convert("recipe", tmp_path / "mine").stdout
    assert "# pair = " in text
    assert tomllib.loads(text)["task"] == "rerank"
    assert "bge-m3 is a recipe already" in one_line(convert("recipe", "bge-m3", check=2))
    assert "'nosuch' is no directory and no ORG/REPO" in one_line(convert("recipe", "nosuch", check=2))


@pytest.mark.parametrize("kind", saved.EMBEDDERS)
def test_the_printed_recipe_of_every_kind_means_the_same(kind: str, folder: Path, tmp_path: Path) -> None:
    source = checkpoint(kind, folder)
    place = find(str(source))
    (tmp_path / "mine.toml").write_text(to_toml(draft(place), place), encoding="utf-8")
    loaded = recipe.load(str(tmp_path / "mine.toml"))
    assert open_source(loaded, str(source)).spec == open_source(draft(place), str(source)).spec


def test_an_artifact_without_a_recipe_is_verified_again(
    folder: Path, tmp_path: Path, corpus_file: Path, convert: Convert
) -> None:
    source = checkpoint(UNNORMALISED, folder)
    _, manifest = converted(source, "onnx", 32, tmp_path, corpus_file)
    path = tmp_path / manifest.name
    again = one_object(convert("verify", path, "--source", source, "--corpus", corpus_file, "--json"))
    assert (again["parity"]["verdict"], again["parity"]["witness"]["texts"]) == ("pass", 14)
    assert "not normalised, as the original's are not" in (path / "README.md").read_text()
    moved = Path(shutil.copytree(source, tmp_path / "moved"))
    (moved / "config_sentence_transformers.json").write_text('{"default_prompt_name": "q", "prompts": {"q": "Q: "}}')
    line = one_line(convert("verify", path, "--source", moved, "--corpus", corpus_file, check=4))
    assert "the original is not the one it was converted from" in line


def test_the_architectures_are_listed_without_the_upstream_library(convert: Convert) -> None:
    all_of_them = (
        "bert, camembert, distilbert, gemma3_text, gte, jina_embeddings_v3, llama, mistral, modernbert, mpnet, nomic_bert, "
        "olmo3, qwen2, qwen3, roberta, xlm_roberta"
    )
    assert f"architectures  {all_of_them}" in convert("list", "--architectures").stdout
    listed = one_object(convert("list", "--architectures", "--json"))
    assert "Dense" in listed["modules"]


@pytest.mark.parametrize("command", [("--help",), ("list",), ("inspect", "ARTIFACT")])
def test_what_only_looks_imports_no_heavy_library(command: tuple[str, ...], tiny_artifact: Path) -> None:
    arguments = [str(tiny_artifact) if word == "ARTIFACT" else word for word in command]
    code = f"import sys; from converter.__main__ import main; sys.argv = ['convert', *{arguments!r}]\ntry: main()\nfinally: "
    code += "print([m for m in ('torch', 'transformers', 'sentence_transformers', 'peft', 'matplotlib') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip().endswith("[]"), done.stdout + done.stderr


def test_a_name_is_made_of_what_a_name_may_hold() -> None:
    assert name_of("BAAI/bge-large-zh-v1.5") == "bge-large-zh-v1.5"
    assert name_of("dir:Моя модель (v2)") == "v2-"
    assert name_of("dir:...") == "model"
