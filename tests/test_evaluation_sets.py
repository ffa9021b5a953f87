"""The data sets of an evaluation: what is read, and what is refused with file and line."""

import json
from pathlib import Path

import pytest
from support.tasks import DOCUMENTS, PAIRS, QRELS, QUERIES, write_pairs, write_retrieval

from converter.evaluation import figures, sets
from converter.evaluation.sets import Pairs, Retrieval, gather, read_pairs, read_retrieval
from shim.errors import UsageError


def test_pairs_are_the_same_in_each_form(tmp_path: Path) -> None:
    rows = [(one, other, str(score)) for one, other, score in PAIRS]
    quoted = [[f'"{field.replace(chr(34), chr(34) * 2)}"' for field in row] for row in rows]
    forms = {
        "a.csv": "\n".join(map(",".join, quoted)),
        "b.csv": "\r\n".join(["sentence1,sentence2,score", *map(",".join, quoted)]),
        "c.tsv": "".join("\t".join(row) + "\n" for row in rows),
    }
    for name, text in forms.items():
        (tmp_path / name).write_bytes(text.encode())
        assert read_pairs(tmp_path / name) == Pairs(name[0], PAIRS), name
    assert read_pairs(write_pairs(tmp_path / "d.jsonl")).pairs == PAIRS


def test_a_separator_of_lines_inside_a_sentence_stays_there(tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_text("one\u2028line\tb\t1\nc\td\t2\n", encoding="utf-8")
    assert read_pairs(tmp_path / "a.tsv").pairs[0] == ("one\u2028line", "b", 1.0)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.csv", "one,other,1\none,other\n", "a.csv:2: not sentence1, sentence2, score"),
        ("a.csv", "a,b,1\nc,d,much\n", "a.csv:2: not sentence1"),
        ("a.csv", "a,b,1\nc,d,nan\n", "a.csv:2: score nan is not a number"),
        ("a.csv", 'a,b,1\n"c,d,2\n', "a.csv:2: unexpected end"),
        ("a.tsv", "a\t\t1\n", "a.tsv:1: sentence2 is an empty string"),
        ("a.jsonl", '{"sentence1": "a", "sentence2": 3, "score": 1}', "a.jsonl:1: sentence2 is int, not a string"),
        ("a.jsonl", '{"sentence1": "a", "score": 1}', "a.jsonl:1: sentence2 is NoneType"),
        ("a.jsonl", "\n[1]\n", "a.jsonl:2: not a JSON object"),
        ("a.csv", "a,b,1\nc,d,1\n", "no pairs with different scores"),
        ("a.csv", "", "no pairs with different scores"),
        ("a.txt", "a,b,1\n", "a.txt: pairs are a file .csv, .tsv or .jsonl"),
    ],
)
def test_pairs_that_cannot_be_read(tmp_path: Path, name: str, text: str, message: str) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8")
    with pytest.raises(UsageError, match=message.replace(".", r"\.")):
        read_pairs(tmp_path / name)


def test_a_retrieval_set_is_read_as_beir_lays_it_out(tmp_path: Path) -> None:
    found = read_retrieval(write_retrieval(tmp_path / "ferries"))
    assert found.name == "ferries"
    assert found.queries == {key: QUERIES[key] for key in ("q1", "q2", "q4")}, "a query without an answer is not asked"
    assert found.relevant == {"q1": ["d1"], "q2": ["d2", "d6"], "q4": ["d3"]}
    assert found.documents["d1"] == "Ferries The ferry leaves at seven from the old harbour."
    assert found.documents["d4"] == "Clocks"
    assert "d5" not in found.documents
    assert found.candidates == {}


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("corpus.jsonl", '{"_id": "d1", "text": "a"}\n{"_id": "d1", "text": "b"}\n', r"corpus\.jsonl:2: _id d1 is there twice"),
        ("corpus.jsonl", '{"text": "a"}\n', r"corpus\.jsonl:1: not _id, title, text"),
        ("queries.jsonl", '{"_id": "q1", "text": 3}\n', r"queries\.jsonl:1: not _id, text"),
        ("queries.jsonl", '{"_id": "q1"}\n', r"test\.tsv:3: q2 is not in queries\.jsonl"),
        ("qrels/test.tsv", "q1\td9\t1\n", r"test\.tsv:1: d9 is not in corpus\.jsonl"),
        ("qrels/test.tsv", "q1\td1\t1\nq2\td2\tyes\n", r"test\.tsv:2: not query-id, corpus-id, score"),
        ("qrels/test.tsv", "q1\td1\t0\n", r"test\.tsv: names no relevant document"),
        ("qrels/test.tsv", None, r"qrels: holds dev\.tsv, train\.tsv; one of them must be test\.tsv"),
        ("corpus.jsonl", None, r"corpus\.jsonl: cannot be read \(No such file"),
        ("top_ranked.jsonl", '{"query-id": "q1", "corpus-ids": ["d9"]}\n', r"top_ranked\.jsonl:1: d9 is not in corpus"),
        ("top_ranked.jsonl", '{"query-id": "q1", "corpus-ids": "d1"}\n', r"top_ranked\.jsonl:1: not query-id, corpus-ids"),
        ("top_ranked.jsonl", '{"query-id": "q1", "corpus-ids": ["d1"]}\n', r"names no candidates of query q2"),
    ],
)
def test_a_retrieval_set_that_cannot_be_read(tmp_path: Path, file: str, text: str | None, message: str) -> None:
    folder = write_retrieval(tmp_path / "set")
    if text is None:
        (folder / file).unlink()
        for split in ("dev", "train"):
            (folder / f"qrels/{split}.tsv").write_text(QRELS)
    else:
        (folder / file).write_text(text)
    with pytest.raises(UsageError, match=message):
        read_retrieval(folder)


def test_sets_that_do_not_go_with_the_model_are_refused(tmp_path: Path) -> None:
    pairs, folder = write_pairs(tmp_path / "set.jsonl"), write_retrieval(tmp_path / "set")
    for task, given, message in (
        ("embed", ((), ()), "nothing to evaluate on"),
        ("embed", ((pairs,), (folder,)), "2 sets are called set"),
        ("rerank", ((pairs,), ()), "a reranker gives no vectors"),
    ):
        with pytest.raises(UsageError, match=message):
            gather(task, *given, nano=False)
    many = "".join(json.dumps({"_id": id, "text": "a"}) + "\n" for id in (*DOCUMENTS, *map(str, range(100))))
    (folder / "corpus.jsonl").write_text(many)
    with pytest.raises(UsageError, match=r"cannot order all 106 documents.*top_ranked\.jsonl"):
        gather("rerank", (), (folder,), nano=False)


def test_the_sets_of_nanobeir_are_what_the_evaluators_hold() -> None:
    from sentence_transformers.cross_encoder.evaluation import CrossEncoderRerankingEvaluator
    from sentence_transformers.sentence_transformer.evaluation import InformationRetrievalEvaluator

    evaluator = InformationRetrievalEvaluator(
        {"q": "asks", "r": "asks, too"}, {"a": "one", "b": "two"}, {"q": {"b", "a"}}, name="NanoNQ"
    )
    assert sets._of_evaluator(evaluator) == Retrieval("NanoNQ", {"q": "asks"}, {"a": "one", "b": "two"}, {"q": ["a", "b"]})
    samples = [{"query": "asks", "positive": ["two"], "documents": ["one", "two"]}] * 2
    ranker = CrossEncoderRerankingEvaluator(samples, name="NanoNQ_R100")
    found = sets._of_samples(ranker.name, ranker.samples)
    assert found.queries == {"0": "asks", "1": "asks"}
    expected = {"query": "asks", "positive": ["two"], "negative": ["one"]}
    assert figures.samples(found) == [expected, expected]
