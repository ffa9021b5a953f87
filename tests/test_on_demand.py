"""Models that are loaded when they are asked for: never more than there is room for, and no request fails for it."""

import asyncio
import json
import re
import shutil
import time
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from conftest import made
from support import commands, servers

import shim
from shim.loading import describe
from shim.serve import on_demand
from shim.serve.app import create_app
from shim.serve.faults import Kind, Refusal
from shim.serve.given import folder as artifacts_in
from shim.serve.memory import expected
from shim.serve.metrics import Metrics
from shim.serve.models import Models
from shim.serve.options import Options
from shim.serve.settings import Settings
from shim.serve.turns import CLIENT
from shim.serve.welcome import welcome

NAMES = ("bge-m3-onnx-32bit", "bge-reranker-v2-m3-onnx-32bit", "tiny-onnx-32bit")


@pytest.fixture(scope="module")
def folder(tiny_artifact: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three artifacts, what is no artifact, and one that was changed."""
    folder = tmp_path_factory.mktemp("models")
    for path in (tiny_artifact, *(made(name, "onnx", 32)[0] for name in ("bge-m3", "bge-reranker-v2-m3"))):
        shutil.copytree(path, folder / path.name)
    (folder / "notes").mkdir()
    changed = Path(shutil.copytree(tiny_artifact, folder / "changed"))
    (changed / "artifact.json").write_text((changed / "artifact.json").read_text() + "x")
    return folder


@pytest.fixture
def offered(folder: Path) -> Iterator[Callable[..., Models]]:
    """Models on demand, of the folder; each as if it took what is expected."""
    made: list[Models] = []

    def make(**settings: Any) -> Models:
        made.append(Models(Settings(**settings), Metrics()))
        for name in NAMES:
            made[-1].offer(partial(shim.load, str(folder / name)), describe(folder / name))
        for one in made[-1].listed.values():
            made[-1].on_demand._state(one).measured = one.memory
        return made[-1]

    yield make
    for models in made:
        assert models.close()


def room(folder: Path) -> int:
    """Bytes in which one of them has room, but no two."""
    return max(expected(describe(folder / name)) for name in NAMES) + 1000


def run(work: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(asyncio.wait_for(work, 120))


async def embed(models: Models, name: str) -> np.ndarray:
    with models.asking() as asking:
        served, _ = await asking.find(name, "embed")
        return (await served.embed(["a text"], Options())).dense


def test_clients_of_all_models_are_answered_within_the_memory(folder: Path) -> None:
    limit = room(folder)
    server = servers.shim("--models", folder, "--max-memory", f"{limit}B", "--keep-alive", "1s")
    try:
        listed = {model["id"]: model for model in httpx.get(f"{server.url}/v1/models", timeout=60).json()["data"]}
        assert listed.keys() == set(NAMES)
        assert not any(model["loaded"] for model in listed.values()), "nothing is loaded yet"
        assert any("left out" in line and "changed" in line for line in server.lines)

        def ask(number: int) -> tuple[str, int, Any]:
            name = NAMES[number % 3]
            path = "/rerank" if "reranker" in name else "/embed"
            body = {"model": name, "inputs": ["a text"], "query": "q", "texts": ["a text"]}
            answer = httpx.post(server.url + path, json=body, timeout=100)
            return name, answer.status_code, answer.json()

        seen, ended = [], False

        def look() -> None:
            while not ended:
                info = httpx.get(f"{server.url}/info", timeout=60).json()
                seen.append(sum(model["memory"] for model in info["models"] if model["loaded"]))

        with ThreadPoolExecutor(7) as pool:
            looking = pool.submit(look)
            answers = list(pool.map(ask, range(30)))
            ended = True
            looking.result()
        assert {status for _, status, _ in answers} == {200}
        for name in (NAMES[0], NAMES[2]):
            rows = [answer[0] for each, _, answer in answers if each == name]
            assert np.abs(np.array(rows) - shim.load(folder / name).embed(["a text"]).dense[0]).max() < 1e-5
        assert 0 < max(seen) <= limit
        assert any("unloaded" in line for line in server.lines)
        page = httpx.get(f"{server.url}/metrics").text
        for name in NAMES:
            assert f'sealport_model_memory_bytes{{model="{name}"}}' in page
        end = time.monotonic() + 60
        while any(model["loaded"] for model in httpx.get(f"{server.url}/v1/models", timeout=60).json()["data"]):
            assert time.monotonic() < end, "what is idle is unloaded"
        assert ask(0)[1] == 200
    finally:
        server.end()
        server.ended()


def test_a_model_with_work_is_not_unloaded_and_requests_wait(folder: Path, offered: Callable[..., Models]) -> None:
    models = offered(max_memory=room(folder))

    async def work() -> None:
        with models.asking() as asking:
            served, _ = await asking.find(NAMES[0], "embed")
            other = asyncio.create_task(embed(models, NAMES[2]))
            await asyncio.sleep(0.1)
            late = asyncio.create_task(embed(models, NAMES[0]))  # behind the other, which would else wait for ever
            await asyncio.sleep(0.3)
            assert not other.done()
            assert models.loaded == {NAMES[0]: served}
            assert (await served.embed(["a text"], Options())).dense.shape == (1, 128)
        assert (await other).shape == (1, 64)
        assert (await late).shape == (1, 128)
        assert list(models.loaded) == [NAMES[0]]

    run(work())


def test_the_least_recently_used_goes_first(offered: Callable[..., Models], folder: Path) -> None:
    models = offered(max_memory=2 * room(folder))

    async def work() -> None:
        for name in (NAMES[0], NAMES[2], NAMES[0]):
            await embed(models, name)
        with models.asking() as asking:
            await asking.find(NAMES[1], "rerank")
        assert set(models.loaded) == {NAMES[0], NAMES[1]}

    run(work())


def test_what_cannot_be_loaded_is_one_line_and_tried_again_later(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path = Path(shutil.copytree(folder / NAMES[2], tmp_path / "one"))
    models = Models(Settings(), Metrics())
    models.offer(partial(shim.load, str(path)), describe(path))
    (path / "tokenizer.json").rename(tmp_path / "kept")

    async def work() -> None:
        for _ in range(2):
            with pytest.raises(Refusal) as refused:
                await embed(models, "tiny")
            assert refused.value.message == "tiny-onnx-32bit cannot be loaded; the server's log says why", "no path of ours"
            assert (refused.value.status, refused.value.headers) == (503, {"retry-after": "10"})
            assert re.search("tokenizer.json is missing", str(vars(caplog.records[-1])["error"]))
        (tmp_path / "kept").rename(path / "tokenizer.json")
        monkeypatch.setattr(on_demand, "AGAIN", 0.0)
        assert (await embed(models, "tiny")).shape == (1, 64)

    run(work())
    assert models.close()


def test_what_has_never_room_is_one_line(offered: Callable[..., Models]) -> None:
    models = offered(max_memory=1_000_000)
    with pytest.raises(Refusal, match=r"needs 0.0\d GB of --max-memory 0.00 GB") as refused:
        run(embed(models, "tiny"))
    assert (refused.value.kind, refused.value.headers) == (Kind.NOT_LOADED, {"retry-after": "10"})


def test_no_client_fills_the_line_for_a_model(folder: Path, offered: Callable[..., Models]) -> None:
    models = offered(max_memory=room(folder), max_queue=2)

    async def work() -> None:
        with models.asking() as asking:
            await asking.find(NAMES[0], "embed")
            waiting = [asyncio.create_task(embed(models, "tiny")) for _ in range(2)]
            await asyncio.sleep(0.1)
            with pytest.raises(Refusal, match="try again in 5 s") as refused:
                await embed(models, "tiny")
            assert refused.value.kind is Kind.OVERLOADED
            CLIENT.set("another")
            waiting.append(asyncio.create_task(embed(models, "tiny")))
            await asyncio.sleep(0.1)
            waiting[0].cancel()
            await asyncio.sleep(0)
        for task in waiting[1:]:
            assert (await task).shape == (1, 64)

    run(work())


def test_the_end_refuses_those_that_wait(folder: Path, offered: Callable[..., Models]) -> None:
    models = offered(max_memory=room(folder))

    async def work() -> None:
        with models.asking() as asking:
            await asking.find(NAMES[0], "embed")
            waiting = asyncio.create_task(embed(models, "tiny"))
            await asyncio.sleep(0.1)
            models.refuse()
            with pytest.raises(Refusal) as refused:
                await waiting
            assert (refused.value.kind, models.unanswered) == (Kind.STOPPING, 1)

    run(work())


def test_a_model_on_demand_is_reloaded_from_its_folder(offered: Callable[..., Models]) -> None:
    models = offered()

    async def work() -> None:
        before = await embed(models, "tiny")
        old = models.loaded[NAMES[2]]
        assert (await models.reload("tiny")).name == NAMES[2]
        assert models.loaded[NAMES[2]] is not old
        assert np.array_equal(await embed(models, "tiny"), before)

    run(work())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "nothing to serve"),
        (("--models", "{folder}/notes"), "notes: no folder in it is an artifact"),
        (("--models", "{folder}/none"), "none: there is no such folder"),
        (("--models", "{folder}/tiny-onnx-32bit"), "tiny-onnx-32bit: an artifact itself; give it without --models"),
        (("{folder}/tiny-onnx-32bit", "{folder}/tiny-onnx-32bit"), "is given twice; give one of them as NAME=ARTIFACT"),
        (("{folder}/tiny-onnx-32bit", "--max-memory", "1kB"), "--max-memory is 0.00 GB, but the models that are given take 0."),
        (("{folder}/tiny-onnx-32bit", "--keep-alive", "10m"), "--keep-alive is for models of --models, which is not given"),
        (("--models", "{folder}", "--served-model-name", ""), "--served-model-name '': a NAME is of letters a-z"),
        (("--models", "{folder}", "--served-model-name", "my model"), "--served-model-name 'my model': a NAME is of"),
        (("--models", "{folder}", "--alias", "ä=tiny"), "--alias 'ä=tiny': not NAME=VALUE; a NAME is of letters a-z"),
        (
            ("--models", "{folder}", "--max-memory", "6 apples"),
            "--max-memory '6 apples': not a number with one of the units b, kb",
        ),
        (("--models", "{folder}", "--keep-alive", "-1"), "--keep-alive '-1': not a number"),
        (("--models", "{folder}", "--alias", "a=b"), "--alias a=b: no model 'b' is given; there is bge-m3-onnx-32bit"),
        (("--models", "{folder}", "--alias", "a"), "--alias 'a': not NAME=VALUE"),
        (("--models", "{folder}", "--alias", "a=tiny", "--alias", "a=bge-m3"), "the name a is given twice"),
        (("--models", "{folder}", "--served-model-name", "a"), "is for one model of a kind; give NAME=ARTIFACT"),
        (("--models", "{folder}", "--default-task", "tiny=qurey"), "task 'qurey' unknown"),
        (("--models", "{folder}", "--default-task", "bge-reranker-v2-m3=retrieval.query"), "no embedding model"),
    ],
)
def test_what_the_command_line_cannot_mean(folder: Path, arguments: tuple[str, ...], message: str) -> None:
    done = commands.run("shim", "serve", "--port", 0, *(each.format(folder=folder) for each in arguments), check=2)
    assert message in done.stderr.splitlines()[-1]


def test_what_is_given_on_the_line_wins_over_the_folder(tmp_path: Path, folder: Path) -> None:
    for name in ("copy", "one"):
        shutil.copytree(folder / NAMES[2], tmp_path / name)
    (tmp_path / "link").symlink_to(folder / NAMES[0])
    with pytest.warns(UserWarning, match="left out: .*one: holds tiny-onnx-32bit, as .*copy does"):
        found = artifacts_in(tmp_path, describe, [str(folder / NAMES[0])])
    assert [path.name for path, _ in found] == ["copy"]
    (tmp_path / "one" / "artifact.json").unlink()
    assert artifacts_in(tmp_path, describe, [str(tmp_path / "copy"), str(tmp_path / "link")]) == []


def test_names_are_listed_and_answer(folder: Path) -> None:
    models = Models(Settings(served_name="all"), Metrics())
    for name in NAMES[:2]:
        models.offer(partial(shim.load, str(folder / name)), describe(folder / name))
    models.name()
    assert models.names.find("all", "embed")[0].name == NAMES[0]
    assert models.names.find("all", "rerank")[0].name == NAMES[1]

    async def listed() -> list[str]:
        transport = httpx.ASGITransport(create_app(models, Metrics()))
        async with httpx.AsyncClient(transport=transport, base_url="http://here") as client:
            return [model["id"] for model in (await client.get("/v1/models")).json()["data"]]

    assert sorted(run(listed())) == sorted([*NAMES[:2], "all"]), "no id twice"
    assert '"model":"mine"' in welcome({"mine": describe(folder / NAMES[0])}, "http://here", Settings())
    assert json.dumps([one.info() for one in models.listed.values()])
    assert models.close()
