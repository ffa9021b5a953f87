"""Calibration: what it refuses, what it warns of, and what it is good for."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import standin, standin_recipe
from support.checkpoints import write_bert, write_recipe
from support.jobs import calibration_of
from support.shared import thinned

from converter import corpus, pipeline, recipe
from converter.corpus import Text, calibration
from converter.quantize.grid import Grid, Scheme, round_to_nearest
from converter.source.open import open_source
from shim.errors import UsageError

PLAN = {"embeddings.word_embeddings": Scheme(4, 32), "encoder.layer.1.output.dense": Scheme(4, 64)}


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("small")
    tiny = recipe.load(str(write_recipe(folder / "tiny.toml")))
    return open_source(tiny, str(write_bert(folder / "checkpoint"))), tiny


def texts(*given: str, lang: str = "en") -> list[Text]:
    return [Text(str(number), lang, "sentence", text) for number, text in enumerate(given)]


def test_our_own_texts_do_not_overlap() -> None:
    calibration.check_texts(corpus.read(corpus.CALIBRATION), corpus.read(corpus.VERIFICATION))


def test_a_text_that_also_judges_is_refused() -> None:
    with pytest.raises(UsageError, match=r"1 calibration texts are verification texts, too \(1\)"):
        calibration.check_texts(texts("mine", " shared "), texts("shared", "theirs"))


def test_the_command_refuses_overlap_and_leaves_nothing(tiny: Path, tmp_path: Path, corpus_file: Path, convert) -> None:
    arguments = (tiny / "tiny.toml", "--to", "mlx", "--source", tiny / "checkpoint", "--out", tmp_path)
    done = convert(*arguments, "--corpus", corpus_file, "--calibration", corpus_file, "--json", check=2)
    assert "verification texts, too" in json.loads(done.stdout)["error"]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("ours", [corpus.VERIFICATION, corpus.DOCUMENTS])
def test_texts_of_ours_that_judge_are_never_calibrated_on(
    tiny: Path, tmp_path: Path, corpus_file: Path, ours: Path, convert
) -> None:
    """Not even when others judge: `convert verify` would then prove the artifact with what it knows."""
    arguments = (tiny / "tiny.toml", "--to", "mlx", "--source", tiny / "checkpoint", "--out", tmp_path)
    done = convert(*arguments, "--corpus", corpus_file, "--calibration", ours, "--json", check=2)
    assert "verification texts, too" in json.loads(done.stdout)["error"]


@pytest.mark.parametrize("content", ["", "\n\n"])
def test_an_empty_file_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "empty.txt"
    path.write_text(content)
    with pytest.raises(UsageError, match="holds no texts"):
        corpus.read(path)


def test_one_language_is_warned_of() -> None:
    with pytest.warns(UserWarning, match="all in en"):
        calibration.check_texts(texts("a", "b"), [])


@pytest.mark.parametrize("given", [("one",), ("one", "two", "three") * 5, ("x " * 300,)])
def test_few_texts_are_warned_of_and_give_finite_codes(small, given: tuple[str, ...]) -> None:
    checkpoint, tiny = small
    with pytest.warns(UserWarning, match="calibration tokens"):
        tokens = calibration.prepare(checkpoint, texts(*given))
    found = calibration_of(checkpoint, tiny, tokens).quantize(PLAN).codes
    assert found.keys() == PLAN.keys()
    for name, codes in found.items():
        weight = checkpoint.read(f"{name}.weight")
        nearest = round_to_nearest(weight, PLAN[name], Grid()).dequantize()
        assert np.square(codes.dequantize() - weight).mean() < 4 * np.square(nearest - weight).mean()


def test_ones_own_texts_decide_the_codes(tiny: Path, tmp_path: Path, convert) -> None:
    arguments = (tiny / "tiny.toml", "--to", "mlx", "--source", tiny / "checkpoint", "--strict-bits", "--bits", 4)
    found = []
    for name in ("pump", "fugue", "pump"):
        (tmp_path / "mine.txt").write_text("\n".join(f"part {number} of the {name} leaks" for number in range(300)))
        convert(*arguments, "--no-verify", "--out", tmp_path / name, "--force", "--calibration", tmp_path / "mine.txt")
        found.append((tmp_path / name / "tiny-mlx-4bit" / "model.safetensors").read_bytes())
    assert found[0] == found[2] != found[1]


def test_texts_of_special_tokens_only_are_refused(small) -> None:
    checkpoint, _ = small
    with pytest.raises(UsageError, match="hold no tokens"):
        calibration.prepare(checkpoint, texts("\u200b", " "))


def test_queries_are_calibrated_behind_their_prompt(small) -> None:
    checkpoint, tiny = small
    prompted = replace(checkpoint, spec=replace(tiny.model, prompts={"retrieval.query": "find this: "}))
    query = [Text("1", "en", "query", "rivers")]
    with pytest.warns(UserWarning, match="calibration tokens"):
        with_prompt, without = (calibration.prepare(one, query)[0] for one in (prompted, checkpoint))
    assert with_prompt.input_ids.shape[1] > without.input_ids.shape[1]


def test_a_large_model_sees_some_of_the_texts(small) -> None:
    """As many as a pass can afford, of all lengths; a small one sees them all."""
    checkpoint, _ = small
    shown = corpus.read(corpus.CALIBRATION)
    count = lambda most: sum(int(batch.attention_mask.sum()) for batch in calibration.prepare(checkpoint, shown, most))  # noqa: E731
    whole = count(None)
    assert count(whole) == whole
    assert 4500 < count(5000) <= 5000
    each = calibration.WORK["balanced"] / (2 * 4096 * (1024 + 4096))
    assert calibration.affordable([(1024, 4096)], "balanced") == int(each)
    assert calibration.affordable([(10**6, 10**6)], "balanced") == calibration.LEAST


def test_four_bits_come_much_nearer_than_rounded(tmp_path: Path, few_to_learn_from: Path) -> None:
    """Even with few texts."""
    found, name = {}, "multilingual-e5-large"
    texts = thinned(corpus.VERIFICATION, tmp_path / "some.jsonl", 10)
    for effort, shown in (("fast", None), ("balanced", few_to_learn_from)):
        made = {"source": str(standin(name)), "strict_bits": True, "corpus": texts, "effort": effort, "calibration": shown}
        request = pipeline.Request(standin_recipe(name), "onnx", 4, out=tmp_path / effort, **made)
        found[effort] = 1 - pipeline.convert(request, lambda *_: None)[1].parity.heads["dense"].mean
    assert found["balanced"] < found["fast"] / 3
