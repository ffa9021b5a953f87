"""The prefix that a query's pairs have in common: computed once, and its keys and values give the scores of the plain path."""

import asyncio
import gc
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from conftest import made

from shim import Model, load, prefixes
from shim.runtimes import PRESENT
from shim.runtimes.onnx import PAST, PAST_LENGTH, PRESENT_LENGTH, OnnxRuntime
from shim.serve.metrics import Metrics
from shim.serve.served_model import PART_TEXTS, ServedModel
from shim.serve.settings import Settings
from shim.text import Encoded, Prefix, Tokens

pytestmark = pytest.mark.convert
RERANKER = "qwen3-reranker-0.6b"
QUERY = "When does the ferry leave?"
# The third begins with what the template's last token may be joined to; the last one is cut.
DOCUMENTS = ["The ferry leaves at seven.", "", " \n: seven", "Паром отходит в семь.", "天气很好", "salt " * 400]
LIMIT = 200


class Watched:
    """A runtime and its calls: rows, tokens, output, and tokens of the past."""

    def __init__(self, model: Model, monkeypatch: pytest.MonkeyPatch):
        self.calls: list[tuple[int, int, str, int]] = []
        run = model.runtime.run

        def watched(tokens: Tokens, names: tuple[str, ...], past: np.ndarray | None = None) -> dict[str, np.ndarray]:
            self.calls.append((*tokens.input_ids.shape, names[0], 0 if past is None else past.shape[1]))
            return run(tokens, names, past)

        monkeypatch.setattr(model.runtime, "run", watched)

    @property
    def prefixes(self) -> list[int]:
        """The tokens of each prefix that was computed."""
        return [length for _, length, name, _ in self.calls if name == PRESENT]


def opened(target: str = "onnx", bits: int = 32, name: str = RERANKER) -> Model:
    model = load(made(name, target, bits)[0])
    model.encoder.max_tokens = LIMIT
    return model


def logits(model: Model, query: str, documents: Sequence[str], **settings: Any) -> np.ndarray:
    """In the order of the documents."""
    found = {item.index: item.logit for item in model.rerank(query, documents, **settings)}
    return np.array([found[row] for row in range(len(documents))])


def plain(model: Model, query: str, documents: Sequence[str], **settings: Any) -> np.ndarray:
    """The same, one document at a time, for which no prefix is computed."""
    return np.concatenate([logits(model, query, [document], **settings) for document in documents])


@pytest.mark.parametrize(
    ("name", "target", "bits"),
    [
        *((RERANKER, *kind) for kind in (("onnx", 32), ("onnx", 16), ("mlx", 16), ("mlx", 8))),
        ("qwen3-reranker-8b", "onnx", 8),
    ],
)
def test_scores_are_those_of_the_plain_path(name: str, target: str, bits: int, monkeypatch: pytest.MonkeyPatch) -> None:
    model = opened(target, bits, name)
    tolerance = 1e-2 if (target, bits) == ("onnx", 16) else 1e-5
    for query in (QUERY, "соль"):
        for instruction in (None, "Find the timetable"):
            expected = plain(model, query, DOCUMENTS, instruction=instruction)
            watched = Watched(model, monkeypatch)
            found = logits(model, query, DOCUMENTS, instruction=instruction)
            assert np.abs(found - expected).max() < tolerance
            assert np.ptp(expected) > 0.05, "all alike: this would prove nothing"
            assert len(watched.prefixes) == 1
            assert all(before or name == PRESENT for *_, name, before in watched.calls)


def test_the_prefix_is_computed_once_for_all_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    model = opened()
    watched = Watched(model, monkeypatch)
    documents = [f"{number} barrels of salt " * (1 + number % 7) for number in range(90)]
    encoded = model.encoder.pairs(QUERY, documents, model.manifest.model.prompts)
    model.rerank(QUERY, documents)
    assert len(watched.calls) > 3, "several batches"
    (once,) = watched.prefixes
    assert once == len(encoded[0].prefix.ids)  # type: ignore[union-attr]
    computed = sum(rows * length for rows, length, *_ in watched.calls)
    assert computed < 0.6 * sum(len(item.ids) for item in encoded)


def test_one_document_or_a_short_prefix_goes_the_plain_way(monkeypatch: pytest.MonkeyPatch) -> None:
    model = opened()
    watched = Watched(model, monkeypatch)
    model.rerank(QUERY, ["salt"])
    monkeypatch.setattr(prefixes, "LEAST", 1000)
    model.rerank(QUERY, ["salt", "pepper"])
    assert watched.prefixes == []


def test_keys_and_values_are_dropped_with_their_request_and_where_there_is_no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    model = opened()
    model.encoder.max_tokens = 4000
    held = model._prefixes.held
    model.rerank(QUERY, DOCUMENTS)
    gc.collect()
    assert len(held) == 0
    requests = [model.encoder.pairs(f"{QUERY} {number}", DOCUMENTS, model.manifest.model.prompts) for number in range(9)]
    expected = [model.compute([pair], ["score"])[0].values["score"] for pairs in requests for pair in _alone(pairs)]
    monkeypatch.setattr(prefixes, "HELD", 4 * len(requests[0][0].prefix.ids))  # type: ignore[union-attr]
    for _ in range(2):
        found = [output.values["score"] for pairs in requests for output in model.compute(pairs, ["score"])]
        assert np.abs(np.array(found) - expected).max() < 1e-5
        assert 2 <= len(held) <= 4
        assert sum(array.shape[1] for array in held.values()) <= prefixes.HELD
    query = "Which of these ferries leaves at seven? " * 50
    watched = Watched(model, monkeypatch)
    found = logits(model, query, DOCUMENTS)
    assert watched.prefixes == [prefixes.HELD]
    assert np.abs(found - plain(model, query, DOCUMENTS)).max() < 1e-5


def _alone(pairs: Sequence[Encoded]) -> list[Encoded]:
    return [Encoded(pair.ids, pair.type_ids, pair.truncated) for pair in pairs]


@pytest.mark.parametrize("target", ["onnx", "mlx"])
def test_a_batch_of_several_requests_gives_what_each_gives(target: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = opened(target, 32 if target == "onnx" else 16)
    prompts = model.manifest.model.prompts
    asked = [(QUERY, None), ("salt", None), ("salt", "Find the timetable")]  # the last two: only the template in common
    requests = [model.encoder.pairs(query, DOCUMENTS, prompts, instruction) for query, instruction in asked]
    mixed = [pair for row in zip(*requests, strict=True) for pair in row]
    mixed.insert(4, _alone(requests[0])[0])
    watched = Watched(model, monkeypatch)
    found = [output.values["score"] for output in model.compute(mixed, ["score"])]
    assert len(watched.prefixes) == len(asked)
    expected = [model.compute([pair], ["score"])[0].values["score"] for pair in _alone(mixed)]
    assert np.abs(np.array(found) - expected).max() < 1e-5


@pytest.mark.parametrize("target", ["onnx", "mlx"])
def test_ids_that_leave_the_prefix_early_are_followed(target: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the tokenizer makes of where query and document meet, and of a classifier's padding inside a text."""
    model = opened(target, 32 if target == "onnx" else 16)
    pairs = model.encoder.pairs(QUERY, DOCUMENTS[:3], model.manifest.model.prompts)
    prefix = Prefix(3, pairs[0].prefix.ids)  # type: ignore[union-attr]
    other = [Encoded([*pair.ids[:40], 7, *pair.ids[41:]], pair.type_ids, False, prefix) for pair in pairs[:1]]
    watched = Watched(model, monkeypatch)
    found = [output.values["score"] for output in model.compute([*other, *pairs[1:]], ["score"])]
    assert {before for *_, before in watched.calls} >= {0, 40}
    expected = [model.compute([pair], ["score"])[0].values["score"] for pair in _alone([*other, *pairs[1:]])]
    assert np.abs(np.array(found) - expected).max() < 1e-5
    model.encoder.unscored = pad = 9
    ended = [Encoded([*prefix.ids[:50], *[pad] * count], [0] * (50 + count), False, prefix) for count in (5, 20)]
    found = [output.values["score"] for output in model.compute(ended, ["score"])]
    expected = [model.compute([pair], ["score"])[0].values["score"] for pair in _alone(ended)]
    assert np.abs(np.array(found) - expected).max() < 1e-5


def test_a_graph_serves_loaders_that_know_nothing_of_it() -> None:
    path = made(RERANKER, "onnx", 32)[0] / "onnx/model.onnx"
    onnx.checker.check_model(path)
    session = ort.InferenceSession(path)
    assert [value.name for value in session.get_inputs()] == ["input_ids", "attention_mask"]
    assert {value.name for value in session.get_overridable_initializers()} == {PAST, PAST_LENGTH, PRESENT_LENGTH}
    ids = np.arange(10, 30)[None]
    found = dict(
        zip(["logits", "score", PRESENT], session.run(None, {"input_ids": ids, "attention_mask": ids * 0 + 1}), strict=True)
    )
    assert [value.name for value in session.get_outputs()] == list(found)
    assert found[PRESENT].shape[1] == 0, "what nobody asks for takes no room"


def test_an_artifact_from_before_gives_the_same() -> None:
    graph = onnx.load(made(RERANKER, "onnx", 32)[0] / "onnx/model.onnx")
    model = opened()
    expected = logits(model, QUERY, DOCUMENTS)
    kept = [value for value in graph.graph.input if value.name not in (PAST, PAST_LENGTH, PRESENT_LENGTH)]
    del graph.graph.input[:]
    graph.graph.input.extend(kept)
    model = Model(model.manifest, model.encoder, OnnxRuntime(ort.InferenceSession(graph.SerializeToString())))
    assert not model.runtime.takes_past
    assert np.abs(logits(model, QUERY, DOCUMENTS) - expected).max() < 1e-5


def test_a_server_gives_the_same_and_computes_each_prefix_once(monkeypatch: pytest.MonkeyPatch) -> None:
    documents = [f"{number} barrels of salt" for number in range(PART_TEXTS + 20)]
    queries = [QUERY, "salt", "pepper"]
    model = opened()
    expected = [logits(model, query, documents) for query in queries]
    served = ServedModel(opened, Settings(), Metrics())
    watched = Watched(served.model, monkeypatch)

    async def ask() -> list[Any]:
        return await asyncio.gather(*(served.rerank(query, documents, None, True) for query in queries))

    try:
        answers = asyncio.run(ask())
    finally:
        served.close()
    for answer, scores in zip(answers, expected, strict=True):
        found = {item.index: item.logit for item in answer}
        assert np.abs(np.array([found[row] for row in range(len(documents))]) - scores).max() < 1e-5
    assert len(watched.prefixes) == len(queries)
    assert any(rows > 1 for rows, *_ in watched.calls)
