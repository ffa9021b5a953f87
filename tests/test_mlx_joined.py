"""Layers of one input are one product in the MLX runtime, and give what they gave by themselves."""

from functools import partial
from pathlib import Path

import numpy as np
import pytest
from support.checkpoints import write_bert, write_recipe

import shim
from converter import pipeline, recipe
from shim.artifact import Manifest
from shim.runtimes import mlx_steps
from shim.runtimes.mlx import open_runtime
from shim.serve.metrics import Metrics
from shim.serve.queue import Request
from shim.serve.scheduler import ModelThread
from shim.text import TextEncoder, Tokens

TEXTS = ["one", "a rather longer text about rivers and their mouths"]
LAYER = "encoder.layer.0.attention.self"
PARTS = [f"{LAYER}.{part}" for part in ("query", "key", "value")]


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Manifest, Tokens]:
    folder = tmp_path_factory.mktemp("joined")
    loaded = recipe.load(str(write_recipe(folder / "tiny.toml")))
    source = write_bert(folder / "checkpoint")
    request = pipeline.Request(loaded, "mlx", 8, str(source), folder / "out", effort="fast", verified=False)
    path, manifest = pipeline.convert(request, lambda *_: None)
    encoder = TextEncoder(path, manifest.model.max_tokens)
    return path, manifest, encoder.batch(encoder.encode(TEXTS))


@pytest.mark.parametrize("kernels", ["float32", "packed"])
def test_one_product_gives_what_three_gave(artifact: tuple[Path, Manifest, Tokens], kernels: str) -> None:
    path, manifest, tokens = artifact
    found = []
    for apart in (True, False):
        runtime = open_runtime(path, manifest, "cpu", kernels)
        weights = {name for part in PARTS for name in runtime.weights if name.startswith(f"{part}.")}
        if apart:
            runtime._joints |= {tuple(name.replace(".0.", f".{layer}.") for name in PARTS): (None, []) for layer in (0, 1)}
        found.append([runtime.run(tokens, ("token_embeddings",))["token_embeddings"] for _ in range(2)])
        assert (weights <= runtime.weights.keys()) == apart, "they are in memory once"
        assert (f"{'+'.join(PARTS)}.weight" in runtime.weights) != apart
    assert np.abs(np.array(found) - found[0][0]).max() < 2e-5


def test_a_run_in_steps_gives_what_it_gave_whatever_runs_in_between(
    artifact: tuple[Path, Manifest, Tokens], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, manifest, tokens = artifact
    runtime = open_runtime(path, manifest, "cpu")
    few = Tokens(*(array[:1, :3] for array in (tokens.input_ids, tokens.attention_mask, tokens.token_type_ids)))
    expected, short = (runtime.run(given, ("token_embeddings",))["token_embeddings"] for given in (tokens, few))
    monkeypatch.setattr(mlx_steps, "CPU", 1)
    monkeypatch.setattr(mlx_steps, "VALUES", 1)
    monkeypatch.setattr(mlx_steps, "ROWS", 2)
    between: list[np.ndarray] = []

    def pause() -> None:
        runtime.pause, before = None, runtime.pause
        between.append(runtime.run(few, ("token_embeddings",))["token_embeddings"])
        runtime.pause = before

    runtime.pause = pause
    found = runtime.run(tokens, ("token_embeddings",))["token_embeddings"]
    assert len(between) > 20
    assert np.abs(np.array(between) - short).max() == 0
    assert np.abs(found - expected).max() < 1e-5


def test_a_server_computes_anothers_short_text_in_a_pause_of_a_long_one(
    artifact: tuple[Path, Manifest, Tokens], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mlx_steps, "CPU", 1)
    thread = ModelThread(partial(shim.load, artifact[0], allow_unverified=True), Metrics(), 4096, 64)
    done: list[str] = []
    with thread._condition:
        for client, text in (("one", "word " * 200), ("another", "short")):
            request = Request(("dense",), 1, lambda _, client=client: done.append(client), client=client)
            thread.open(request)
            thread.put(request, 0, thread.model.encoder.encode([text]))
    assert thread.close()
    assert done == ["another", "one"]


def test_layers_that_are_stored_otherwise_stay_apart(artifact: tuple[Path, Manifest, Tokens]) -> None:
    path, manifest, tokens = artifact
    runtime = open_runtime(path, manifest, "cpu", "packed")
    expected = runtime.run(tokens, ("sentence_embedding",))["sentence_embedding"]
    runtime = open_runtime(path, manifest, "cpu", "packed")
    whole = runtime._dense(PARTS[1])  # of the three only the key is in full precision
    for part in ("scales", "biases"):
        del runtime.weights[f"{PARTS[1]}.{part}"]
    runtime.weights[f"{PARTS[1]}.weight"] = whole
    del runtime.quantization[PARTS[1]]
    found = runtime.run(tokens, ("sentence_embedding",))["sentence_embedding"]
    assert set(PARTS) <= {name.rpartition(".")[0] for name in runtime.weights}
    assert np.abs(found - expected).max() < 2e-5
