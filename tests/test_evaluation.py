"""`convert eval`: both models' figures against what the upstream libraries compute, what is sealed, and what is refused."""

import dataclasses
import json
import os
import runpy
import shutil
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, made, standin
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.evaluation import EmbeddingSimilarityEvaluator, InformationRetrievalEvaluator
from support.checkpoints import minilm, write_bert, write_recipe
from support.commands import one_line, one_object, run_process
from support.published import sealed
from support.tasks import DOCUMENTS, PAIRS, QUERIES, write_pairs, write_retrieval, write_xquad

import shim
from converter import pipeline
from converter.evaluation.sets import read_retrieval
from shim import artifact
from shim.errors import IntegrityError

Convert = Callable[..., subprocess.CompletedProcess[str]]

PROMPTS = '[prompts]\n"retrieval.query" = "query: "\n"retrieval.passage" = "passage: "\n"text-matching" = "query: "'


@pytest.fixture(scope="module")
def prompted(tmp_path_factory: pytest.TempPathFactory, corpus_file: Path, convert: Convert) -> tuple[Path, Path]:
    """(artifact, checkpoint) of a small BERT whose recipe has prompts."""
    folder = tmp_path_factory.mktemp("prompted")
    checkpoint, recipe = write_bert(folder / "checkpoint"), write_recipe(folder / "tiny.toml", more=PROMPTS)
    arguments = ("--to", "onnx", "--bits", 32, "--source", checkpoint, "--corpus", corpus_file, "--out", folder)
    return Path(one_object(convert(recipe, *arguments, "--json"))["path"]), checkpoint


def test_the_originals_figures_are_those_of_its_own_library(
    prompted: tuple[Path, Path], tmp_path: Path, convert: Convert
) -> None:
    """sentence-transformers' evaluators, with its own model and the recipe's prompts; what is shown is sealed."""
    path = Path(shutil.copytree(prompted[0], tmp_path / "artifact"))
    pairs, folder = write_pairs(tmp_path / "sts.jsonl"), write_retrieval(tmp_path / "ferries")
    command = ("eval", path, "--source", prompted[1], "--pairs", pairs, "--retrieval", folder)
    found = one_object(convert(*command, "--json"))
    records = {(record["set"], record["metric"]): record for record in found["evaluation"]}
    model = SentenceTransformer(str(prompted[1]), device="cpu")
    one, other, scores = (list(column) for column in zip(*PAIRS, strict=True))
    prefixed = [[f"query: {text}" for text in texts] for texts in (one, other)]
    sts = EmbeddingSimilarityEvaluator(*prefixed, scores)(model)["spearman_cosine"]
    assert records["sts", "spearman"]["original"] == pytest.approx(sts)
    data = read_retrieval(folder)
    relevant = {query: set(documents) for query, documents in data.relevant.items()}
    evaluator = InformationRetrievalEvaluator(
        data.queries, data.documents, relevant, query_prompt="query: ", corpus_prompt="passage: "
    )
    upstream = evaluator(model)
    assert 0 < upstream["cosine_ndcg@10"] < 1, "right or wrong throughout would prove nothing"
    assert records["ferries", "ndcg@10"]["original"] == pytest.approx(upstream["cosine_ndcg@10"])
    for record in records.values():
        assert record["artifact"] == pytest.approx(record["original"]), "32 bits change no order"
    sealed = json.loads((path / "artifact.json").read_text())["parity"]["evaluation"]
    assert sealed == found["evaluation"]
    assert set(sealed[0]) == {"set", "metric", "original", "artifact", "difference", "low", "high", "n"}
    shown = convert(*command).stdout
    assert shown.splitlines()[0] == "tiny-onnx-32bit: pass"
    assert f"{100 * sts:.2f}" in next(line for line in shown.splitlines() if line.split()[:2] == ["sts", "spearman"])
    assert json.loads((path / "artifact.json").read_text())["parity"]["evaluation"] == sealed


def test_figures_stay_until_their_set_is_measured_again(
    tiny: Path, tiny_artifact: Path, corpus_file: Path, tmp_path: Path, convert: Convert
) -> None:
    """The rest of the manifest and the artifact stay as they are, and a new verification keeps the figures."""
    path = Path(shutil.copytree(tiny_artifact, tmp_path / "artifact"))
    before = artifact.read(path)
    one, other = write_pairs(tmp_path / "one.jsonl"), write_pairs(tmp_path / "other.jsonl", PAIRS[1:])
    command = ("eval", path, "--source", tiny / "checkpoint", "--pairs")
    for pairs in (one, other, one):
        convert(*command, pairs)
    after = artifact.read(path)
    assert [(record.set, record.n) for record in after.parity.evaluation or ()] == [("other", 5), ("one", 6)]
    assert dataclasses.replace(after.parity, evaluation=None) == before.parity
    convert("verify", path, "--source", tiny / "checkpoint")
    assert artifact.read(path).parity.evaluation == after.parity.evaluation
    assert "spearman" in convert("inspect", path).stdout


def test_an_artifact_that_is_not_whole_is_refused_before_anything_is_measured(
    tiny_artifact: Path, tmp_path: Path, convert: Convert
) -> None:
    path = Path(shutil.copytree(tiny_artifact, tmp_path / "changed"))
    (path / "vocab.txt").write_text("changed")
    done = convert("eval", path, "--pairs", tmp_path / "nowhere.csv", check=4)
    assert "vocab.txt differs from the manifest" in one_line(done)
    manifest = json.loads((tiny_artifact / "artifact.json").read_text())
    manifest["parity"]["heads"]["dense"]["worst"] = 0.5
    (path / "artifact.json").write_text(json.dumps(manifest))
    assert "contradicts its own figures" in one_line(convert("eval", path, "--pairs", tmp_path / "nowhere.csv", check=4))


def test_another_original_and_a_set_that_is_not_there_are_refused(
    tiny: Path, tiny_artifact: Path, tmp_path: Path, convert: Convert
) -> None:
    other, pairs = write_bert(tmp_path / "other"), write_pairs(tmp_path / "sts.jsonl")
    (other / "config.json").write_text((other / "config.json").read_text() + " ")
    before = (tiny_artifact / "artifact.json").read_bytes()
    assert "not the ones it was converted from" in one_line(
        convert("eval", tiny_artifact, "--source", other, "--pairs", pairs, check=4)
    )
    missing = ("eval", tiny_artifact, "--source", tiny / "checkpoint", "--pairs", tmp_path / "nowhere.csv")
    assert "nowhere.csv: cannot be read (No such file" in one_line(convert(*missing, check=2))
    assert (tiny_artifact / "artifact.json").read_bytes() == before


def test_an_artifact_that_was_replaced_meanwhile_is_left_alone(
    tiny: Path, tiny_artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = Path(shutil.copytree(tiny_artifact, tmp_path / "artifact"))
    manifest = json.loads((path / "artifact.json").read_text()) | {"license": "apache-2.0"}
    replaced = json.dumps(sealed(manifest))
    real = pipeline.compare

    def compare(*given: Any) -> Any:
        (path / "artifact.json").write_text(replaced)
        return real(*given)

    monkeypatch.setattr(pipeline, "compare", compare)
    with pytest.raises(IntegrityError, match="was changed meanwhile"):
        pipeline.evaluate(path, str(tiny / "checkpoint"), (write_pairs(tmp_path / "a.jsonl"),), (), False, lambda *_: None)
    assert (path / "artifact.json").read_text() == replaced


def test_nanobeir_without_a_network_is_exit_code_3_and_one_line(tiny_artifact: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    done = run_process("converter", "eval", tiny_artifact, "--nanobeir", check=3, env=environment)
    assert one_line(done).startswith("convert: NanoBEIR cannot be fetched from the hub (")


def test_a_reranker_orders_the_candidates_as_its_own_library_does(tmp_path: Path, convert: Convert) -> None:
    from sentence_transformers import CrossEncoder
    from sentence_transformers.cross_encoder.evaluation import CrossEncoderRerankingEvaluator

    name = "bge-reranker-v2-m3"
    path, folder = Path(shutil.copytree(made(name, "onnx", 32)[0], tmp_path / "artifact")), write_retrieval(tmp_path / "set")
    order = [{"query-id": id, "corpus-ids": ["d6", "d3", "d1", "d2"]} for id in QUERIES]
    (folder / "top_ranked.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in order))
    found = one_object(convert("eval", path, "--source", standin(name), "--retrieval", folder, "--json"))
    records = {record["metric"]: record for record in found["evaluation"]}
    documents = {id: f"{title} {text}".strip() for id, (title, text) in DOCUMENTS.items()}
    relevant = {"q1": ["d1"], "q2": ["d2", "d6"], "q4": ["d3"]}
    samples = [
        {
            "query": QUERIES[query],
            "positive": [documents[id] for id in ids],
            "documents": [documents[id] for id in ("d6", "d3", "d1", "d2")],
        }
        for query, ids in relevant.items()
    ]
    upstream = CrossEncoderRerankingEvaluator(samples)(CrossEncoder(str(standin(name)), device="cpu"))
    assert records["ndcg@10"]["original"] == pytest.approx(upstream["ndcg@10"])
    assert records["mrr@10"]["original"] == pytest.approx(upstream["mrr@10"])
    assert records["ndcg@10"]["artifact"] == pytest.approx(records["ndcg@10"]["original"])


@pytest.mark.slow
def test_of_the_trained_model_figures_are_those_of_bench_and_of_its_own_library(
    minilm_artifacts: Mapping[str, Path], shared: Path, tmp_path: Path, convert: Convert
) -> None:
    """Every fifth pair of STS-B's dev split, and questions on XQuAD's paragraphs."""
    lines = (shared / "data/stsb/stsb-en-dev.csv").read_text(encoding="utf-8").splitlines(keepends=True)[::5]
    pairs, folder = tmp_path / "stsb.csv", write_xquad(shared, tmp_path / "xquad")
    pairs.write_text("".join(lines), encoding="utf-8")
    path = Path(shutil.copytree(minilm_artifacts["onnx-8"], tmp_path / "artifact"))
    found = one_object(convert("eval", path, "--pairs", pairs, "--retrieval", folder, "--json"))["evaluation"]
    records = {record["metric"]: record for record in found}
    assert list(records) == ["spearman", "ndcg@10", "recall@10", "recall@100"]
    for record in found:
        assert record["low"] <= record["difference"] <= record["high"]
        assert abs(record["difference"]) < 0.005
    sts, exam = records["spearman"], runpy.run_path(str(ROOT / "scripts/bench-bits"))["Exam"](pairs)
    assert 100 * sts["original"] == pytest.approx(exam.spearman(exam.reference), abs=1e-3)
    judged = exam.judge(shim.load(path).embed(exam.texts).dense)["spearman"]
    assert 100 * sts["difference"] == pytest.approx(judged, abs=1e-3)
    data = read_retrieval(folder)
    relevant = {query: set(documents) for query, documents in data.relevant.items()}
    evaluator = InformationRetrievalEvaluator(data.queries, data.documents, relevant)
    upstream = evaluator(SentenceTransformer(str(minilm()), device="cpu"))
    assert records["ndcg@10"]["original"] == pytest.approx(upstream["cosine_ndcg@10"], abs=1e-6)
    assert 0.9 < records["ndcg@10"]["original"] < records["recall@10"]["original"] < 1
