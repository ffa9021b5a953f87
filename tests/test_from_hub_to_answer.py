"""The mission in one test: an original on the hub is converted and published, and a server that loads it from there answers."""

import json
import re
from pathlib import Path

import httpx
import numpy as np
import pytest
from conftest import ROOT, standin
from sentence_transformers import SentenceTransformer
from support.commands import run_process
from support.hub import READ, WRITE, Hub
from support.servers import shim

REPO, TEXTS = (
    "BAAI/bge-m3",
    ["Which ferry goes to the island in winter?", "Зимой паром ходит дважды в день.", "冬天渡轮每天两班。"],
)


@pytest.mark.slow
@pytest.mark.parametrize(("target", "bits"), [("mlx", 8), ("onnx", 16)])
def test_from_an_original_on_the_hub_to_an_answer(hub: Hub, tmp_path: Path, corpus_file: Path, target: str, bits: int) -> None:
    """Each command in a process of its own, as a user types them; the server has a token that may only read."""
    commit = hub.put(REPO, standin("bge-m3"))
    recipe = (ROOT / "recipes/bge-m3.toml").read_text(encoding="utf-8")
    mine = tmp_path / "bge-m3.toml"
    mine.write_text(re.sub('revision = ".*"', f'revision = "{commit}"', recipe.replace("= 1024", "= 128")), encoding="utf-8")
    reached = hub.environment(tmp_path, WRITE)
    asked = ("--to", target, "--bits", bits, "--out", tmp_path, "--corpus", corpus_file, "--json")
    made = run_process("converter", mine, *asked, env=reached)
    manifest = json.loads(made.stdout)
    assert (manifest["source"]["repo"], manifest["source"]["revision"]) == (REPO, commit)
    published = run_process("converter", "publish", manifest["path"], "--org", "acme", "--private", "--json", env=reached)
    repository = json.loads(published.stdout)["repository"]
    server = shim(repository, env=hub.environment(tmp_path / "elsewhere", READ))
    try:
        (model,) = httpx.get(f"{server.url}/v1/models").json()["data"]
        answer = httpx.post(f"{server.url}/v1/embeddings", json={"model": model["id"], "input": TEXTS}, timeout=60).json()
    finally:
        server.end()
        server.ended()
    found = np.array([item["embedding"] for item in answer["data"]])
    wanted = SentenceTransformer(str(standin("bge-m3")), device="cpu", model_kwargs={"dtype": "float32"}).encode(TEXTS)
    assert (found * wanted).sum(axis=1).min() >= 0.999
    assert np.abs(found - wanted).max() > 1e-6, "suspiciously exact"
