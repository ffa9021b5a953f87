"""Late chunking, against the upstream library's token embeddings and the paper's definition, through a server."""

from collections.abc import Callable
from pathlib import Path

import httpx
import numpy as np
import pytest
import torch
from conftest import made
from support import saved
from test_adapters import NAMES
from test_saved import checkpoint, converted, off, theirs

import shim
from shim import late
from shim.contents import completed
from shim.errors import UsageError

CHUNKS = ["The ferry. ", "In winter;", "天气电", "梯很好。", "Home"]  # 电梯 is one token of one of the tokenizers
WHOLE = "The ferry. In winter; 天气电梯很好。 Home"
LONG = [f"{place}. the ferry of the {place} day goes to an island, and is back before the storm. " for place in range(14)]
LIMIT = 48
CASES = {"jina, adapters": ("", "retrieval_query", "separation"), "nomic": ("",), "bert, mean, normalised": ("",)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("late")


@pytest.fixture(scope="module")
def artifacts(folder: Path) -> dict[str, Path]:
    corpus = folder / "corpus.txt"
    corpus.write_text("\n".join([*CHUNKS, "a lamp", "two boats"]), encoding="utf-8")
    found = {kind: converted(checkpoint(kind, folder), "onnx", 32, folder / "out", corpus)[1] for kind in CASES}
    return {kind: folder / "out" / manifest.name for kind, manifest in found.items()}


@pytest.fixture(scope="module")
def ask(serve: Callable[..., str], artifacts: dict[str, Path]) -> Callable[..., httpx.Response]:
    address = serve(*artifacts.values(), made("bge-m3", "onnx", 32)[0])

    def asked(kind: str, **body: object) -> httpx.Response:
        model = artifacts[kind].name if kind in artifacts else kind
        return httpx.post(address + "/v1/embeddings", json={"model": model, **body}, timeout=60)

    return asked


def vectors(answer: httpx.Response) -> np.ndarray:
    assert answer.status_code == 200, answer.text
    return np.array([row["embedding"] for row in answer.json()["data"]])


def spans(chunks: list[str], whole: str, prompt: str, places: list[tuple[int, int]]) -> list[list[int]]:
    """The tokens of each chunk by where it ends in the text; special tokens lie nowhere, and go with their neighbours."""
    ends, start = [], 0
    for chunk in chunks:
        start = whole.index(chunk.strip(), start) + len(chunk.strip())
        ends.append(len(prompt) + start)
    found: list[list[int]] = [[] for _ in chunks]
    owner = 0
    for token, (left, right) in enumerate(places):
        while right > left and right > ends[owner]:
            owner += 1
        found[owner].append(token)
    return found


def pooled(states: np.ndarray, tokens: list[list[int]]) -> np.ndarray:
    means = np.array([states[own].mean(axis=0) for own in tokens])
    return means / np.linalg.norm(means, axis=1, keepdims=True)


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind, names in CASES.items() for name in names])
def test_a_chunk_is_the_mean_of_its_tokens_in_the_whole_document(
    kind: str, name: str, ask: Callable[..., httpx.Response], folder: Path
) -> None:
    source = checkpoint(kind, folder)
    upstream, task = theirs(source), NAMES.get(name, name)
    if name:
        upstream.load_adapter(str(source / name), adapter_name=name)
    prompt = saved.TASK_PROMPTS.get(task, "")
    read = upstream.tokenizer(prompt + WHOLE, return_offsets_mapping=True)
    assert len(read["input_ids"]) <= LIMIT
    states = upstream.encode(prompt + WHOLE, output_value="token_embeddings").cpu().numpy()
    expected = pooled(states, spans(CHUNKS, WHOLE, prompt, read["offset_mapping"]))
    given = {"task": task} if name else {}
    answer = ask(kind, input=CHUNKS, late_chunking=True, **given)
    assert np.abs(vectors(answer) - expected).max() < 1e-5
    assert answer.json()["usage"]["total_tokens"] == len(read["input_ids"])
    assert off(vectors(ask(kind, input=CHUNKS, **given)), expected) > 0.1, "this would prove nothing"


@pytest.mark.parametrize("given", [{}, {"task": "retrieval.passage"}, {"dimensions": 32}, {"normalized": False}])
def test_one_chunk_is_a_text(given: dict[str, object], ask: Callable[..., httpx.Response]) -> None:
    one = vectors(ask("jina, adapters", input=[WHOLE], late_chunking=True, **given))
    assert np.abs(one - vectors(ask("jina, adapters", input=[WHOLE], **given))).max() < 1e-5


def test_a_document_over_the_limit_goes_in_windows(
    ask: Callable[..., httpx.Response], artifacts: dict[str, Path], folder: Path
) -> None:
    """By hand: windows of the limit that share an eighth; what two have, the first one gives."""
    upstream = theirs(checkpoint("jina, adapters", folder))
    read = upstream.tokenizer("".join(LONG), truncation=False, return_offsets_mapping=True)
    begin, *inner, end = read["input_ids"]
    room = LIMIT - 2
    shared, states, first = room // 8, [], 0
    while len(states) < len(read["input_ids"]):
        ids = torch.tensor([[begin, *inner[first : first + room], end]])
        with torch.inference_mode():
            rows = upstream[0].auto_model(input_ids=ids).last_hidden_state[0].numpy()
        states += list(rows[1 + shared if first else 0 : None if first + room >= len(inner) else -1])
        first += room - shared
    assert first > 3 * room
    expected = pooled(np.array(states), spans(LONG, "".join(LONG), "", read["offset_mapping"]))
    assert np.abs(vectors(ask("jina, adapters", input=LONG, late_chunking=True)) - expected).max() < 1e-5
    windows = completed(late.document(shim.load(artifacts["jina, adapters"]).encoder, LONG, "")).windows
    assert max(len(window.ids) for window in windows) == LIMIT


def test_what_cannot_be_is_refused_with_its_reason(ask: Callable[..., httpx.Response], artifacts: dict[str, Path]) -> None:
    refused = ask("bge-m3", input=CHUNKS, late_chunking=True)
    message = refused.json()["error"]["message"]
    assert refused.status_code == 400
    assert "does no late chunking: its vector is that of the first token" in message
    assert all(path.name in message.split("; here ")[1] for path in artifacts.values())
    model = shim.load(artifacts["nomic"])
    with pytest.raises(UsageError, match="chunk 1 has no token of its own; join it with the one beside it"):
        model.embed(["winter", "  ", "storm"], late_chunking=True)


@pytest.mark.parametrize(
    ("chunks", "whole"),
    [
        (["one.", "two"], "one. two"),
        (["one. ", "two"], "one. two"),
        (["one.", "\ntwo"], "one.\ntwo"),
        (["天气。", "很好"], "天气。很好"),
        (["one", "天"], "one 天"),
    ],
)
def test_chunks_are_joined_as_they_were_apart(chunks: list[str], whole: str) -> None:
    assert "".join(late.joined(chunks)) == whole
