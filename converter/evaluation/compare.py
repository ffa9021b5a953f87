"""Both models asked for the same: the original by its own library in fp32, the artifact through the shim."""

from pathlib import Path

import shim
from converter.evaluation import figures
from converter.evaluation.figures import Answers, Output
from converter.evaluation.sets import Pairs, Retrieval
from converter.proof import reference
from converter.proof.measure import Progress
from converter.source.checkpoint import Checkpoint
from shim.artifact import Manifest
from shim.errors import UsageError
from shim.parity import Evaluation
from shim.text import TextEncoder

TOGETHER = 64  # texts that the artifact gets at once
Input = tuple[str, str]  # (task, text), of a reranker (query, document)


def compare(
    directory: Path, manifest: Manifest, checkpoint: Checkpoint, sets: list[Pairs | Retrieval], progress: Progress
) -> list[Evaluation]:
    """The figures of both on each set, in the order of the sets.

    Every text goes behind the model's own prompt for its part, the same on both sides. Raises UsageError for a query that
    leaves a reranker no room, and what reference.py and `shim.load` do.
    """
    rerank = manifest.task == "rerank"
    if not rerank and "dense" not in manifest.model.heads:
        raise UsageError(f"{manifest.name}: an evaluation compares a text's dense vectors, and the model has none")
    inputs = list(dict.fromkeys(input for data in sets for input in (_pairs(data) if rerank else _texts(data))))
    prompted: list[tuple[str, ...]] = [*inputs]
    if rerank:
        encoder = TextEncoder(checkpoint.directory, manifest.model.max_tokens, manifest.model.lower_case)
        for query in dict.fromkeys(query for query, _ in inputs):
            encoder.pairs(query, [""], manifest.model.prompts)
    else:
        prompted = reference.asked_of(manifest.model, inputs)
    expected = reference.answers(checkpoint, prompted, lambda done: progress("reference", done, len(inputs)))
    model = shim.load(directory, allow_unverified=True)
    found = (_scores if rerank else _vectors)(model, inputs, progress)
    rows = expected.scores if rerank else expected.dense
    assert rows is not None
    original = Answers(dict(zip(inputs, rows, strict=True)), manifest.model.similarity)
    artifact = Answers(found, manifest.model.similarity)
    records: list[Evaluation] = []
    for data in sets:
        if isinstance(data, Pairs):
            records += figures.similarity(data, original, artifact)
        else:
            records += (figures.reranking if rerank else figures.retrieval)(data, original, artifact)
    return records


def _texts(data: Pairs | Retrieval) -> list[Input]:
    if isinstance(data, Pairs):
        return [(figures.SIMILARITY, text) for pair in data.pairs for text in pair[:2]]
    queries = [(figures.QUERY, text) for text in data.queries.values()]
    return queries + [(figures.DOCUMENT, text) for text in data.documents.values()]


def _pairs(data: Pairs | Retrieval) -> list[Input]:
    assert isinstance(data, Retrieval)
    return [
        (sample["query"], document)
        for sample in figures.samples(data)
        for document in (*sample["positive"], *sample["negative"])
    ]


def _vectors(model: shim.Model, inputs: list[Input], progress: Progress) -> dict[Input, Output]:
    found: dict[Input, Output] = {}
    for task in sorted({task for task, _ in inputs}):
        own = sorted((text for other, text in inputs if other == task), key=len)  # those of a length together: less padding
        for start in range(0, len(own), TOGETHER):
            part = own[start : start + TOGETHER]
            found.update({(task, text): row for text, row in zip(part, model.embed(part, task=task).dense, strict=True)})
            progress("verify", len(found), len(inputs))
    return found


def _scores(model: shim.Model, inputs: list[Input], progress: Progress) -> dict[Input, Output]:
    documents: dict[str, list[str]] = {}
    for query, document in inputs:
        documents.setdefault(query, []).append(document)
    found: dict[Input, Output] = {}
    for query, own in documents.items():
        found.update({(query, own[ranked.index]): ranked.logit for ranked in model.rerank(query, own)})
        progress("verify", len(found), len(inputs))
    return found
