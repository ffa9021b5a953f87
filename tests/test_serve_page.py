"""The pages of a running server with keys, in headless Chromium: what they show, what they ask, and what they never run."""

import asyncio
import json
import math
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click.testing
import httpx
import numpy as np
import pytest
from conftest import ROOT, made
from support.page_check import EVIL, QUERY, TEXTS

import shim
import shim.serve.run
from shim.cli import main_group
from shim.serve.app import create_app
from shim.serve.metrics import Metrics
from shim.serve.models import Models
from shim.serve.pages import FILES
from shim.serve.settings import Settings

EMBEDDER, RERANKER, KEY = "bge-m3", "bge-reranker-v2-m3", "sesame"
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome")
PAGE_WEIGHT = 60_000  # bytes of `/` with all that it loads


@pytest.fixture(scope="module")
def address(serve: Callable[..., str]) -> str:
    embedder, reranker = (made(name, "onnx", 32)[0] for name in (EMBEDDER, RERANKER))
    return serve(f"mine={embedder}", reranker, "--alias", "other=mine", "--api-key", KEY)


@pytest.fixture(scope="module")
def python() -> str:
    return subprocess.run([ROOT / "scripts/clients"], capture_output=True, text=True, check=True).stdout.strip()


@pytest.fixture(scope="module")
def seen(address: str, python: str) -> dict[str, Any]:
    chromium = next(filter(None, map(shutil.which, BROWSERS)), None)
    if chromium is None:
        assert os.environ.get("CI") != "true", "CI needs chromium: apt-get install chromium"
        pytest.skip("chromium is not installed")
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    command = [python, ROOT / "tests/support/page_check.py", chromium, address, KEY]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=400)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def cosines() -> np.ndarray:
    vectors = shim.load(made(EMBEDDER, "onnx", 32)[0]).embed(TEXTS).dense
    return vectors @ vectors.T


@pytest.mark.slow
def test_no_other_host_is_asked_and_nothing_goes_wrong(seen: dict[str, Any], address: str) -> None:
    assert {url.split("/")[2] for url in seen["requests"]} == {address.split("/")[2]}
    expected = "This document requires 'TrustedHTML' assignment"  # our own attempt to set HTML
    assert [problem for problem in seen["problems"] if expected not in problem and "400" not in problem] == []


@pytest.mark.slow
def test_models_are_shown_to_who_has_the_key(seen: dict[str, Any], address: str) -> None:
    assert seen["desk"]["before"] == 0
    assert seen["desk"]["wrong"] == "the key is wrong"
    listed = httpx.get(f"{address}/v1/models", headers={"authorization": f"Bearer {KEY}"}).json()["data"]
    models = [model for model in listed if model["id"] != "other"]
    assert len(seen["desk"]["cards"]) == len(models) == 2, "an alias is no further model"
    for model, card in zip(models, seen["desk"]["cards"], strict=True):
        worst = f"{math.floor(1e5 * min(model['parity'].values())) / 1e5:.5f}"  # never rounded to 1
        assert all(part in card for part in (model["id"], "✓ pass", worst, f"worst cosine of {model['texts']}"))
        assert ("Memory" in card) == bool(model.get("memory"))
    assert re.fullmatch(r"2 models, proven against their originals; \d+ MB of memory in all\.", seen["desk"]["summary"])


@pytest.mark.slow
def test_the_heat_map_holds_the_librarys_cosines(seen: dict[str, Any], cosines: np.ndarray) -> None:
    assert seen["desk"]["names"] == [f"{number}  {text}" for number, text in enumerate(TEXTS, 1)]
    heat = [[np.nan if cell == "–" else float(cell.replace("−", "-")) for cell in row] for row in seen["desk"]["heat"]]
    assert np.isnan(np.diag(heat)).all()
    assert np.nanmax(np.abs(np.array(heat) - cosines)) < 0.0051


@pytest.mark.slow
def test_documents_are_ranked_as_the_library_ranks_them(seen: dict[str, Any]) -> None:
    ranked = shim.load(made(RERANKER, "onnx", 32)[0]).rerank(QUERY, TEXTS)
    assert seen["desk"]["ranked"] == [TEXTS[one.index] for one in ranked]
    assert np.abs(np.array(list(map(float, seen["desk"]["scores"]))) - [one.score for one in ranked]).max() < 1e-4
    assert np.abs(np.array(seen["desk"]["bars"]) - [one.score for one in ranked]).max() < 0.02
    model = shim.load(made(EMBEDDER, "onnx", 32)[0])
    near = model.embed(TEXTS, task="retrieval.passage").dense @ model.embed([QUERY], task="retrieval.query").dense[0]
    assert seen["desk"]["by cosine"] == [TEXTS[row] for row in np.argsort(-near)]


@pytest.mark.slow
def test_the_code_asks_the_same(seen: dict[str, Any], python: str, cosines: np.ndarray) -> None:
    ranked = [one.index for one in shim.load(made(RERANKER, "onnx", 32)[0]).rerank(QUERY, TEXTS)]
    for section in ("#compare", "#rank"):
        shown = seen["desk"][section]
        assert KEY not in shown["curl"] + shown["Python"] + shown["JavaScript"]
        answers = [shown["answer"]]
        for command in (
            ["bash", "-c", shown["curl"]],
            [python, "-c", shown["Python"].replace("print(answer.json())", "print(answer.text)")],
        ):
            done = subprocess.run(
                command, capture_output=True, text=True, env=os.environ | {"SEALPORT_API_KEY": KEY}, timeout=60
            )
            assert done.returncode == 0, done.stderr
            answers.append(json.loads(done.stdout))
        for answer in answers:
            if section == "#rank":
                assert [one["index"] for one in answer["results"]] == ranked
            else:
                vectors = np.array([item["embedding"] for item in answer["data"]])
                assert np.abs(vectors @ vectors.T - cosines).max() < 1e-5


@pytest.mark.slow
def test_texts_come_back_as_texts(seen: dict[str, Any]) -> None:
    assert seen["desk"]["hit"] is seen["strange"]["hit"] is None
    assert EVIL in seen["desk"]["ranked"]
    assert seen["strange"]["texts"] == [EVIL, f"no {EVIL}", EVIL]
    assert seen["desk"]["html"] == "TypeError", "not even our own script may set HTML"


@pytest.mark.slow
def test_a_model_that_is_not_loaded_and_prompts_are_shown(seen: dict[str, Any]) -> None:
    assert "1.2 GB when it is loaded" in seen["strange"]["card"]
    assert "0.99912" in seen["strange"]["card"]
    assert seen["strange"]["sent"]["prompt_name"] == EVIL
    assert seen["strange"]["rank"] == 1, "without a reranker documents are ranked by an embedding model"


@pytest.mark.slow
def test_what_cannot_be_asked_is_said_in_plain_words(seen: dict[str, Any]) -> None:
    assert seen["desk"]["no query"] == "Write a query first."
    assert seen["desk"]["no documents"] == "Write a document first, one a line."
    assert seen["desk"]["no sentences"] == "Write a sentence first, one a line."
    assert seen["desk"]["odd key"] == "A key is of ASCII characters alone; this one has “ä”."


@pytest.mark.slow
def test_the_keyboard_alone_is_enough(seen: dict[str, Any]) -> None:
    compare = ["compare-model", "sentences", "Compare", "Similarities", "The same request in code", "curl", "Code", "Copy"]
    rank = ["rank-model", "query", "documents", "Rank", "The same request in code", "curl", "Code", "Copy"]
    stops = seen["keyboard"]["stops"]
    assert stops[: len(compare + rank)] == compare + rank
    again = stops[len(compare + rank) :]
    assert again[again.index("Skip to the content") :][:4] == ["Skip to the content", "API", "compare-model", "sentences"], (
        again
    )
    assert seen["keyboard"]["cells"] == 2
    assert seen["keyboard"]["code"].startswith("import os"), "an arrow key chose Python"


@pytest.mark.slow
def test_a_screen_reader_has_a_name_for_everything(seen: dict[str, Any]) -> None:
    names = """heading "Models"; combobox "Model"; textbox "Sentences, one a line"; button "Compare"; region "Similarities";
        table "Cosine of each sentence with each other"; textbox "Query"; textbox "Documents, one a line"; button "Rank" """
    for line in map(str.strip, names.split(";")):
        assert line in seen["desk"]["snapshot"]
    assert not re.search(r"- (button|textbox|combobox|region|table|link)\s*(\[|:|$)", seen["desk"]["snapshot"], re.MULTILINE)


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_is_readable_and_fits_360_pixels(seen: dict[str, Any], scheme: str) -> None:
    assert seen[scheme]["overflow"] <= 0
    assert seen[scheme]["docs overflow"] <= 0
    assert seen[scheme]["contrast"][0] >= 4.5, seen[scheme]["contrast"]
    assert seen[scheme]["docs contrast"][0] >= 4.5, seen[scheme]["docs contrast"]
    assert seen["light"]["ground"] != seen["dark"]["ground"]


@pytest.mark.slow
def test_the_docs_list_every_route(seen: dict[str, Any], address: str) -> None:
    paths = httpx.get(f"{address}/openapi.json").json()["paths"]
    assert set(seen["docs"]["routes"]) == set(paths)
    assert all(word in seen["docs"]["open"] for word in ("encoding_format", "float | base64", "429", "late_chunking"))


def asked(requests: list[tuple[str, str]], **settings: Any) -> list[httpx.Response]:
    """What a server without models answers to (method, path)."""

    async def answers() -> list[httpx.Response]:
        app = create_app(Models(Settings(**settings), Metrics()), Metrics())
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://here") as client:
            return [await client.request(*request) for request in requests]

    return asyncio.run(answers())


def test_the_pages_are_light_strict_and_need_no_key() -> None:
    answers = asked([("GET", path) for path in FILES], keys=(KEY,))
    assert {answer.status_code for answer in answers} == {200}
    assert sum(len(answer.content) for answer in answers) < PAGE_WEIGHT
    for answer in answers:
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert not re.search("unsafe|http|[*]", policy)
        assert answer.headers["x-content-type-options"] == "nosniff"
    others = [("POST", "/"), ("GET", "/page/pages.py"), ("GET", "/page"), ("POST", "/page/page.js")]
    assert [answer.status_code for answer in asked(others, keys=(KEY,))] == [401] * 4, "only GET of the pages is free"


def test_no_ui_leaves_them_out(monkeypatch: pytest.MonkeyPatch, tiny_artifact: Path) -> None:
    statuses = {path: asked([("GET", path)], pages=False)[0].status_code for path in FILES}
    assert statuses.pop("/") == 405, "POST / is a route"
    assert set(statuses.values()) == {404}
    assert asked([("GET", "/openapi.json")], pages=False)[0].status_code == 200
    given: list[Settings] = []
    monkeypatch.setattr(shim.serve.run, "serve_forever", lambda openers, host, port, settings: given.append(settings) or 0)
    for options in ([], ["--no-ui"]):
        click.testing.CliRunner().invoke(main_group, ["serve", str(tiny_artifact), *options], standalone_mode=False)
    assert [settings.pages for settings in given] == [True, False]


def test_every_file_of_the_page_is_served() -> None:
    assert {path.name for path in (ROOT / "shim/serve/page").iterdir()} == set(FILES.values())
