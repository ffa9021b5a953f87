"""Other people's clients, and schemathesis over the OpenAPI, against a running server; scripts/clients installs them."""

import json
import os
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import ROOT, made
from support.clients_check import DOCUMENTS, QUERY, TEXTS

import shim

EMBEDDER, RERANKER = "bge-m3", "bge-reranker-v2-m3"
EMBEDDERS = ("openai", "openai_token_ids", "litellm_openai", "langchain", "llama_index_tei", "cohere_embed", "huggingface_hub",
             "haystack_tei", "ollama", "open_webui_openai", "open_webui_ollama", "ragflow_tei", "ragflow_ollama")  # fmt: skip
RERANKERS = ("cohere_v1", "cohere_v2", "litellm_hosted_vllm", "litellm_infinity", "litellm_cohere", "litellm_huggingface",
             "llama_index_jina", "rerankers_jina", "rerankers_cohere", "rerankers_tei", "open_webui_rerank",
             "ragflow_xinference", "ragflow_huggingface")  # fmt: skip
CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance,unsupported_method"
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def python() -> str:
    done = subprocess.run([ROOT / "scripts/clients"], capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.fixture(scope="module")
def address(serve: Callable[..., str]) -> str:
    return serve(*(made(name, "onnx", 32)[0] for name in (EMBEDDER, RERANKER)))


@pytest.fixture(scope="module")
def answers(python: str, address: str) -> dict[str, dict[str, Any]]:
    """What each client got: all in one process, as their libraries take seconds to import."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    clients = ",".join(EMBEDDERS + RERANKERS)
    command = [python, str(ROOT / "tests/support/clients_check.py"), clients, address, EMBEDDER, RERANKER]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=400)
    assert done.returncode == 0, done.stderr[-2000:]
    found = [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"client"')]
    return {each["client"]: each for each in found}


@pytest.mark.parametrize("client", EMBEDDERS)
def test_embedding_clients_get_the_librarys_vectors(answers: dict[str, dict[str, Any]], client: str) -> None:
    assert "error" not in answers[client], answers[client]["error"]
    wanted = shim.load(made(EMBEDDER, "onnx", 32)[0]).embed(TEXTS).dense
    assert np.abs(np.array(answers[client]["vectors"]) - wanted).max() < 1e-5


@pytest.mark.parametrize("client", RERANKERS)
def test_reranking_clients_get_the_librarys_order(answers: dict[str, dict[str, Any]], client: str) -> None:
    found = answers[client]
    assert "error" not in found, found["error"]
    wanted = shim.load(made(RERANKER, "onnx", 32)[0]).rerank(QUERY, DOCUMENTS)
    assert found["order"] == [item.index for item in wanted]
    assert np.abs(np.array(found["scores"]) - [item.score for item in wanted]).max() < 1e-5


def test_the_examples_run_in_their_libraries(python: str, minilm_artifacts: Mapping[str, Path]) -> None:
    embedder, reranker = minilm_artifacts["onnx-32"], made(RERANKER, "onnx", 32)[0]
    shown = {}
    for name, artifacts in (("langchain_embeddings", [embedder]), ("llama_index_embeddings", [embedder, reranker])):
        command = [python, ROOT / f"scripts/examples/{name}.py", *artifacts]
        done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)}, timeout=200)
        assert done.returncode == 0, done.stderr[-2000:]
        shown[name] = done.stdout.splitlines()
    documents = ["I forgot my login code.", "The soup needs more salt."]  # as near to the question
    ranked = shim.load(reranker).rerank("How do I reset my password?", documents)
    assert shown["langchain_embeddings"] == documents[:1]
    assert shown["llama_index_embeddings"] == [documents[0], *(f"{one.score:.4f} {documents[one.index]}" for one in ranked)]


def test_schemathesis_finds_no_5xx_and_nothing_undocumented(python: str, address: str, tmp_path: Path) -> None:
    limits = ["--max-examples", os.environ.get("EXAMPLES", "20"), "--phases", "examples,coverage,fuzzing", "--seed", "1"]
    command = [python, "-m", "schemathesis.cli", "run", f"{address}/openapi.json", "--checks", CHECKS, *limits]
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
