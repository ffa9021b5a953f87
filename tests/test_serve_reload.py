"""A model that is replaced while it serves: only by what is whole, and no request is lost."""

import asyncio
import gc
import shutil
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import httpx
from support.published import edit
from support.servers import Server

import shim
from shim.serve.metrics import Metrics
from shim.serve.models import Models
from shim.serve.options import Options
from shim.serve.settings import Settings

KEY = {"authorization": "Bearer admin"}


def test_reload_takes_only_what_is_whole(start: Callable[..., Server], tiny_artifact: Path, tmp_path: Path) -> None:
    path = Path(shutil.copytree(tiny_artifact, tmp_path / "artifact"))
    server = start(artifact=path)

    def reload(**options: Any) -> httpx.Response:
        return httpx.post(f"{server.url}/admin/reload", json={"model": "tiny"}, timeout=60, **options)

    before = server.embed("text").json()
    assert reload().status_code == 401
    assert reload(headers={"authorization": "Bearer wrong"}).status_code == 401
    tokenizer = path / "tokenizer.json"
    tokenizer.rename(tmp_path / "kept")
    answer = reload(headers=KEY)
    assert answer.status_code == 409
    assert "tokenizer.json is missing" in answer.json()["error"]["message"]
    assert server.embed("text").json() == before
    (tmp_path / "kept").rename(tokenizer)
    manifest = (path / "artifact.json").read_text()
    edit(path, lambda changed: changed["model"].update(dimensions=65))
    assert "65" in reload(headers=KEY).json()["error"]["message"]
    assert server.embed("text").json() == before
    (path / "artifact.json").write_text(manifest)
    server.fault.write_text("rot")
    assert server.embed("text").status_code == 500
    assert server.ready() == 503
    server.fault.write_text("")
    assert reload(headers=KEY).json()["model"] == "tiny-onnx-32bit"
    assert server.ready() == 200
    assert server.embed("text").json() == before


def test_requests_go_on_during_a_reload(start: Callable[..., Server]) -> None:
    server = start()
    with ThreadPoolExecutor(4) as pool:
        answers = [pool.submit(server.embed, f"text {number}") for number in range(200)]
        for _ in range(3):
            assert httpx.post(f"{server.url}/admin/reload", json={"model": "tiny"}, headers=KEY, timeout=60).status_code == 200
        assert {answer.result().status_code for answer in answers} == {200}


def test_a_request_in_parts_is_answered_by_the_model_that_began_it(start: Callable[..., Server]) -> None:
    server = start("--batch-tokens", 128)
    server.fault.write_text("slow 0.05")
    with ThreadPoolExecutor(1) as pool:
        long = pool.submit(server.embed, ["many words are in this text"] * 800)
        server.until(lambda: server.figure("queue_texts") > 100)
        assert httpx.post(f"{server.url}/admin/reload", json={"model": "tiny"}, headers=KEY, timeout=60).status_code == 200
        assert long.result().status_code == 200
    assert server.figure("model_ready") == server.ready() / 200 == 1


def test_a_replaced_model_that_cannot_answer_in_time_refuses(start: Callable[..., Server]) -> None:
    server = start("--drain-timeout", 1, "--batch-tokens", 16)
    server.fault.write_text("slow 0.5")
    with ThreadPoolExecutor(1) as pool:
        long = pool.submit(server.embed, ["many words are in this text"] * 60)
        server.until(lambda: server.figure("queue_texts") > 10)
        assert httpx.post(f"{server.url}/admin/reload", json={"model": "tiny"}, headers=KEY, timeout=60).status_code == 200
        assert (long.result().status_code, long.result().headers["retry-after"]) == (503, "5")
    assert server.embed("text").status_code == 200


def test_a_replaced_model_is_gone_without_a_collection(tiny_artifact: Path) -> None:
    """The server freezes what is there at its start: a cycle with the model in it would stay for ever."""
    models = Models(Settings(), Metrics())
    models.add(partial(shim.load, tiny_artifact))
    (name,) = models.loaded
    old = weakref.ref(models.loaded[name].model)

    async def replace() -> None:
        await models.loaded[name].embed(["short", "long " * 200], Options())
        assert old() is not None
        await models.reload(name)

    gc.disable()
    try:
        asyncio.run(replace())
        assert old() is None
    finally:
        gc.enable()
        models.close()
