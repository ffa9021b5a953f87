"""Token ids are those of the upstream tokenizer; truncation and padding are ours."""

from pathlib import Path

import numpy as np
import pytest
from support.checkpoints import minilm

from converter.corpus import VERIFICATION, read
from shim.checks import check_texts
from shim.errors import IntegrityError, UsageError
from shim.prompts import prompt_for, prompt_of
from shim.spec import ModelSpec
from shim.text import TextEncoder

ODD = ["trailing  ", "\tleading", "é vs é", "ＦＵＬＬ width", "a" * 300, "[CLS] in the text [SEP]", "\u200b", "🏳️‍🌈"]


@pytest.mark.parametrize("limit", [256, 12])
def test_ids_are_those_of_transformers(limit: int) -> None:
    from transformers import AutoTokenizer

    upstream = AutoTokenizer.from_pretrained(minilm())
    texts = [text.text for text in read(VERIFICATION)] + ODD
    ours = TextEncoder(minilm(), limit).encode(texts)
    wanted = upstream(texts, truncation=True, max_length=limit)
    assert [item.ids for item in ours] == wanted["input_ids"]
    whole = upstream(texts, truncation=False, verbose=False)["input_ids"]
    assert [item.truncated for item in ours] == [len(ids) > limit for ids in whole]


def test_ids_on_real_texts(shared: Path) -> None:
    """Three languages of real sentences, with the tokenizer that the bge repository itself has."""
    from transformers import AutoTokenizer

    folder = shared / "hub/BAAI/bge-small-en-v1.5"
    texts = [line for path in sorted((shared / "data/tatoeba").glob("tatoeba.*")) for line in path.read_text().splitlines()]
    ours = TextEncoder(folder, 512).encode(texts)
    wanted = AutoTokenizer.from_pretrained(folder)(texts, truncation=True, max_length=512)["input_ids"]
    assert len(texts) == 4000
    assert [item.ids for item in ours] == wanted


def test_a_batch_is_padded_on_the_right() -> None:
    encoder = TextEncoder(minilm(), 256)
    tokens = encoder.batch(encoder.encode(["one", "one two three"]))
    assert tokens.attention_mask.tolist() == [[1, 1, 1, 0, 0], [1] * 5]
    assert tokens.input_ids[0, 3:].tolist() == [0, 0]
    assert tokens.input_ids.dtype == np.int64


def test_the_prompt_counts_against_the_limit() -> None:
    encoder = TextEncoder(minilm(), 6)
    assert encoder.encode(["one two three"], "query: ")[0].truncated
    assert not encoder.encode(["one two"], "")[0].truncated


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ([], "empty list"),
        ("text", "list of strings, not str"),
        (None, "not NoneType"),
        (["ok", ""], "text 1 is an empty string"),
        (["ok", 3], "text 1 is int"),
        (["ok", None], "text 1 is NoneType"),
        (["ok", b"bytes"], "text 1 is bytes"),
        (["ok\ud800"], "text 0 has a lone surrogate at character 2"),
    ],
)
def test_texts_that_cannot_be_meant(texts: object, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        check_texts(texts)


def test_instructions() -> None:
    """The e5-instruct card's own example of a query, written out; a passage goes as it is."""
    prompts = {"instruction": "Instruct: {instruction}\nQuery: "}
    given = "Given a web search query, retrieve relevant passages that answer the query"
    assert prompt_for(prompts, None, given) == f"Instruct: {given}\nQuery: "
    assert prompt_for(prompts, "retrieval.passage", given) == f"Instruct: {given}\nQuery: "
    assert prompt_for(prompts, "clustering") == "Instruct: Represent this text for clustering\nQuery: "
    assert prompt_for(prompts, "retrieval.passage") == prompt_for(prompts, "code.passage") == prompt_for(prompts, None) == ""
    assert prompt_for(prompts, None, "a {instruction} b") == "Instruct: a {instruction} b\nQuery: "
    with pytest.raises(UsageError, match="takes no instruction"):
        prompt_for({"retrieval.query": "query: "}, "retrieval.query", given)
    with pytest.raises(UsageError, match="empty string"):
        prompt_for(prompts, None, "")


def test_tasks() -> None:
    prompts = {"retrieval.query": "query: "}
    assert prompt_for(prompts, "retrieval.query") == "query: "
    assert prompt_for(prompts, "retrieval.passage") == ""
    assert prompt_for(prompts, None) == ""
    with pytest.raises(UsageError, match=r"task 'query' unknown \(retrieval.query"):
        prompt_for(prompts, "query")


def test_a_broken_tokenizer_is_named(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(IntegrityError, match="tokenizer.json: not a readable tokenizer"):
        TextEncoder(tmp_path, 8)


def test_a_prompt_that_leaves_no_room_is_an_error() -> None:
    """Else every text would be cut to nothing and all would get the same vector."""
    encoder = TextEncoder(minilm(), 16)
    with pytest.raises(UsageError, match="max_tokens 16 leaves no room beside 42 tokens of the prompt"):
        encoder.encode(["cats", "quantum physics"], "very long instruction " * 13 + "ok")
    assert encoder.encode(["cats"], "short: ")[0].ids != encoder.encode(["dogs"], "short: ")[0].ids


WEB = "Instruct: Given a web search query, retrieve relevant passages that answer the query\nQuery:"


@pytest.mark.parametrize(
    ("asked", "names", "prompt"),
    [
        ({"name": "query"}, {"query": WEB, "document": ""}, WEB),
        ({"task": "retrieval.query"}, {"query": WEB, "document": ""}, WEB),
        ({"name": "retrieval.query"}, {"query": WEB, "document": ""}, WEB),
        ({"name": "passage"}, {"query": WEB, "document": "D: "}, "D: "),
        ({"name": "passage"}, {"passage": "P: ", "document": "D: "}, "P: "),
        ({"task": "retrieval.passage"}, {"passage": "P: ", "document": "D: "}, "D: "),
        ({"task": "retrieval.passage"}, {"query": WEB, "corpus": "C: "}, ""),  # as sentence-transformers' encode_document
        ({"task": "bitext"}, {"bitext": "B: "}, "B: "),
        (
            {"task": "bitext"},
            {"query": WEB},
            "Instruct: Represent this text for finding its translation in another language\nQuery:",
        ),
        ({"task": "retrieval.query", "instruction": "Find boats"}, {"query": WEB}, "Instruct: Find boats\nQuery:"),
        ({}, {"query": WEB}, ""),
    ],
)
def test_the_checkpoints_own_prompt_goes_before_our_wording(asked: dict[str, str], names: dict[str, str], prompt: str) -> None:
    template = {"instruction": "Instruct: {instruction}\nQuery:"}
    spec = ModelSpec("qwen3", "last", 512, 64, ["dense"], prompts=template, prompt_names=names)
    assert prompt_of(spec, **asked) == prompt


def test_a_recipes_prompt_of_a_task_goes_before_the_checkpoints_but_not_before_its_name() -> None:
    spec = ModelSpec("bert", "cls", 512, 64, ["dense"], prompts={"retrieval.query": "R: "}, prompt_names={"query": "Q: "})
    assert prompt_of(spec, task="retrieval.query") == "R: "
    assert prompt_of(spec, name="query") == "Q: "
