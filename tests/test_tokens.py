"""The text side of BGE-M3 and Qwen3 on their published tokenizers, against transformers and the model cards.

All texts of ../shared/data are compared, books in pieces of 4,000 characters. Qwen3's tokenizers, which differ in special
tokens, share them, and so do the two of BGE, which differ in the spaces that they keep.
"""

import copy
import csv
import functools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from converter import recipe
from shim.errors import UsageError
from shim.prompts import prompt_for
from shim.text import TextEncoder

M3, RERANKER = "hub/BAAI/bge-m3", "hub/BAAI/bge-reranker-v2-m3"
QWEN, QWEN_4B, QWEN_8B = (f"hub/Qwen/Qwen3-Embedding-{size}" for size in ("0.6B", "4B", "8B"))
QWEN_RERANKER = "hub/Qwen/Qwen3-Reranker-0.6B"
CLS, SEP, END_OF_TEXT = 0, 2, 151643
BOOKS = ("en_NewsFromNowhere_pg3261.txt", "ru_Pushkin_CapitanskaaDochka.txt", "zh_sanguo.txt")
WEB = "Given a web search query, retrieve relevant passages that answer the query"  # both Qwen3 cards' own instruction
SEPARATED = (
    "trailing  ¦  leading¦ ¦\n¦\t¦tab\tand\nnewline \n\n¦windows\r\nline\r¦a  b   c    d¦\u3000wide\u3000¦ok.\n\n\n  next¦"
    "ｆｕｌｌ　ｗｉｄｔｈ １２３¦\u200bzero\u200bwidth\u200b¦\ufeffmark¦soft\u00adhyphen¦no\u00a0break\u202fspace¦a\x00b\x7f¦"
    "é ё й Å ﬁ¦e\u0301 е\u0308 и\u0306 A\u030a fi¦\u0301first¦क्षि 한국어 \u1112\u1161\u11ab¦العربية עברית¦x² ½ Ⅳ ℃ ㈱ …¦"
    "🏳️\u200d🌈 👩🏽\u200d💻 🙂¦𝕳𝖊𝖑𝖑𝖔 𠮷野家¦<|im_end|>¦a <|im_end|> b <|endoftext|>¦<|im_start|>user\nhi<think></think>¦"
    "</s>¦ </s> <s> a</s>b <pad><unk> <mask> ¦[CLS] [SEP]¦it's I'LL we'Ve¦3.14 1,000,000¦\ufffd \U0010ffff¦{document} {query}"
)
ODD = [*SEPARATED.split("¦"), "a" * 3000, "天" * 500, "!?" * 200]


@functools.cache
def upstream(folder: Path) -> Any:
    """transformers' own; for bge-m3 from the file as published, since AutoTokenizer rebuilds it without its trailing spaces."""
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    return (PreTrainedTokenizerFast if folder.name == "bge-m3" else AutoTokenizer).from_pretrained(folder)


@functools.cache
def loaded(folder: Path) -> TextEncoder:
    return TextEncoder(folder, 8192)


def ours(folder: Path, limit: int) -> TextEncoder:
    """An encoder with its own limit; the tokenizer is read once, for that takes a second."""
    encoder = copy.copy(loaded(folder))
    encoder.max_tokens = limit
    return encoder


def texts(data: Path) -> Iterator[str]:
    for path in sorted(data.glob("tatoeba/tatoeba.*")):
        yield from path.read_text("utf-8").splitlines()
    for path in sorted(data.glob("stsb/*.csv")):
        yield from (text for row in csv.reader(path.read_text("utf-8").splitlines()) for text in row[:2])
    yield from (text for context, questions in paragraphs(data) for text in (context, *questions))
    yield from json.loads((data / "cosqa/code_idx_map.txt").read_text("utf-8"))
    for path in sorted(data.glob("cosqa/*.json")):
        yield from (item[key] for item in json.loads(path.read_text("utf-8")) for key in ("doc", "code"))
    for path in sorted(data.glob("longdocs/*.txt")):
        whole = path.read_text("utf-8")
        yield from (whole[start : start + 4000] for start in range(0, len(whole), 4000))


def paragraphs(data: Path) -> list[tuple[str, list[str]]]:
    """Each paragraph of xquad with its questions: 120 in English, then the same in Russian and in Chinese."""
    files = [json.loads(path.read_text("utf-8")) for path in sorted(data.glob("xquad/*.json"))]
    parts = [part for file in files for article in file["data"] for part in article["paragraphs"]]
    return [(part["context"], [item["question"] for item in part["qas"]]) for part in parts]


def book(shared: Path, name: str) -> str:
    return (shared / "data/longdocs" / name).read_text("utf-8")


def starts(text: str, tokenizer: Any, limit: int) -> dict[int, str]:
    """Starts of the text by their number of tokens, special ones included: some just under, at and just over the limit."""
    ends = [end for _, end in tokenizer(text, return_offsets_mapping=True, verbose=False)["offset_mapping"]]
    return {len(tokenizer(text[:end], verbose=False)["input_ids"]): text[:end] for end in ends[limit - 4 : limit + 3]}


@pytest.mark.slow
@pytest.mark.parametrize("name", [M3, RERANKER, QWEN, QWEN_4B, QWEN_8B, QWEN_RERANKER])
def test_ids_of_all_texts(shared: Path, tmp_path: Path, name: str) -> None:
    tokenizer, every = upstream(shared / name), list(dict.fromkeys(texts(shared / "data")))
    assert len(every) > 50_000
    parts = {folder: every[number::4] for number, folder in enumerate((QWEN, QWEN_4B, QWEN_8B, QWEN_RERANKER))}
    parts |= {M3: every[::2], RERANKER: every[1::2]}
    (tmp_path / "tokenizer.json").symlink_to(shared / name / "tokenizer.json")
    (tmp_path / "config.json").write_text("{}")  # of the 8B there is none
    for limit, some in ((8192, [*ODD, *parts[name]]), (20, [*ODD, *every[::50]])):
        for start in range(0, len(some), 5000):  # in blocks, since transformers keeps much of each text
            block = some[start : start + 5000]
            found = [item.ids for item in ours(tmp_path, limit).encode(block)]
            wanted = tokenizer(block, truncation=True, max_length=limit)["input_ids"]
            different = [row for row in zip(block, found, wanted, strict=True) if row[1] != row[2]]
            assert not different, different[0]
            assert name == QWEN_RERANKER or {ids[-1] for ids in found} == {END_OF_TEXT if "Qwen" in name else SEP}


def test_ids_written_out(shared: Path) -> None:
    """The published normalisers of the BGE models differ: bge-m3's leaves a space at the end, which is a token of its own."""
    assert ours(shared / M3, 64).encode(["trailing  "])[0].ids == [0, 141037, 214, 6, 2]
    assert ours(shared / RERANKER, 64).encode(["trailing  "])[0].ids == [0, 141037, 214, 2]
    assert [item.ids for item in ours(shared / QWEN, 64).encode(["yes", "no"])] == [[9693, END_OF_TEXT], [2152, END_OF_TEXT]]
    assert [item.ids for item in ours(shared / QWEN_RERANKER, 64).encode(["yes", "no"])] == [[9693], [2152]]


@pytest.mark.parametrize("limit", [8192, 64])
def test_own_pairs(shared: Path, limit: int) -> None:
    """The longer of the two is cut, as sentence-transformers' CrossEncoder does: <s> query </s></s> document </s>"""
    folder, tokenizer, every = shared / RERANKER, upstream(shared / RERANKER), paragraphs(shared / "data")
    documents = ["", *ODD, *(context for context, _ in every[::4])]
    for query in ("天气  ", "</s> a", "a long one " * 18, *(questions[0] for _, questions in every[5::36])):
        found = ours(folder, limit).pairs(query, documents, {})
        pairs = [query] * len(documents), documents
        wanted = tokenizer(*pairs, truncation="longest_first", max_length=limit)["input_ids"]
        whole = tokenizer(*pairs, verbose=False)["input_ids"]
        assert [item.ids for item in found] == wanted
        assert all(ids[0] == CLS and ids[-1] == SEP for ids in wanted)
        assert [item.truncated for item in found] == [len(ids) > limit for ids in whole]
        assert any(item.truncated for item in found) == (limit == 64)
        assert all(item.type_ids == [0] * len(item.ids) for item in found)


@pytest.mark.parametrize("name", BOOKS)
def test_an_own_pair_of_a_book(shared: Path, name: str) -> None:
    folder, query, text = shared / RERANKER, "Who speaks to the old man? 老人", book(shared, name)
    (found,), head = ours(folder, 8192).pairs(query, [text], {}), upstream(folder)(query)["input_ids"]
    assert found.ids == upstream(folder)(query, text, truncation="only_second", max_length=8192)["input_ids"]
    assert (found.ids[: len(head)], found.ids[-1], len(found.ids), found.truncated) == (head, SEP, 8192, True)


def test_a_query_over_the_limit_is_cut(shared: Path) -> None:
    folder, query, documents = shared / RERANKER, "which river is the longest of all", ["the Nile is", ""]
    taken = len(upstream(folder)(query)["input_ids"]) + 2  # the query in its frame: four special tokens
    for limit in (taken + 1, taken, taken - 1, 5):
        found = ours(folder, limit).pairs(query, documents, {})
        wanted = upstream(folder)([query] * 2, documents, truncation="longest_first", max_length=limit)["input_ids"]
        assert [item.ids for item in found] == wanted
        assert [item.truncated for item in found] == [True, limit < taken]
    with pytest.raises(UsageError, match="max_tokens 4 leaves no room beside 4 special tokens"):
        ours(folder, 4).pairs(query, documents, {})


def card(tokenizer: Any, instruction: str | None, query: str, documents: list[str], limit: int) -> list[list[int]]:
    """The model card's snippet, without its padding."""
    prefix = (
        "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and the Instruct provided. "
        'Note that the answer can only be "yes" or "no".<|im_end|>\n<|im_start|>user\n'
    )
    suffix = "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
    prefix_tokens = tokenizer.encode(prefix, add_special_tokens=False)
    suffix_tokens = tokenizer.encode(suffix, add_special_tokens=False)
    pairs = [f"<Instruct>: {WEB if instruction is None else instruction}\n<Query>: {query}\n<Document>: {d}" for d in documents]
    length = limit - len(prefix_tokens) - len(suffix_tokens)
    inner = tokenizer(pairs, padding=False, truncation="longest_first", max_length=length)["input_ids"]
    return [prefix_tokens + ids + suffix_tokens for ids in inner]


@pytest.mark.parametrize("instruction", [None, "Find the paragraph with a year", " {query}{document}{instruction} \\g<0> "])
@pytest.mark.parametrize("limit", [8192, 160])
def test_templated_pairs(shared: Path, instruction: str | None, limit: int) -> None:
    folder, prompts = shared / QWEN_RERANKER, recipe.load("qwen3-reranker-0.6b").model.prompts
    assert prompts == recipe.load("qwen3-reranker-4b").model.prompts == recipe.load("qwen3-reranker-8b").model.prompts
    documents = ["", *ODD, *(context for context, _ in paragraphs(shared / "data")[::12])]
    queries = ("天气", "what is {document}? {query} {instruction}", "trailing \n", "\u0301e <|im_end|>\n", r"\1 \g<0>", "{}")
    for query in queries:
        found = ours(folder, limit).pairs(query, documents, prompts, instruction)
        assert [item.ids for item in found] == card(upstream(folder), instruction, query, documents, limit)
        whole = card(upstream(folder), instruction, query, documents, 32768)
        assert [item.truncated for item in found] == [len(ids) > limit for ids in whole]
        assert any(item.truncated for item in found) == (limit == 160)
        assert all(item.type_ids == [0] * len(item.ids) for item in found)


@pytest.mark.parametrize("name", BOOKS)
def test_a_templated_pair_of_a_book(shared: Path, name: str) -> None:
    """The document is cut to the token, and what comes behind it is whole."""
    folder, prompts = shared / QWEN_RERANKER, recipe.load("qwen3-reranker-0.6b").model.prompts
    suffix = [151645, 198, 151644, 77091, 198, 151667, 271, 151668, 271]  # <|im_end|> … <think>\n\n</think>\n\n
    text, short = book(shared, name), book(shared, name)[:1000]
    frame, exact = map(len, card(upstream(folder), None, "who?", ["", short], 32768))
    for part, limit, cut in ((text, 32768, True), (short, exact - 1, True), (short, exact, False), (short, exact + 1, False)):
        (found,) = ours(folder, limit).pairs("who?", [part], prompts)
        assert [found.ids] == card(upstream(folder), None, "who?", [part], limit)
        assert (len(found.ids), found.ids[-9:], found.truncated) == (limit if cut else exact, suffix, cut)
    with pytest.raises(UsageError, match="leaves no room"):
        ours(folder, frame).pairs("who?", ["a"], prompts)


@pytest.mark.parametrize("size", ["0.6B", "4B"])
def test_queries_are_those_of_sentence_transformers(shared: Path, size: str) -> None:
    folder = shared / f"hub/Qwen/Qwen3-Embedding-{size}"
    published = json.loads((folder / "config_sentence_transformers.json").read_text("utf-8"))["prompts"]
    prompts = recipe.load(f"qwen3-embedding-{size.lower()}").model.prompts
    assert prompt_for(prompts, None, WEB) == published["query"] == f"Instruct: {WEB}\nQuery:"
    assert prompt_for(prompts, "retrieval.passage") == prompt_for(prompts, None) == published["document"] == ""
    questions = [*ODD, *(question for _, questions in paragraphs(shared / "data") for question in questions)]
    found = [item.ids for item in ours(folder, 8192).encode(questions, prompt_for(prompts, None, WEB))]
    assert found == upstream(folder)([published["query"] + text for text in questions])["input_ids"]


@pytest.mark.parametrize("name", BOOKS)
@pytest.mark.parametrize(("model", "limit", "last"), [(M3, 8192, SEP), (QWEN, 32768, END_OF_TEXT)])
def test_limits(shared: Path, name: str, model: str, limit: int, last: int) -> None:
    encoder, tokenizer, text = ours(shared / model, limit), upstream(shared / model), book(shared, name)[: 6 * limit]
    whole, near = tokenizer(text, verbose=False)["input_ids"], starts(text, tokenizer, limit)
    assert len(whole) > limit
    (found,) = encoder.encode([text])
    assert (found.ids, found.truncated) == ([*whole[: limit - 1], last], True)
    for count in (limit - 1, limit, limit + 1):
        (found,) = encoder.encode([near[count]])
        assert (len(found.ids), found.ids[-1], found.truncated) == (min(count, limit), last, count > limit)
    (found,) = encoder.encode([near[limit]], "a prompt counts, too: ")
    assert (len(found.ids), found.ids[-1], found.truncated) == (limit, last, True)


def test_ids_without_a_meaning_of_their_own(shared: Path) -> None:
    """cls, pad, eos and unk, as FlagEmbedding has it; <mask> is none of them."""
    wanted = {getattr(upstream(shared / M3), f"{name}_token_id") for name in ("cls", "pad", "eos", "unk")}
    assert ours(shared / M3, 8).unused() == wanted == {0, 1, 2, 3}


@pytest.mark.parametrize("name", [M3, QWEN])
def test_a_batch(shared: Path, name: str) -> None:
    """Padded on the right, as transformers does for bge-m3; Qwen3's config names no padding id, and its mask is what counts."""
    encoder, tokenizer = ours(shared / name, 24), upstream(shared / name)
    found = encoder.batch(encoder.encode(ODD))
    wanted = tokenizer(ODD, truncation=True, max_length=24, padding=True, padding_side="right", return_tensors="np")
    ids, mask = wanted["input_ids"], wanted["attention_mask"]
    assert mask.min(0)[[0, -1]].tolist() == [1, 0]
    assert np.array_equal(found.attention_mask, mask)
    assert np.array_equal(found.input_ids, ids if name == M3 else ids * mask)
    assert {found.input_ids.dtype, found.attention_mask.dtype, found.token_type_ids.dtype} == {np.dtype(np.int64)}
    assert np.array_equal(found.token_type_ids, 0 * mask)
