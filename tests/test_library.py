"""`shim` as a library: what is taken and shown, memory, threads and event loops."""

import asyncio
import dataclasses
import gc
import inspect
import re
import threading
import weakref
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import made

import shim
from shim.errors import UsageError

RERANKER = "bge-reranker-v2-m3"


@pytest.fixture(scope="module")
def model(tiny_artifact: Path) -> shim.Model:
    return shim.load(tiny_artifact)


class Column:
    """As a table's column: iterated, with labels in place of places."""

    def __iter__(self) -> Any:
        return iter(["a", "b c", "d"])

    def __getitem__(self, label: str) -> str:
        raise KeyError(label)


class Table(Column):
    """Iterated, it gives the names of its columns."""

    shape = (3, 2)


@pytest.mark.parametrize(
    "given",
    [
        ("a", "b c", "d"),
        np.array(["a", "b c", "d"]),
        np.array(["a", "b c", "d"], object),
        Column(),
        (text for text in ("a", "b c", "d")),
        {"a": 1, "b c": 2, "d": 3}.keys(),
    ],
    ids=["tuple", "array of strings", "array of objects", "column", "generator", "keys"],
)
def test_texts_come_as_anything_in_an_order(model: shim.Model, given: Any) -> None:
    if isinstance(given, type({}.keys())):  # a view of a dictionary keeps the order, but is a set to Python
        with pytest.raises(UsageError, match="texts must be a list of strings, not dict_keys"):
            model.embed(given)
    else:
        assert model.embed(given) == model.embed(["a", "b c", "d"])


@pytest.mark.parametrize(
    "given", ["a", b"a", {"a"}, {"a": "b"}, 3, None, np.array("a"), [["a"]], np.array([["a"]]), Table(), ["a", np.nan]]
)
def test_what_is_no_list_of_texts_is_refused_in_words(model: shim.Model, given: Any) -> None:
    with pytest.raises(UsageError, match=r"texts must be a list of strings, not|text \d is \w+, not a string"):
        model.embed(given)


def test_integers_of_any_kind_are_counts(model: shim.Model) -> None:
    assert model.embed(["a"], dimensions=np.int64(16), batch_size=np.int32(1)) == model.embed(["a"], dimensions=16)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="batch_size must be a whole number over 0, not 0"):
        model.embed(["a"], batch_size=0)
    with pytest.raises(UsageError, match="dimensions must be a whole number from 1 to 64, not np.True_"):
        model.embed(["a"], dimensions=np.True_)  # type: ignore[arg-type]


def test_batch_size_bounds_what_is_computed_at_once(model: shim.Model, monkeypatch: pytest.MonkeyPatch) -> None:
    rows: list[int] = []
    run = model.runtime.run
    monkeypatch.setattr(model.runtime, "run", lambda tokens, *more: rows.append(len(tokens.input_ids)) or run(tokens, *more))
    expected = model.embed(["word"] * 7).dense
    assert rows == [7]
    assert np.abs(model.embed(["word"] * 7, batch_size=3).dense - expected).max() < 1e-6
    assert rows == [7, 3, 3, 1]


def test_progress_is_on_stderr_and_only_when_asked(model: shim.Model, capsys: pytest.CaptureFixture[str]) -> None:
    model.embed(["a"] * 3)
    model.encode(["a"] * 3)
    assert capsys.readouterr() == ("", "")
    model.embed(["a"] * 3, progress=True)
    out, err = capsys.readouterr()
    assert (out, model.name in err) == ("", True)


def test_what_is_printed_is_of_use(model: shim.Model) -> None:
    assert re.fullmatch(r"<shim.Model tiny-onnx-32bit: 64 dimensions, 128 tokens, pass [01]\.\d{5}, onnx on cpu>", repr(model))
    assert repr(model.embed(["a", "word " * 200])) == "<Embeddings 2 x 64, 131 tokens, 1 truncated>"


def test_equality_is_of_all_values(model: shim.Model) -> None:
    out = model.embed(["a", "b"])
    assert out == model.embed(["a", "b"])
    assert out != model.embed(["b", "a"])
    assert out != model.embed(["a"])
    assert out != dataclasses.replace(out, sparse=[{}, {}])
    assert out != dataclasses.replace(out, colbert=[out.dense, out.dense])
    assert out != "another kind"


def test_a_model_gives_its_memory_back(tiny_artifact: Path) -> None:
    with shim.load(tiny_artifact) as model:
        runtime = weakref.ref(model.runtime)
        assert model.embed(["a"]).dense.shape == (1, 64)
    gc.collect()
    assert runtime() is None
    assert model.info()["device"] == "cpu"
    with pytest.raises(UsageError, match="tiny-onnx-32bit is closed; load it again"):
        model.embed(["a"])


@pytest.mark.parametrize("kind", ["onnx-32", "mlx-8"])
def test_threads_get_their_own_vectors(minilm_artifacts: Mapping[str, Path], kind: str) -> None:
    model = shim.load(minilm_artifacts[kind])
    texts = [f"text number {number} {'of the crowd ' * (number % 7)}" for number in range(48)]
    expected = model.embed(texts).dense
    inside, most, run = 0, 0, model.runtime.run

    def counting(*given: Any) -> Any:
        nonlocal inside, most
        inside, most = inside + 1, max(most, inside + 1)
        try:
            return run(*given)
        finally:
            inside -= 1

    model.runtime.run = counting  # type: ignore[method-assign]
    with ThreadPoolExecutor(8) as pool:
        vectors = [out.dense[0] for out in pool.map(lambda text: model.embed([text]), texts)]
    assert np.abs(np.array(vectors) - expected).max() < 1e-5
    assert most == 1 or model.runtime.parallel, "a runtime that is not parallel computes for one thread at a time"


def test_an_event_loop_goes_on_meanwhile(model: shim.Model) -> None:
    reranker = shim.load(made(RERANKER, "onnx", 32)[0])
    inside = threading.Event()

    async def asked() -> None:
        async def beside() -> None:
            inside.set()

        out, ranked, _ = await asyncio.gather(
            model.aembed(["a", "b"], dimensions=16), reranker.arerank("q", ["a", "b"], top_n=1), beside()
        )
        assert out == model.embed(["a", "b"], dimensions=16)
        assert ranked == reranker.rerank("q", ["a", "b"], top_n=1)

    model.lock.acquire()  # neither can go on yet
    threading.Thread(target=lambda: (inside.wait(30), model.lock.release())).start()
    asyncio.run(asyncio.wait_for(asked(), 60))
    assert inspect.signature(shim.Model.aembed) == inspect.signature(shim.Model.embed).replace(
        return_annotation=inspect.signature(shim.Model.aembed).return_annotation
    )


def test_late_chunking_is_in_the_signature_of_models_that_can(minilm_artifacts: Mapping[str, Path]) -> None:
    able, other = shim.load(minilm_artifacts["onnx-32"]), shim.load(made("bge-m3", "onnx", 32)[0])
    for method in ("embed", "aembed"):
        assert "late_chunking" in inspect.signature(getattr(able, method)).parameters
        assert "late_chunking" not in inspect.signature(getattr(other, method)).parameters
    one = asyncio.run(able.aembed(["Winter.", "Storm."], late_chunking=True))  # type: ignore[call-arg]
    assert one == able.embed(["Winter.", "Storm."], late_chunking=True)  # type: ignore[call-arg]
    assert one != able.embed(["Winter.", "Storm."])
