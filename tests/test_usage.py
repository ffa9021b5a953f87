"""The code on a card runs, and is of those libraries only that scripts/interop has seen load the like."""

import dataclasses
import json
import runpy
import shlex
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import ROOT, made

import shim
from converter import recipe
from converter.card import usage
from converter.card.usage import LOADERS, QUERY, UNWRITTEN, Subject
from shim import artifact

INTEROP = runpy.run_path(str(ROOT / "scripts/interop"))


def local(path: Path) -> Subject:
    return Subject(path.name, "", artifact.read(path))


def run(code: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The names that Python code leaves, run in a folder."""
    monkeypatch.chdir(folder)
    names: dict[str, Any] = {}
    exec(compile(code, "<card>", "exec"), names)
    return names


def test_the_libraries_are_those_that_interop_has_seen() -> None:
    seen: dict[str, set[tuple[str, str, str]]] = {}
    for name, target, _, loader, _ in INTEROP["CASES"]:
        known = recipe.load(name)
        seen.setdefault(loader, set()).add((target, known.task, known.architecture))
    ours = {each.name: {(each.target, each.task, kind) for kind in each.architectures} for each in LOADERS}
    assert {name: kinds for name, kinds in ours.items() if kinds} == {
        name: kinds for name, kinds in seen.items() if name not in UNWRITTEN
    }
    assert set(UNWRITTEN) <= seen.keys() - ours.keys()


def test_a_library_is_offered_for_what_it_was_seen_to_load_only(tiny_artifact: Path) -> None:
    def offered(precision: str = "", target: str = "onnx", task: str = "embed", **model: Any) -> list[str]:
        manifest = artifact.read(tiny_artifact)
        spec = dataclasses.replace(manifest.model, **model)
        subject = Subject("a/b", precision, dataclasses.replace(manifest, target=target, task=task, model=spec))
        return [loader.name for loader in usage.loaders(subject)]

    assert offered() == ["sentence-transformers"]
    assert offered("8bit") == ["sentence-transformers", "transformers.js", "fastembed"]
    assert offered("8bit", modules=[]) == ["sentence-transformers"]
    assert offered(architecture="nomic_bert") == []
    assert offered(architecture="xlm_roberta", task="rerank") == ["optimum, scores"]
    assert offered(target="mlx") == ["mlx-embeddings"]
    assert offered(target="mlx", pooling="max") == []
    assert offered(target="mlx", modules=[]) == []
    assert offered(target="mlx", architecture="qwen3", pooling="last") == ["mlx-embeddings", "mlx-lm"]


@pytest.mark.parametrize("prompted", [False, True])
def test_our_own_code_runs_as_it_stands(
    prompted: bool, tiny_artifact: Path, serve: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = made("multilingual-e5-large", "onnx", 8)[0] if prompted else tiny_artifact
    (language, code), (shell, server) = usage.own(local(path))
    assert (language, shell) == ("python", "bash")
    model = run(code, path.parent, monkeypatch)["model"]
    wanted = model.embed([QUERY], task="retrieval.query").dense[0]
    started, asked = server.replace(" \\\n", "").split("&\n")
    assert shlex.split(started) == ["shim", "serve", path.name, "--port", "8080"]
    asked = asked.replace("http://127.0.0.1:8080", serve(path))
    done = subprocess.run(asked, shell=True, capture_output=True, text=True, check=True)
    np.testing.assert_allclose(json.loads(done.stdout)["data"][0]["embedding"], wanted, atol=1e-5)


def test_a_rerankers_code_runs_too(serve: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    path, _ = made("bge-reranker-v2-m3", "onnx", 8)
    (_, code), (_, server) = usage.own(local(path))
    run(code, path.parent, monkeypatch)
    asked = server.split("&\n")[1].replace("http://127.0.0.1:8080", serve(path))
    done = subprocess.run(asked, shell=True, capture_output=True, text=True, check=True)
    assert len(json.loads(done.stdout)["results"]) == 1


def test_mlx_lms_code_gives_our_vector(monkeypatch: pytest.MonkeyPatch) -> None:
    path, _ = made("qwen3-embedding-0.6b", "mlx", 8)
    loader = next(loader for loader in LOADERS if loader.name == "mlx-lm")
    _, code = loader.write(local(path))
    assert "Instruct: Given a web search query" in code
    vector = np.array(run(code, path.parent, monkeypatch)["vector"].tolist())[0]
    with pytest.warns(UserWarning, match="on a CPU"):
        ours = shim.load(path).embed([QUERY], task="retrieval.query").dense[0]
    assert vector @ ours > 0.9999


@pytest.mark.parametrize("loader", LOADERS, ids=lambda loader: loader.name)
def test_the_code_names_the_repository_and_its_files(loader: usage.Loader, tiny_artifact: Path) -> None:
    manifest = artifact.read(tiny_artifact)
    files = {name.replace("model.onnx", "model_quantized.onnx"): entry for name, entry in manifest.files.items()}
    files |= {"onnx/model_quantized.onnx_data": files["onnx/model_quantized.onnx"]}
    prompted = dataclasses.replace(manifest.model, prompts={"retrieval.query": 'it\'s "so":\n'})
    language, code = loader.write(Subject("my-org/mine", "8bit", dataclasses.replace(manifest, files=files, model=prompted)))
    assert "my-org/mine" in code
    if language == "python":
        compile(code, "<card>", "exec")
    if language == "bash":
        assert json.loads(shlex.split(code)[-1])["inputs"] == [f'it\'s "so":\n{QUERY}']
    if manifest.task == "embed" and loader.task == "embed":
        assert json.dumps(f'it\'s "so":\n{QUERY}').replace("'", "'\"'\"'" if language == "bash" else "'") in code
    if loader.target == "onnx" and loader.name not in ("transformers.js", "text-embeddings-inference"):
        assert "model_quantized.onnx" in code
    assert ("model_quantized.onnx_data" in code) == (loader.name == "fastembed")
    assert ('dtype: "q8"' in code) == (loader.name == "transformers.js")
