"""Models without a vector for a text, SPLADE and ColBERT: read as upstream reads them, converted, served, refused by name."""

import dataclasses
import json
import shutil
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from sentence_transformers import MultiVectorEncoder, SparseEncoder
from support import saved_heads
from test_saved import TEXTS, checkpoint, converted, published
from test_witness import READ_OTHERWISE, edit, reading, witnessed

from converter import corpus
from converter.source import open as opening
from shim.encoding import encoding
from shim.errors import SourceError, UsageError
from shim.model import Model
from shim.results import Embeddings

SPLADE, MODERN, PYLATE, TWO = (
    "splade, bert, max",
    "splade, modernbert, sum",
    "colbert, pylate over bert",
    "colbert, two dense, prompts",
)
CONFIG, MODEL, SENTENCE = "config.json", "config_sentence_transformers.json", "sentence_bert_config.json"


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("heads")


@pytest.fixture
def asked(corpus_file: Path) -> list[corpus.Text]:
    return corpus.read(corpus_file)


def weights(found: Embeddings, words: int) -> np.ndarray:
    """(n, words) of sparse vectors."""
    rows = np.zeros((len(found.tokens), words), np.float32)
    assert found.sparse is not None
    for row, sparse in zip(rows, found.sparse, strict=True):
        row[list(sparse)] = list(sparse.values())
    return rows


def apart(ours: np.ndarray, theirs: np.ndarray) -> float:
    """The greatest |ours - theirs| / |theirs| of a text."""
    assert ours.shape == theirs.shape
    return float((np.linalg.norm(ours - theirs, axis=-1) / np.linalg.norm(theirs, axis=-1)).max())


def check_sparse(model: Model, source: Path, tolerance: float) -> None:
    theirs = SparseEncoder(str(source), device="cpu", model_kwargs={"dtype": "float32"})
    wanted = theirs.encode(TEXTS, convert_to_sparse_tensor=False).numpy()
    found, words = model.embed(TEXTS), wanted.shape[1]
    assert found.dense.shape == (len(TEXTS), 0)
    assert model.dimensions == words
    assert apart(weights(found, words), wanted) < tolerance
    asked = theirs.encode_query(TEXTS, convert_to_sparse_tensor=False).numpy()
    assert apart(weights(model.embed(TEXTS, task="retrieval.query"), words), asked) < tolerance
    alone = np.concatenate([weights(model.embed([text]), words) for text in TEXTS])
    assert apart(alone, weights(found, words)) < tolerance, "a batch gives what single texts give"
    several = weights(model.embed([TEXTS[-1]] * 12), words)  # of more tokens than are multiplied at once
    assert apart(several, np.repeat(alone[-1:], 12, axis=0)) < tolerance


def check_multi(model: Model, source: Path, tolerance: float) -> None:
    theirs = MultiVectorEncoder(str(source), device="cpu", model_kwargs={"dtype": "float32"})
    published(theirs, source)
    for task, wanted in (("query", theirs.encode_query(TEXTS)), ("document", theirs.encode_document(TEXTS))):
        found = model.embed(TEXTS, task=task).colbert
        assert found is not None
        for ours, vectors in zip(found, wanted, strict=True):
            assert apart(ours, vectors.numpy()) < tolerance
        named = model.embed(TEXTS, prompt_name=task).colbert
        assert named is not None
        assert all(map(np.array_equal, named, found))
    unsaid, documents = model.embed(TEXTS).colbert, model.embed(TEXTS, task="retrieval.passage").colbert
    assert unsaid is not None
    assert documents is not None
    assert all(map(np.array_equal, unsaid, documents)), "without a task a text is a document"


@pytest.mark.parametrize("kind", saved_heads.SPARSE)
def test_splade_is_read_as_sentence_transformers_reads_it(kind: str, folder: Path, asked: list[corpus.Text]) -> None:
    source = checkpoint(kind, folder)
    check_sparse(reading(witnessed(source, asked)), source, 1e-4)


@pytest.mark.parametrize("kind", saved_heads.MULTI)
def test_colbert_is_read_as_sentence_transformers_reads_it(kind: str, folder: Path, asked: list[corpus.Text]) -> None:
    source = checkpoint(kind, folder)
    check_multi(reading(witnessed(source, asked)), source, 1e-4)


# Kind, target, bits, and how far off a text's output may be.
ARTIFACTS = [
    (SPLADE, "onnx", 32, 1e-4),
    (SPLADE, "onnx", 8, 5e-2),
    ("splade, distilbert, log1p twice", "onnx", 16, 1e-2),
    (MODERN, "mlx", 16, 1e-2),
    (SPLADE, "mlx", 4, 5e-2),
    (PYLATE, "onnx", 8, 5e-2),
    (PYLATE, "mlx", 16, 1e-2),
    ("colbert, pylate over modernbert", "onnx", 32, 1e-4),
    (TWO, "mlx", 8, 5e-2),
]


@pytest.fixture(scope="session")
def artifact(
    folder: Path, tmp_path_factory: pytest.TempPathFactory, corpus_file: Path
) -> Callable[[str, str, int], tuple[Model, Path]]:
    """An artifact of a kind, made once."""
    found: dict[tuple[str, str, int], tuple[Model, Path]] = {}

    def make(kind: str, target: str, bits: int) -> tuple[Model, Path]:
        if (kind, target, bits) not in found:
            out = tmp_path_factory.mktemp("out")
            model, manifest = converted(checkpoint(kind, folder), target, bits, out, corpus_file)
            assert manifest.verdict == "pass"
            assert list(manifest.parity.worst) == ["colbert" if kind.startswith("colbert") else "sparse"]
            found[kind, target, bits] = model, out / manifest.name
        return found[kind, target, bits]

    return make


@pytest.mark.parametrize(("kind", "target", "bits", "tolerance"), ARTIFACTS)
def test_an_artifact_gives_what_sentence_transformers_gives(
    kind: str, target: str, bits: int, tolerance: float, folder: Path, artifact: Callable[..., tuple[Model, Path]]
) -> None:
    check = check_multi if kind.startswith("colbert") else check_sparse
    check(artifact(kind, target, bits)[0], checkpoint(kind, folder), tolerance)


def test_a_graph_never_holds_the_products_of_all_tokens(artifact: Callable[..., tuple[Model, Path]]) -> None:
    graph = onnx.load(artifact(SPLADE, "onnx", 32)[1] / "onnx/model.onnx").graph
    loops = [attribute.g for node in graph.node if node.op_type == "Loop" for attribute in node.attribute if attribute.g.node]
    assert "masked_lm.decoder" not in {node.name for node in graph.node}
    assert "masked_lm.decoder" in {node.name for body in loops for node in body.node}


def test_what_has_no_dense_vector_says_so(artifact: Callable[..., tuple[Model, Path]]) -> None:
    splade = artifact(SPLADE, "onnx", 32)[0]
    for settings, message in (
        ({"heads": ["dense"]}, "heads dense: .* has sparse"),
        ({"dimensions": 8}, "no dense vectors that could be cut"),
    ):
        with pytest.raises(UsageError, match=message):
            splade.embed(["text"], **settings)
    with pytest.raises(UsageError, match="has sparse"):
        splade.similarity(np.ones((2, 8)), np.ones((2, 8)))
    colbert = artifact(PYLATE, "onnx", 8)[0]
    with pytest.raises(UsageError, match="cut on the right"):
        encoding(colbert.encoder, colbert.manifest.model, "", "query", side="left")


def test_over_http(artifact: Callable[..., tuple[Model, Path]], serve: Callable[..., str]) -> None:
    (splade, sparse_path), (colbert, path) = artifact(SPLADE, "onnx", 32), artifact(PYLATE, "onnx", 8)
    url = serve(sparse_path, path)

    def post(route: str, body: dict[str, Any], status: int = 200) -> Any:
        request = urllib.request.Request(url + route, json.dumps(body).encode(), {"content-type": "application/json"})
        try:
            answer = urllib.request.urlopen(request)
        except urllib.error.HTTPError as error:
            answer = error
        with answer:
            assert answer.status == status
            return json.load(answer)

    wanted = splade.embed(TEXTS)
    assert wanted.sparse is not None
    given = post("/embed_sparse", {"inputs": TEXTS, "model": splade.name})
    assert [[item["index"] for item in row] for row in given] == [list(row) for row in wanted.sparse]
    assert "has sparse" in post("/embed", {"inputs": "a", "model": splade.name}, 400)["error"]
    assert "has sparse" in post("/embed_all", {"inputs": "a", "model": splade.name}, 400)["error"]
    assert "has sparse" in post("/v1/embeddings", {"input": "a", "model": splade.name}, 400)["error"]["message"]
    (item,) = post("/v1/embeddings", {"input": TEXTS[:1], "model": splade.name, "heads": ["sparse"]})["data"]
    assert item["embedding"] == []
    assert item["sparse"]["indices"] == list(wanted.sparse[0])
    for task in ("query", "document"):
        vectors = colbert.embed(TEXTS, task=task).colbert
        assert vectors is not None
        shown = post("/embed_all", {"inputs": TEXTS, "model": colbert.name, "prompt_name": task})
        body = {"input": TEXTS, "model": colbert.name, "heads": ["colbert"], "task": task}
        items = [item["multivector"] for item in post("/v1/embeddings", body)["data"]]
        for one, other, vector in zip(shown, items, vectors, strict=True):
            assert np.abs(np.array(one) - vector).max() < 1e-2  # in integers a batch may round otherwise
            assert np.array(other).shape == vector.shape
    assert "has colbert" in post("/embed_sparse", {"inputs": "a", "model": colbert.name}, 400)["error"]


# What derive makes of a checkpoint, wrong: (kind, key, what it makes of the right value).
MISREAD: dict[str, tuple[str, str, Callable[[Any], Any]]] = {
    "no query prefix": (PYLATE, "prompt_names", lambda names: names | {"query": ""}),
    "prefixes that are taken apart": (PYLATE, "colbert", lambda found: dataclasses.replace(found, markers=[])),
    "the authors' prefixes taken apart": ("colbert, stanford", "colbert", lambda found: dataclasses.replace(found, markers=[])),
    "a longer query": (PYLATE, "colbert", lambda found: dataclasses.replace(found, expansion=17, query_length=17)),
    "a longer document": (PYLATE, "max_tokens", lambda tokens: tokens + 1),
    "a dropped Dense": (TWO, "modules", lambda steps: steps[1:]),
    "another pooling": (SPLADE, "pooling", lambda _: "sum"),
    "another activation": (SPLADE, "splade", lambda _: "log1p_relu"),
    "a default prompt": ("splade, bert, sum, prompts", "default_prompt", lambda _: ""),
}


@pytest.mark.parametrize("case", MISREAD)
def test_a_file_misread_is_caught(case: str, folder: Path, asked: list[corpus.Text], monkeypatch: pytest.MonkeyPatch) -> None:
    kind, key, changed = MISREAD[case]
    source, right = checkpoint(kind, folder), opening.derive

    def wrong(*arguments: Any) -> Any:
        facts = right(*arguments)
        return facts | {key: dataclasses.replace(facts[key], value=changed(facts[key].value))}

    monkeypatch.setattr(opening, "derive", wrong)
    with pytest.raises((UsageError, SourceError), match=f"{READ_OTHERWISE}|left over|has shape"):
        witnessed(source, asked)


def retyped(place: int, kind: str) -> Callable[[Path], None]:
    """Another class for a module."""

    def apply(source: Path) -> None:
        entries = json.loads((source / "modules.json").read_text())
        entries[place]["type"] = kind
        (source / "modules.json").write_text(json.dumps(entries))

    return apply


REFUSED: dict[str, tuple[str, Callable[[Path], Any], str]] = {
    "a Router": (SPLADE, retyped(0, "sentence_transformers.base.modules.router.Router"), "Router module, which sends queries"),
    "words without a model": (
        SPLADE,
        retyped(0, "sentence_transformers.sparse_encoder.models.SparseStaticEmbedding"),
        "a SparseStaticEmbedding module, which weighs a text's own words without a model",
    ),
    "fewer words": (SPLADE, edit(MODEL, max_active_dims=64), "max_active_dims 64 is not supported"),
    "a mean over the tokens": (SPLADE, edit("1_SpladePooling/config.json", pooling_strategy="mean"), "'mean' is not supported"),
    "another activation": (SPLADE, edit("1_SpladePooling/config.json", activation_function="gelu"), "'gelu' is not supported"),
    "states, not logits": (SPLADE, edit(SENTENCE, transformer_task="feature-extraction"), "'feature-extraction' is not supp"),
    "a family whose head is not here": (SPLADE, edit(CONFIG, model_type="roberta", pad_token_id=1), "of architecture roberta"),
    "a query over the table": (TWO, edit(SENTENCE, query_length=100), "max_tokens 100, but config.json has 64 positions"),
    "an expansion without end": (
        TWO,
        edit(SENTENCE, query_expansion={"strategy": "fixed", "length": 10**6}),
        "filled up to 1000000, over 4096",
    ),
    "a dense model's name": (SPLADE, edit(MODEL, model_type="SentenceTransformer"), "no Pooling module"),
    "another head of ModernBERT": (MODERN, edit(CONFIG, classifier_activation="relu"), "classifier_activation 'relu'"),
    "joined vectors": (
        TWO,
        retyped(-1, "sentence_transformers.multi_vector_encoder.modules.HierarchicalTokenPooling"),
        "a HierarchicalTokenPooling module, which joins a document's vectors",
    ),
    "vectors of any length": (
        TWO,
        lambda d: (d / "modules.json").write_text(json.dumps(json.loads((d / "modules.json").read_text())[:-1])),
        "ends without a Normalize module",
    ),
    "a Dense of pooled vectors": (TWO, edit("1_Dense/config.json", module_input_name="sentence_embedding"), "per token is"),
    "a residual Dense": (TWO, edit("1_Dense/config.json", use_residual=True), "use_residual is not supported"),
    "image tokens": (TWO, edit("3_MultiVectorMask/config.json", keep_only_token_ids=[3]), "keep_only_token_ids"),
    "another expansion": (TWO, edit(SENTENCE, query_expansion={"strategy": "max", "length": 9}), "query_expansion"),
    "an expansion to nothing": (TWO, edit(SENTENCE, query_expansion={"strategy": "min"}), "to None tokens"),
    "a length that is a word": (TWO, edit(SENTENCE, document_length="long"), "document_length must be a positive number"),
    "a width of nothing": ("colbert, stanford", edit("artifact.metadata", dim=0), "dim must be a positive number"),
    "another width": ("colbert, stanford", edit("artifact.metadata", dim=16), r"dense.0.weight has shape \[32, 64\]"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_not_followed_is_refused_in_one_line(case: str, folder: Path, tmp_path: Path, asked: list[corpus.Text]) -> None:
    kind, change, message = REFUSED[case]
    source = Path(shutil.copytree(checkpoint(kind, folder), tmp_path / "mine"))
    change(source)
    with pytest.raises((UsageError, SourceError), match=message) as caught:
        witnessed(source, asked)
    assert "\n" not in str(caught.value)
