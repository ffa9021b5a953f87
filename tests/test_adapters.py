"""Adapters by task: one base and a side path for each task, chosen for every text within a batch."""

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer
from support import saved
from support.saved_encoders import TASKS
from test_saved import TEXTS, checkpoint, converted, off, theirs
from test_witness import reading

import shim
from converter import pipeline
from converter.proof import loading
from converter.proof.upstream import Embedder
from converter.source.draft import draft
from converter.source.open import find, open_source
from shim import servable
from shim.errors import IntegrityError, SourceError, UsageError
from shim.text import adapted

NAMES = {"retrieval_query": "retrieval.query", "retrieval_passage": "retrieval.passage", "text_matching": "text-matching"}
FAR = {("onnx", 32): 1e-4, ("onnx", 16): 1e-2, ("mlx", 16): 1e-2, ("onnx", 8): 0.1, ("mlx", 8): 0.1}

INTEGERS = {("onnx", 8)}  # products in integers, as by default


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("adapters")


@pytest.fixture(scope="module")
def source(folder: Path) -> Path:
    return checkpoint("jina, adapters", folder)


@pytest.fixture(scope="module")
def expected(source: Path) -> dict[str | None, np.ndarray]:
    """{task: what sentence-transformers gives with its adapter, behind its prompt}; of None, without an adapter."""
    upstream: SentenceTransformer = theirs(source)
    found = {None: upstream.encode(TEXTS)}
    for name in TASKS:
        task = NAMES.get(name, name)
        upstream.load_adapter(str(source), adapter_name=name, adapter_kwargs={"subfolder": name})
        upstream.set_adapter(name)
        found[task] = upstream.encode(TEXTS, prompt=saved.TASK_PROMPTS.get(task, ""))
    return found


@pytest.fixture(scope="module")
def artifact(source: Path, folder: Path) -> Path:
    """At 32 bits, in ONNX, verified."""
    corpus = folder / "corpus.txt"
    corpus.write_text("\n".join([*TEXTS[:6], "a lamp", "two boats"]), encoding="utf-8")
    _, manifest = converted(source, "onnx", 32, folder / "out", corpus)
    (note,) = [note for note in manifest.parity.notes if note.startswith("worst by adapter")]
    assert all(f"{task} 1.00000" in note for task in manifest.model.adapters)
    return folder / "out" / manifest.name


def unverified(source: Path, target: str, bits: int, out: Path) -> shim.Model:
    drafted = draft(find(str(source)), license="mit")
    effort = "balanced" if (target, bits) in INTEGERS else "fast"
    request = pipeline.Request(drafted, target, bits, str(source), out, effort=effort, verified=False)
    return shim.load(pipeline.convert(request, lambda *_: None)[0], allow_unverified=True)


@pytest.mark.parametrize(("target", "bits"), FAR)
def test_each_text_of_a_batch_goes_through_its_own_adapter(
    target: str, bits: int, source: Path, artifact: Path, expected: dict[str | None, np.ndarray], tmp_path: Path
) -> None:
    model = shim.load(artifact) if (target, bits) == ("onnx", 32) else unverified(source, target, bits, tmp_path)
    assert set(expected) == {None, *model.info()["adapters"]}
    encoded, wanted = [], []
    for place, text in enumerate(TEXTS):  # of every text a few, so that neighbours have others
        for task in [*expected][place % 3 :: 2]:
            encoded += adapted(model.encoder.encode([text], model.prompt(task)), model.adapter(task))
            wanted.append(expected[task][place])
    found = np.stack([output.values["dense"] for output in model.compute(encoded, ("dense",))])
    assert off(found, np.array(wanted)) < FAR[target, bits]
    for task, vectors in expected.items():
        assert off(model.embed(TEXTS, task=task).dense, vectors) < FAR[target, bits]
    each = [expected[task] for task in expected]
    assert min(off(one, other) for one in each for other in each if one is not other) > 0.3, "this would prove nothing"


def test_a_task_is_asked_for_by_its_name_its_prompts_or_another(artifact: Path, expected: dict[str | None, Any]) -> None:
    model = shim.load(artifact)
    for settings, task in (
        ({"prompt_name": "query"}, "retrieval.query"),
        ({"prompt_name": "retrieval.passage"}, "retrieval.passage"),
        ({"task": "clustering"}, "separation"),
        ({"prompt_name": "document"}, "retrieval.passage"),
    ):
        assert off(model.embed(TEXTS, **settings).dense, expected[task]) < 1e-4, settings
    with pytest.raises(
        UsageError, match=r"task 'code.query': this model has adapters for retrieval.query, retrieval.passage, "
    ):
        model.embed(TEXTS, task="code.query")


def test_a_manifest_with_other_adapters_than_its_config_is_refused(artifact: Path) -> None:
    manifest = shim.load(artifact).manifest
    for names in (None, [*manifest.model.adapters][::-1]):
        wrong = dataclasses.replace(manifest, model=dataclasses.replace(manifest.model, adapters=names))
        with pytest.raises(IntegrityError, match=r"the manifest and config.json have other adapters"):
            servable.check(wrong, artifact)


def test_openvino_refuses_them(artifact: Path) -> None:
    from shim.runtimes.openvino import open_runtime

    with pytest.raises(UsageError, match="cannot choose an adapter for each text; take runtime onnx"):
        open_runtime(artifact, shim.load(artifact).manifest)


def test_a_server_takes_a_task(serve: Callable[..., str], artifact: Path, expected: dict[str | None, np.ndarray]) -> None:
    address = serve(artifact)
    for path, body, task in (
        ("/v1/embeddings", {"task": "text-matching"}, "text-matching"),
        ("/v1/embeddings", {"task": "retrieval.query"}, "retrieval.query"),
        ("/v1/embeddings", {}, None),
        ("/embed", {"prompt_name": "retrieval.passage"}, "retrieval.passage"),
    ):
        asked = {"model": artifact.name, "input": TEXTS, "inputs": TEXTS, **body}
        answer = httpx.post(address + path, json=asked, timeout=60).json()
        rows = answer if isinstance(answer, list) else [row["embedding"] for row in answer["data"]]
        assert off(np.array(rows), expected[task]) < 1e-4
    (listed,) = httpx.get(address + "/v1/models").json()["data"]
    assert set(listed["adapters"]) == {*expected} - {None}


def test_a_large_original_in_16_bits_is_asked_in_32(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its layers widen as they run; so must its adapters."""
    mine = Path(shutil.copytree(source, tmp_path / "mine"))
    for path in mine.rglob("*.safetensors"):
        save_file({name: tensor.bfloat16() for name, tensor in load_file(path).items()}, path, metadata={"format": "pt"})
    found = open_source(draft(find(str(mine)), license="mit"), str(mine))
    monkeypatch.setattr(loading, "SMALL", 1)
    upstream, ours = Embedder(found), reading(found)
    upstream.adapt(0)
    prompt = saved.TASK_PROMPTS["retrieval.query"]
    assert off(ours.embed(TEXTS, task="retrieval.query").dense, upstream.forward(TEXTS, prompt)[0]) < 1e-5


def edited(folder: str, **changes: Any) -> Callable[[Path], None]:
    def apply(source: Path) -> None:
        path = source / folder / "adapter_config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return apply


REFUSED: dict[str, tuple[Callable[[Path], Any], str]] = {
    "another kind": (edited("separation", peft_type="IA3"), "peft_type 'IA3' is not supported"),
    "magnitudes apart": (edited("separation", use_dora=True), "use_dora True is not supported"),
    "ranks apart": (edited("separation", rank_pattern={"fc1": 8}), "rank_pattern .* is not supported"),
    "another scale": (edited("separation", lora_alpha=3), "they must have the same"),
    "no rank": (lambda source: [edited(task, r="four")(source) for task in TASKS], "lora_rank must be a positive number"),
    "another rank": (lambda source: [edited(task, r=2)(source) for task in TASKS], "lora_A has shape .* config.json wants"),
    "a name of no task": (lambda source: (source / "separation").rename(source / "poetry"), "an adapter 'poetry'"),
    "no weights": (lambda source: (source / "separation/adapter_model.safetensors").unlink(), "is missing"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_an_adapter_that_is_not_computed_is_refused(case: str, source: Path, tmp_path: Path) -> None:
    change, message = REFUSED[case]
    mine = Path(shutil.copytree(source, tmp_path / "mine"))
    change(mine)
    with pytest.raises((UsageError, SourceError), match=message):
        open_source(draft(find(str(mine)), license="mit"), str(mine))


@pytest.mark.parametrize(
    ("config", "port"),
    [
        ({"model_type": "new", "architectures": ["NewModel"]}, "alibaba-nlp-community/gte-multilingual-base"),
        ({"model_type": "xlm-roberta", "architectures": ["XLMRobertaLoRA"]}, "jinaai/jina-embeddings-v3-hf"),
    ],
)
def test_code_of_its_own_is_refused_and_a_port_named(config: dict[str, Any], port: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config | {"auto_map": {"AutoModel": "code"}}))
    with pytest.raises(UsageError, match=f"code of its own, which is not run; {port} is one"):
        find(str(tmp_path))
