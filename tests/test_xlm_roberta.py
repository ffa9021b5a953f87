"""The XLM-RoBERTa definition, through both runtimes, against transformers' own."""

from pathlib import Path

import numpy as np
import pytest
from support import upstream
from support.checkpoints import write_recipe, write_xlm_roberta

from converter import pipeline, recipe
from shim import load

TEXTS = ["one", "a rather longer text about rivers and their mouths", "двенадцать месяцев  ", "天气很好", "x y " * 300]


@pytest.mark.parametrize(("pooling", "prefix"), [("cls", ""), ("mean", "roberta.")])
@pytest.mark.parametrize(("target", "bits", "tolerance"), [("onnx", 32, 2e-6), ("onnx", 16, 2e-3), ("mlx", 16, 2e-3)])
def test_vectors_are_those_of_transformers(
    tmp_path: Path, corpus_file: Path, pooling: str, prefix: str, target: str, bits: int, tolerance: float
) -> None:
    directory = write_xlm_roberta(tmp_path / "checkpoint", pooling=pooling, prefix=prefix)
    tiny = recipe.load(str(write_recipe(tmp_path / "tiny.toml", pooling=pooling, architecture="xlm_roberta")))
    request = pipeline.Request(tiny, target, bits, str(directory), tmp_path / "out", corpus=corpus_file)
    path, manifest = pipeline.convert(request, lambda *_: None)
    assert manifest.verdict == "pass"
    out = load(path).embed(TEXTS)
    expected = upstream.vectors(directory, TEXTS, pooling)
    assert np.abs(out.dense - expected).max() < tolerance
    assert out.truncated == [False] * 4 + [True]
    assert (expected @ expected.T - np.eye(len(TEXTS))).max() < 0.98, "texts all alike: this would prove nothing"


def test_an_instruction_is_the_text_that_the_card_puts_before_a_query(tmp_path: Path) -> None:
    directory = write_xlm_roberta(tmp_path / "checkpoint")
    prompts = '[prompts]\ninstruction = "Instruct: {instruction}\\nQuery: "'
    tiny = recipe.load(str(write_recipe(tmp_path / "tiny.toml", architecture="xlm_roberta", more=prompts)))
    path, manifest = pipeline.convert(pipeline.Request(tiny, "onnx", 32, str(directory), tmp_path / "out"), lambda *_: None)
    assert manifest.verdict == "pass"
    model = load(path)
    wanted = upstream.vectors(directory, ["Instruct: Find the river\nQuery: Nile", "Nile"], "mean")
    assert np.abs(model.embed(["Nile"], instruction="Find the river").dense - wanted[:1]).max() < 2e-6
    assert np.abs(model.embed(["Nile"], task="retrieval.passage").dense - wanted[1:]).max() < 2e-6
    assert wanted[0] @ wanted[1] < 0.98


def test_ids_on_real_texts(shared: Path) -> None:
    """A real tokenizer of the family against transformers, trailing spaces included."""
    from transformers import AutoTokenizer

    from shim.text import TextEncoder

    texts = [line for path in sorted((shared / "data/tatoeba").glob("tatoeba.*")) for line in path.read_text().splitlines()]
    texts = [*texts, "trailing  ", "  leading", "ｆｕｌｌ　width", "\u200bzero", "tab\tand\nnewline "]
    folder = shared / "hub/intfloat/multilingual-e5-large"
    ours = [item.ids for item in TextEncoder(folder, 512).encode(texts)]
    assert ours == AutoTokenizer.from_pretrained(folder)(texts, truncation=True, max_length=512)["input_ids"]
