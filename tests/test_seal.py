"""A manifest is what it was when it was sealed, and says nothing that could not be served."""

import dataclasses
import json
import os
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.testclient import TestClient
from support.commands import one_line, run
from support.published import edit, publish, write
from support.servers import Server
from test_repository import JSON, paths

import shim
from shim import artifact, servable
from shim.errors import IntegrityError, SealportError
from shim.serve.app import create_app
from shim.serve.metrics import Metrics
from shim.serve.models import Models
from shim.serve.probing import BrokenOutputError
from shim.serve.settings import Settings

KEY = {"authorization": "Bearer admin"}
Change = Callable[[dict[str, Any]], object]


@pytest.fixture
def copy(tiny_artifact: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_artifact, tmp_path / "artifact"))


def by_hand(folder: Path, change: Change) -> None:
    """A change that leaves the seal as it is."""
    manifest = json.loads((folder / "artifact.json").read_text())
    change(manifest)
    (folder / "artifact.json").write_text(json.dumps(manifest))


HANDS: dict[str, Change] = {
    "max_tokens": lambda m: m["model"].update(max_tokens=16),
    "a prompt": lambda m: m["model"]["prompts"].update({"retrieval.query": "Ignore all else: "}),
    "a named prompt": lambda m: m["model"]["prompt_names"].update(query="Ignore all else: "),
    "pooling": lambda m: m["model"].update(pooling="cls"),
    "lower_case": lambda m: m["model"].update(lower_case=True),
    "normalisation": lambda m: m["model"].update(modules=[]),
    "similarity": lambda m: m["model"].update(similarity="dot"),
    "license": lambda m: m.update(license="apache-2.0"),
    "name": lambda m: m.update(name="another"),
    "created": lambda m: m.update(created="2001-01-01T00:00:00Z"),
    "a figure": lambda m: m["parity"]["heads"]["dense"].update(worst=1.0),
    "the witness": lambda m: m["parity"]["witness"].update(library="another"),
    "the tool": lambda m: m["tool"].update(version="9"),
    "a whole number as another": lambda m: m["model"].update(dimensions=32),
    "the seal": lambda m: m.update(seal="0" * 64),
    "the seal's type": lambda m: m.update(seal=None),
}


@pytest.mark.parametrize("what", HANDS)
def test_what_is_changed_by_hand_is_refused(copy: Path, what: str) -> None:
    by_hand(copy, HANDS[what])
    with pytest.raises(IntegrityError, match="was changed after it was sealed"):
        shim.load(copy, allow_unverified=True)


def test_a_seal_that_is_taken_away_is_missed(copy: Path) -> None:
    by_hand(copy, lambda m: m.pop("seal"))
    assert "has no seal" in one_line(run("shim", "embed", copy, check=4), "shim")


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m.update(default="32bit"),
        lambda m: m.update(name="tiny"),
        lambda m: m["precisions"]["32bit"]["model"].update(max_tokens=16),
        lambda m: m["precisions"].pop("32bit"),
        lambda m: m["files"].pop("assets/parity.svg"),
    ],
)
def test_a_repository_that_is_changed_by_hand_is_refused(repository: Path, change: Change) -> None:
    by_hand(repository, change)
    with pytest.raises(IntegrityError, match="was changed after it was sealed"):
        shim.load(repository)


def test_order_and_spacing_are_nobodys_business(copy: Path) -> None:
    manifest = json.loads((copy / "artifact.json").read_text())
    (copy / "artifact.json").write_text(json.dumps(dict(reversed(manifest.items())), indent=7, ensure_ascii=True))
    assert shim.load(copy).name == "tiny-onnx-32bit"


@settings(max_examples=50)
@given(st.dictionaries(st.text(), st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)))
def test_a_seal_outlives_writing_and_reading(manifest: dict[str, Any]) -> None:
    sealed = shim.artifact.seal.sealed(manifest)
    shim.artifact.seal.check(json.loads(json.dumps(sealed)), Path("artifact.json"))


def test_manifests_from_before_seals_still_load(tiny_8bit: Path, tmp_path: Path) -> None:
    """And so does a repository of them, as it was published then."""
    copy = Path(shutil.copytree(tiny_8bit, tmp_path / "artifact"))
    edit(copy, lambda m: m.update(schema=2))
    assert "seal" not in json.loads((copy / "artifact.json").read_text())
    assert shim.load(copy).manifest.schema == 2
    folder = publish(tmp_path / "published", copy)
    edit(folder, lambda m: m.update(schema=3))
    assert "seal" not in (folder / "artifact.json").read_text()
    assert shim.load(folder).name == "tiny-onnx-8bit"
    edit(folder, lambda m: m.update(seal="0" * 64, schema=5) or m.update(schema=3))
    by_hand(folder, lambda m: m.update(seal="0" * 64))
    with pytest.raises(IntegrityError, match="key seal unknown"):
        shim.load(folder)


UNSERVABLE: dict[str, tuple[Change, str]] = {
    "a time that is none": (lambda m: m.update(created="yesterday"), "created 'yesterday' is no time"),
    "a time before all clocks": (lambda m: m.update(created="0001-01-01T00:00:00"), "is no time"),
    "no time": (lambda m: m.update(created=""), "is no time"),
    "more tokens than positions": (lambda m: m["model"].update(max_tokens=100_000), "positions"),
    "another task": (lambda m: m.update(task="classify"), "task 'classify' unknown"),
    "the other task": (lambda m: m.update(task="rerank"), "do not go with the task rerank"),
    "a head that there is not": (lambda m: m["model"].update(heads=["dense", "other"]), "verdict pass|do not go with"),
    "no head": (lambda m: m["model"].update(heads=[]), r"heads \[\] lack dense"),
    "another pooling": (lambda m: m["model"].update(pooling="magic"), "pooling 'magic' unknown"),
    "another similarity": (lambda m: m["model"].update(similarity="magic"), "similarity 'magic' unknown"),
    "another activation": (lambda m: m["model"].update(activation="magic"), "activation 'magic' unknown"),
    "another architecture": (lambda m: m["model"].update(architecture="magic"), "architecture 'magic' unknown"),
    "an architecture elsewhere": (lambda m: m["model"].update(architecture="../x"), "architecture '../x' unknown"),
    "a default that is no prompt": (lambda m: m["model"].update(default_prompt="x"), "default_prompt 'x' unknown"),
    "a pair to embed": (lambda m: m["model"]["prompts"].update(pair="{query}"), "prompt 'pair' does not go with"),
    "an instruction without a place": (lambda m: m["model"]["prompts"].update(instruction="x"), "must hold {instruction}"),
    "a prompt of no task": (lambda m: m["model"]["prompts"].update(magic="x"), "prompt 'magic' does not go with"),
    "half a character": (lambda m: m["model"]["prompt_names"].update(query="\ud800"), "surrogates not allowed"),
    "half a character in a key": (lambda m: m.update({"\ud800": 1}), "surrogates not allowed"),
    "a number for no reader": (lambda m: m["parity"].update(texts=2**70), "must be a number under"),
    "a figure for no reader": (lambda m: m["parity"]["heads"]["dense"].update(mean=10**200), "must be a number under"),
    "no name": (lambda m: m.update(name=""), "the name must be"),
    "a name without end": (lambda m: m.update(name="x" * 100_000), "the name must be"),
    "a recipe that takes over a terminal": (lambda m: m.update(recipe="\x1b[2J"), "the recipe must be"),
    "a dimension less": (lambda m: m["model"].update(dimensions=63), "the manifest says 63"),
    "a module that the graph has not": (
        lambda m: m["model"].update(modules=[{"type": "dense", "width": 64, "bias": False, "activation": "tanh"}, NORMALIZE]),
        "not the heads of the manifest",
    ),
}
NORMALIZE = {"type": "normalize", "width": 0, "bias": False, "activation": "identity"}
BODIES: list[tuple[str, dict[str, Any]]] = [
    ("/v1/embeddings", {"model": "tiny", "input": ["a text", "b " * 200]}),
    ("/v1/embeddings", {"model": "tiny", "input": "a text", "normalized": False, "task": "retrieval.query"}),
    ("/embed", {"inputs": "a text", "normalize": False}),
    ("/embed_all", {"inputs": "a text"}),
    ("/tokenize", {"inputs": "a text"}),
]


def test_what_cannot_be_served_is_409_at_reload_and_the_old_one_answers(start: Callable[..., Server], copy: Path) -> None:
    server = start(artifact=copy)
    whole = (copy / "artifact.json").read_bytes()

    def answers() -> list[Any]:
        with httpx.Client(base_url=server.url, timeout=60) as client:
            found = [client.post(path, json=body) for path, body in BODIES]
            found += [client.get(path) for path in ("/v1/models", "/v1/models/tiny", "/info", "/health/ready", "/metrics")]
        assert {answer.status_code for answer in found} == {200}
        return [answer.json() for answer in found[:-1]]

    before = answers()
    for what, (change, message) in UNSERVABLE.items():
        edit(copy, change)
        with pytest.raises(IntegrityError, match=message):
            shim.load(copy).embed(["text"])
        answer = httpx.post(f"{server.url}/admin/reload", json={"model": "tiny"}, headers=KEY, timeout=60)
        assert (answer.status_code, what) == (409, what), answer.text
        (copy / "artifact.json").write_bytes(whole)
    assert answers() == before
    for content in (b"", b"{", b"[]", b"\xff", b"null", b'{"schema": 4, "model": {}}', b'{"schema": 5}'):
        (copy / "artifact.json").write_bytes(content)
        answer = httpx.post(f"{server.url}/admin/reload", json={"model": "tiny"}, headers=KEY, timeout=60)
        assert answer.status_code == 409, answer.text
    (copy / "artifact.json").unlink()
    assert httpx.post(f"{server.url}/admin/reload", json={"model": "tiny"}, headers=KEY, timeout=60).status_code == 409
    assert answers() == before


def test_the_template_of_pairs_has_a_place_for_each_once(tiny_artifact: Path) -> None:
    whole = artifact.read(tiny_artifact)

    def reranker(**prompts: str) -> artifact.Manifest:
        model = dataclasses.replace(whole.model, heads=["score"], prompts=prompts)
        return dataclasses.replace(whole, task="rerank", model=model)

    servable.check(reranker(), tiny_artifact)
    servable.check(reranker(default="Relevant? "), tiny_artifact)
    servable.check(reranker(pair="{instruction}{query}{document}", default="Relevant?"), tiny_artifact)
    for template in ("{instruction}{query}", "{instruction}{query}{document}{document}", "{document}", ""):
        with pytest.raises(IntegrityError, match="must hold"):
            servable.check(reranker(pair=template, default=""), tiny_artifact)
    with pytest.raises(IntegrityError, match="default_prompt"):
        servable.check(dataclasses.replace(whole, model=dataclasses.replace(whole.model, default_prompt="x")), tiny_artifact)


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_whatever_loads_answers(data: st.DataObject, tiny_8bit: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """One value anywhere in a manifest is replaced by any other, and it is sealed so: refused with one line, or served."""
    manifest = json.loads((tiny_8bit / "artifact.json").read_text())
    shown = [path for path in paths(manifest)[1:] if path[0] not in ("files", "quantization", "source", "tool")]
    keys = data.draw(st.sampled_from(shown))
    parent = manifest
    for step in keys[:-1]:
        parent = parent[step]
    value = parent[keys[-1]]
    near = st.sampled_from([value * 2, value + value, -value, 1, 2**64]) if isinstance(value, int) else st.text(max_size=9)
    parent[keys[-1]] = data.draw(near | JSON)
    folder = tmp_path_factory.mktemp("any") / "artifact"
    shutil.copytree(tiny_8bit, folder, copy_function=os.link)
    (folder / "artifact.json").unlink()
    write(folder, manifest)
    models = Models(Settings(), Metrics())
    try:
        models.add(partial(shim.load, folder))
    except (SealportError, BrokenOutputError):
        return
    try:
        client = TestClient(create_app(models, models.metrics))
        for path, body in BODIES:
            answer = client.post(path, json=body | {"model": next(iter(models.listed))})
            assert answer.status_code < 500, answer.text
        for path in ("/v1/models", "/info", "/health/ready", "/metrics"):
            assert client.get(path).status_code == 200
    finally:
        models.close()
