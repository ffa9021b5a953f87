"""Every architecture through both runtimes, against transformers' own: a new one adds a row to CASES."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import made, standin
from support import upstream
from support.checkpoints import write_bert, write_recipe, write_xlm_roberta
from support.saved_decoders import DECODERS
from support.saved_encoders import ENCODERS

from converter import pipeline, recipe
from converter.source.draft import draft
from converter.source.open import find
from shim import Model, load
from shim.pooling import POOLINGS

TEXTS = ["one", "a rather longer text about rivers and their mouths", "двенадцать месяцев  ", "天气很好", "x y " * 700]
CARD = "Given a web search query, retrieve relevant passages that answer the query"  # of Qwen3: its own example
INSTRUCTION = '[prompts]\ninstruction = "Instruct: {instruction}\\nQuery: "'
SAVED = ENCODERS | DECODERS
TARGETS = {("onnx", 32): 2e-6, ("onnx", 16): 2e-3, ("mlx", 16): 2e-3}


@dataclass(frozen=True)
class Case:
    """An architecture, and what is particular about a checkpoint of it.

    standin: the small checkpoint in the layout of a real one; "" for one of seeded weights, whose tensors have `prefix`, or
    which transformers saved, with `shape` of its own.
    asked: (text, settings, what the model must then read) of texts behind a prompt. far: times the usual tolerance at 16 bits.
    """

    architecture: str
    pooling: str
    standin: str = ""
    prefix: str = ""
    recipe: str = ""
    limit: int = 128
    asked: tuple[tuple[str, dict[str, Any], str], ...] = ()
    far: float = 1
    shape: dict[str, Any] = field(default_factory=dict)

    def converted(self, target: str, bits: int, folder: Path, corpus: Path) -> tuple[Path, Model]:
        """The checkpoint and the artifact; of seeded weights, only one is verified: here it is held to transformers itself."""
        if self.standin:
            return standin(self.standin), load(made(self.standin, target, bits)[0])
        if self.architecture in SAVED:
            source = SAVED[self.architecture](folder / "checkpoint", **self.shape)
            drafted = draft(find(str(source)), pooling=self.pooling, normalize=True, license="mit")
            request = pipeline.Request(drafted, target, bits, str(source), folder / "out", corpus=corpus, verified=False)
            return source, load(pipeline.convert(request, lambda *_: None)[0], allow_unverified=True)
        write = {"bert": write_bert, "xlm_roberta": write_xlm_roberta}[self.architecture]
        source = write(folder / "checkpoint", pooling=self.pooling, **({"prefix": self.prefix} if self.prefix else {}))
        given = {"pooling": self.pooling, "architecture": self.architecture, "more": self.recipe}
        own = recipe.load(str(write_recipe(folder / "tiny.toml", **given)))
        verified = (self.pooling, target, bits) == ("mean", "onnx", 32)
        request = pipeline.Request(own, target, bits, str(source), folder / "out", corpus=corpus, verified=verified)
        path, manifest = pipeline.convert(request, lambda *_: None)
        assert manifest.verdict == ("pass" if verified else "unverified")
        return source, load(path, allow_unverified=not verified)


RIVER = (("Nile", {"instruction": "Find the river"}, "Instruct: Find the river\nQuery: Nile"),)
PASSAGE = (("Nile", {"task": "retrieval.passage"}, "Nile"),)
CASES = [
    *(Case("bert", pooling) for pooling in POOLINGS),
    Case("xlm_roberta", "cls"),
    Case("xlm_roberta", "mean", prefix="roberta.", recipe=INSTRUCTION, asked=RIVER + PASSAGE),
    Case(
        "nomic_bert",
        "mean",
        "nomic-embed-text-v1.5",
        limit=8192,
        asked=(("Nile", {"task": "retrieval.query"}, "search_query: Nile"),),
    ),
    Case(
        "qwen3",
        "last",
        "qwen3-embedding-0.6b",
        limit=32768,
        asked=(("a river", {"instruction": CARD}, f"Instruct: {CARD}\nQuery:a river"), *PASSAGE),
        far=2.5,
    ),
    Case("roberta", "cls", limit=48),
    Case("camembert", "mean", limit=48),
    Case("distilbert", "mean", limit=48),
    Case("mpnet", "mean", limit=300, shape={"limit": 300}),  # beyond the distances that its bias tells apart
    Case("modernbert", "mean", limit=2048, shape={"limit": 2048}, far=2.5),  # its queries go block by block
    Case("gemma3_text", "mean", limit=1100, shape={"limit": 1100}, far=2.5),
    Case("gemma3_text", "last", limit=48, shape={"use_bidirectional_attention": False}, far=2.5),
    Case("llama", "last", limit=48, shape={"append": True}, far=2.5),
    Case("llama", "mean", limit=1100, shape={"limit": 1100, "is_causal": False}, far=2.5),
    Case("qwen2", "last", limit=48, shape={"append": True}, far=2.5),
    Case("mistral", "last", limit=48, shape={"append": True}, far=2.5),
    Case("qwen3", "mean", limit=48, shape={"is_causal": False}, far=2.5),
    Case("olmo3", "mean", limit=1100, shape={"limit": 1100}, far=2.5),
    Case("jina_embeddings_v3", "mean", limit=48),
    Case("gte", "cls", limit=48),
    Case("gte", "mean", limit=48, shape={"type_vocab_size": 0}),
]


@pytest.mark.parametrize(("target", "bits"), TARGETS)
@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.architecture}-{case.pooling}")
def test_vectors_are_those_of_transformers(case: Case, target: str, bits: int, tmp_path: Path, corpus_file: Path) -> None:
    directory, model = case.converted(target, bits, tmp_path, corpus_file)
    expected = upstream.vectors(directory, [*TEXTS, *(read for _, _, read in case.asked)], case.pooling, case.limit)
    tolerance = TARGETS[target, bits] * (case.far if (target, bits) == ("onnx", 16) else 1)
    found = model.embed(TEXTS)
    assert np.abs(found.dense - expected[: len(TEXTS)]).max() < tolerance
    assert found.truncated == [False] * 4 + [case.limit < 8192]
    for (text, settings, _), wanted in zip(case.asked, expected[len(TEXTS) :], strict=True):
        assert np.abs(model.embed([text], **settings).dense - wanted).max() < tolerance
    assert (expected @ expected.T - np.eye(len(expected))).max() < 0.98, "texts all alike: this would prove nothing"
