"""Originals that nothing faithful can be made of: each is one line that says why, and nothing is left."""

import json
import os
import shutil
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import standin, standin_recipe
from safetensors.torch import load_file, save_file
from support.checkpoints import bert_config, bert_weights, write_bert, write_recipe
from support.commands import one_line, run

from converter import cache, corpus, pipeline, recipe
from converter.corpus import calibration
from converter.source.open import open_source
from shim.errors import SealportError, SourceError, UsageError


def refused(named: object, source: Path, out: Path, *more: object, code: int = 3) -> str:
    """The last line on stderr: progress may stand before it."""
    done = run("converter", named, "--source", source, "--out", out, "--effort", "fast", *more, check=code)
    assert not out.exists() or not list(out.iterdir())
    assert "Traceback" not in done.stderr
    return done.stderr.splitlines()[-1]


@pytest.mark.parametrize(("bits", "effort"), [(8, "fast"), (16, "fast"), (32, "fast"), (4, "balanced"), (8, "max")])
def test_a_weight_that_is_no_number_is_named(
    tiny: Path, tmp_path: Path, few_to_learn_from: Path, bits: int, effort: str
) -> None:
    weights = bert_weights(bert_config())
    weights["encoder.layer.0.output.dense.weight"][3, 4] = np.nan
    source = write_bert(tmp_path / "checkpoint", weights=weights)
    more = ("--bits", bits, "--effort", effort, *(("--calibration", few_to_learn_from) if effort != "fast" else ()))
    said = refused(tiny / "tiny.toml", source, tmp_path / "out", "--to", "onnx", *more)
    assert "encoder.layer.0.output.dense.weight" in said


@pytest.mark.parametrize(("text", "code", "message"), [
    ('[{"type": "sentence_transformers.models.LSTM"}]', 2, "modules.json has a LSTM module, which is not supported"),
    ('[{"type": "x.LogitScore"}]', 2, "x.LogitScore is a module of the repository's own code, which is not supported"),
    ('[{"type": "sentence_transformers.models.Transformer"}]', 2, "modules.json has no Pooling module"),
    ("[", 3, "modules.json is not a list of modules"),
])  # fmt: skip
def test_modules_that_we_do_not_compute(tiny: Path, tmp_path: Path, text: str, code: int, message: str) -> None:
    source = Path(shutil.copytree(tiny / "checkpoint", tmp_path / "checkpoint"))
    (source / "modules.json").write_text(text)
    assert message in refused(tiny / "tiny.toml", source, tmp_path / "out", "--to", "mlx", code=code)


def test_an_embedding_checkpoint_behind_a_rerankers_recipe() -> None:
    with pytest.raises(SealportError, match="modules.json says that the task is embed, and the recipe's task is rerank"):
        open_source(standin_recipe("qwen3-reranker-0.6b"), str(standin("qwen3-embedding-0.6b")))


def test_sparse_vectors_without_the_names_of_special_tokens(tmp_path: Path) -> None:
    source = Path(shutil.copytree(standin("bge-m3"), tmp_path / "checkpoint"))
    (source / "tokenizer_config.json").unlink()
    with pytest.raises(SourceError, match=r"tokenizer_config\.json"):
        open_source(standin_recipe("bge-m3"), str(source))


def test_prompts_that_are_left_out_of_the_mean(tmp_path: Path) -> None:
    source = Path(shutil.copytree(standin("multilingual-e5-large"), tmp_path / "source"))
    path = source / "1_Pooling/config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"include_prompt": False}))
    with pytest.raises(UsageError, match="leaves prompts out of the mean"):
        open_source(standin_recipe("multilingual-e5-large"), str(source))


def test_too_few_texts_to_rank(tmp_path: Path) -> None:
    texts = tmp_path / "few.txt"
    texts.write_text("One.\nTwo.\nThree.\n")
    with pytest.raises(UsageError, match="3 texts make rankings of under three documents"):
        corpus.judges(texts, "rerank")
    assert len(corpus.judges(texts, "embed")) == 3
    texts.write_text("One.\nTwo.\nThree.\nFour.\n")
    assert len(corpus.judges(texts, "rerank")) == 4


@pytest.mark.parametrize("target", ["mlx", "onnx"])
def test_rows_that_no_group_divides(tmp_path: Path, target: str) -> None:
    config = bert_config(hidden_size=48, intermediate_size=80, num_attention_heads=2)
    source = write_bert(tmp_path / "checkpoint", config, bert_weights(config))
    own = write_recipe(tmp_path / "tiny.toml", dimensions=48)
    said = refused(own, source, tmp_path / "out", "--to", target, "--bits", 8, code=2)
    assert "no matrix of tiny has rows of a multiple of 32; take --bits 16" in said


def test_a_head_with_too_few_rows(tmp_path: Path) -> None:
    source = Path(shutil.copytree(standin("qwen3-reranker-0.6b"), tmp_path / "checkpoint"))
    file = source / "model.safetensors"
    tensors = load_file(file)
    width = tensors["model.embed_tokens.weight"].shape[1]
    save_file(tensors | {"lm_head.weight": torch.zeros(3, width)}, file)
    config = json.loads((source / "config.json").read_text()) | {"tie_word_embeddings": False}
    (source / "config.json").write_text(json.dumps(config))
    own = tmp_path / "own.toml"
    text = (Path(__file__).parent.parent / "recipes/qwen3-reranker-0.6b.toml").read_text()
    own.write_text(text.replace("dimensions = 1024", f"dimensions = {width}"))
    assert "has no rows for no and yes" in refused(own, source, tmp_path / "out", "--to", "mlx")


def test_an_empty_file_in_the_cache_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEALPORT_CACHE", str(tmp_path))
    one = cache.arrays("kind", 1, lambda: {"a": np.ones(2)})
    (path,) = (tmp_path / "kind").glob("*.npz")
    path.write_bytes(b"")
    np.testing.assert_array_equal(cache.arrays("kind", 1, lambda: {"a": np.ones(2)})["a"], one["a"])


@pytest.mark.parametrize("size", ["0.5", "0.9B", "9" * 400 + "GB"])
def test_a_size_that_is_none(tiny: Path, tmp_path: Path, size: str) -> None:
    done = run("converter", tiny / "tiny.toml", "--to", "mlx", "--max-size", size, "--out", tmp_path / "out", check=2)
    assert "is not a size such as" in one_line(done)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("pkg:no_such_package", "package 'no_such_package' is not installed; pip install no-such-package"),
        ("pkg:json", "package 'json' carries no config.json"),
        ("pkg:os.path", "package 'os.path' is not installed"),
        ("pkg:", "package '' is not"),
        ("/no/such/folder", "source '/no/such/folder' is not a directory, pkg:MODULE or REPO"),
        ("", "is not a directory"),
    ],
)
def test_a_source_that_is_not_there(tiny: Path, source: str, message: str) -> None:
    with pytest.raises(SourceError, match=message):
        open_source(recipe.load(str(tiny / "tiny.toml")), source)


def test_a_table_smaller_than_the_tokenizer_is_refused(tmp_path: Path, tiny: Path) -> None:
    """Its rows would run out in the middle of a text."""
    config = bert_config(vocab_size=1000)
    write_bert(tmp_path / "checkpoint", config, bert_weights(config))
    with pytest.raises(SealportError, match=r"tokenizer.json has 2000 tokens, config.json 1000"):
        open_source(recipe.load(str(tiny / "tiny.toml")), str(tmp_path / "checkpoint"))


def test_a_query_that_leaves_no_room_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    path = tmp_path / "long.txt"
    path.write_text("word " * 33000 + "\none\ntwo\nthree\n")
    loaded, out = standin_recipe("qwen3-reranker-0.6b"), tmp_path / "out"
    request = pipeline.Request(loaded, "onnx", 32, str(standin(loaded.name)), out, corpus=path)
    with pytest.raises(UsageError, match="query"):
        pipeline.convert(request, lambda *_: None)
    assert not out.exists()


@pytest.mark.filterwarnings("ignore:only .* calibration tokens")
def test_a_query_that_leaves_no_room_is_not_calibrated_on() -> None:
    loaded = standin_recipe("qwen3-reranker-0.6b")
    checkpoint = open_source(loaded, str(standin(loaded.name)))
    given = [corpus.Text(text[:5], "en", "sentence", text) for text in ("word " * 900, "one", "two", "three")]
    with pytest.warns(UserWarning, match="1 of 4 queries to calibrate on are too long"):
        tokens = calibration.prepare(checkpoint, given)
    assert sum(len(batch.input_ids) for batch in tokens) == 9


@pytest.mark.parametrize(("changes", "message"), [
    ({"strict_bits": True, "max_size": 10**9}, "--strict-bits"),
    ({"calibration": Path("not-there.txt")}, "not-there.txt: cannot be read"),
    ({"bits": 16, "calibration": corpus.CALIBRATION}, "leave out --calibration"),
])  # fmt: skip
def test_what_cannot_be_is_said_before_anything_is_computed(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], message: str
) -> None:
    monkeypatch.setenv("SEALPORT_CACHE", str(tmp_path / "cache"))
    loaded, stages = recipe.load(str(tiny / "tiny.toml")), list[str]()
    request = pipeline.Request(loaded, "onnx", **{"bits": 4, **changes}, source=str(tiny / "checkpoint"), out=tmp_path / "out")
    with pytest.raises(UsageError, match=message):
        pipeline.convert(request, lambda stage, *_: stages.append(stage))
    assert not stages


def test_a_name_that_the_disk_does_not_take(tiny: Path, tmp_path: Path) -> None:
    arguments = (tiny / "tiny.toml", "--to", "onnx", "--source", tiny / "checkpoint", "--out", tmp_path / ("x" * 300))
    assert "File name too long" in one_line(run("converter", *arguments, check=3))


def test_a_corpus_that_can_be_read_only_once(tiny: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    writer = threading.Thread(target=(tmp_path / "pipe").write_text, args=("one\ntwo\n",))
    writer.start()
    arguments = (tiny / "tiny.toml", "--to", "onnx", "--source", tiny / "checkpoint", "--corpus", tmp_path / "pipe")
    assert "not a file that can be read again" in one_line(run("converter", *arguments, "--out", tmp_path / "out", check=2))
    writer.join()
