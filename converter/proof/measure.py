"""The proof: an artifact, loaded as it will be served, against its original on the same texts."""

import gc
import warnings
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

import shim
from converter import corpus
from converter.proof import metrics, reference
from converter.proof.reading import read_probes
from converter.proof.witness import agree
from converter.source.checkpoint import Checkpoint
from shim.artifact import Manifest
from shim.errors import NotFiniteError, SourceError
from shim.parity import PackedKernels, Parity, Witness
from shim.spec import ModelSpec
from shim.text import TextEncoder

Cosines = dict[str, dict[str, list[float]]]  # head -> language -> the cosine of each text, of rerankers of each query
Progress = Callable[[str, int, int], None]  # stage, done, total
Opener = Callable[[], shim.Model]
LARGE = 30_000_000  # bytes of an artifact
PROBES = 4  # texts or documents that also go through MLX's packed kernels where a CPU verifies with dequantized weights


def measure(
    directory: Path,
    manifest: Manifest,
    checkpoint: Checkpoint,
    texts: list[corpus.Text],
    progress: Progress,
    opener: Opener | None = None,
) -> tuple[Parity, Cosines]:
    """How near an artifact is to its original, both embedding the texts under each text's own task, without a witness; and the
    cosines that it sums up.

    opener: what loads it, where that is not the runtime that it was made for.
    """
    bar = manifest.parity.bar
    prove = _rerank if manifest.task == "rerank" else _embed
    opener = opener or partial(shim.load, directory, allow_unverified=True)
    model, reports, count = prove(opener, manifest, checkpoint, texts, progress)
    heads = {head: figures for head, (figures, _) in reports.items()}
    judged = texts if manifest.task == "embed" else [ranking.query for ranking in corpus.rankings(texts)]
    cosines = {head: metrics.by_language(scores, judged) for head, (_, scores) in reports.items()}
    parity = Parity(
        verdict="pass" if bar.passes(heads) else "fail",
        target=bar.cosine,
        on=bar.on,
        texts=count,
        runtime=model.runtime.name,
        device=model.runtime.device,
        kernels=model.runtime.kernels,
        heads=heads,
        notes=[note for head, figures in heads.items() for note in metrics.notes(head, figures)],
    )
    if manifest.model.adapters:
        parity = replace(parity, notes=[*(parity.notes or []), metrics.by_task(reports["dense"][1], texts)])
    if parity.kernels != "float32" or parity.verdict != "pass":
        return parity, cosines
    try:  # large ones take minutes
        packed = _probe(directory, model, texts)
    except NotFiniteError:
        packed = PackedKernels(texts=PROBES, kernels="quantized", worst=0.0)
    if packed.worst >= bar.cosine:
        return replace(parity, packed_kernels=packed), cosines
    note = "the weights, through the kernels that a GPU uses, are not what was verified"
    return replace(parity, packed_kernels=packed, verdict="fail", notes=[*(parity.notes or []), note]), cosines


def prepare(checkpoint: Checkpoint, task: str, texts: list[corpus.Text], progress: Progress) -> Witness:
    """Compute the original's outputs, while memory is free, and what the manifest records of its witness.

    Raises UsageError where the upstream library reads the checkpoint otherwise than we do, and what reference.py does.
    """
    testimony = original(checkpoint, task, texts, progress).testimony
    try:
        agreed = agree(checkpoint, testimony, read_probes)
    except (IndexError, KeyError, TypeError, RuntimeError) as error:  # of a file that upstream takes and our code does not
        raise SourceError(f"{checkpoint.root}: cannot be computed ({type(error).__name__}: {error})") from None
    gc.collect()  # of the weights that the reading held
    return agreed


def original(checkpoint: Checkpoint, task: str, texts: list[corpus.Text], progress: Progress) -> reference.Reference:
    """What artifacts are held to; computed once, then read from the cache. Raises what reference.py does."""
    if task == "embed":
        work = np.cumsum(sorted(map(_work, texts)))  # the order in which it is asked
        total = int(work[-1])
        found = reference.embed(checkpoint, texts, lambda done: progress("reference", int(work[done - 1]), total))
    else:
        rankings = corpus.rankings(texts)
        total = sum(len(ranking.documents) for ranking in rankings)
        found = reference.rank(checkpoint, rankings, lambda done: progress("reference", done, total))
    progress("reference", total, total)  # it may lie in the cache
    return found


def check_queries(checkpoint: Checkpoint, spec: ModelSpec, task: str, texts: list[corpus.Text]) -> None:
    """Raise UsageError for a query that leaves a reranker no room for a document."""
    if task == "rerank":
        encoder = TextEncoder(checkpoint.directory, spec.max_tokens, spec.lower_case)
        for ranking in corpus.rankings(texts):
            encoder.pairs(ranking.query.text, [""], spec.prompts)


def _embed(
    opener: Opener, manifest: Manifest, checkpoint: Checkpoint, texts: list[corpus.Text], progress: Progress
) -> tuple[shim.Model, dict[str, metrics.Report], int]:
    expected = original(checkpoint, manifest.task, texts, progress).outputs
    model = opener()
    dense = np.empty((len(texts), model.dimensions if expected.dense is not None else 0), np.float32)
    sparse: list[dict[int, float]] = [{} for _ in texts]
    colbert = [np.empty((0, model.dimensions), np.float32) for _ in texts]
    done = 0
    for task in sorted({text.task for text in texts}):
        rows = [row for row, text in enumerate(texts) if text.task == task]
        rows.sort(key=lambda row: len(texts[row].text))  # those of a length together: less padding
        for start in range(0, len(rows), 16):
            part = rows[start : start + 16]
            out = model.embed([texts[row].text for row in part], task=task, heads=manifest.model.heads)
            dense[part] = out.dense
            for place, row in enumerate(part):
                sparse[row] = out.sparse[place] if out.sparse else {}
                colbert[row] = out.colbert[place] if out.colbert else colbert[row]
            done += sum(_work(texts[row]) for row in part)
            progress("verify", done, sum(map(_work, texts)))
    reports: dict[str, metrics.Report] = {}
    if expected.dense is not None:
        reports["dense"] = metrics.dense_report(expected.dense, dense, texts, manifest.model.normalized)
    if expected.sparse is not None:
        reports["sparse"] = metrics.sparse_report(expected.sparse, sparse, texts)
    if expected.colbert is not None:
        reports["colbert"] = metrics.colbert_report(expected.colbert, colbert, texts)
    return model, reports, len(texts)


def _work(text: corpus.Text) -> int:
    """What a text counts for in progress: its characters, so that what is left of the time can be foretold."""
    return len(text.text) + 1


def _rerank(
    opener: Opener, manifest: Manifest, checkpoint: Checkpoint, texts: list[corpus.Text], progress: Progress
) -> tuple[shim.Model, dict[str, metrics.Report], int]:
    rankings = corpus.rankings(texts)
    expected = original(checkpoint, manifest.task, texts, progress).outputs
    model = opener()
    scores = []
    for number, ranking in enumerate(rankings):
        scores.append(_logits(model, ranking))
        progress("verify", number + 1, len(rankings))
    assert expected.scores is not None
    sizes = [len(one.documents) for one in rankings]
    wanted = np.split(expected.scores, np.cumsum(sizes)[:-1])
    return model, {"score": metrics.score_report(wanted, scores, rankings)}, sum(sizes)


def _logits(model: shim.Model, ranking: corpus.Ranking) -> np.ndarray:
    """(documents,) in the order of the documents."""
    ranked = model.rerank(ranking.query.text, [document.text for document in ranking.documents])
    return np.array([item.logit for item in sorted(ranked, key=lambda item: item.index)])


def _probe(directory: Path, model: shim.Model, texts: list[corpus.Text]) -> PackedKernels:
    """How far the kernels that a GPU uses are from the dequantized weights that were verified, on the shortest texts.

    A large model's packed weights are multiplied in float32: in float16 a CPU takes hours over them.
    """
    from shim.runtimes.mlx import open_runtime

    kernels = "packed" if model.manifest.quantization["tensors"] and model.manifest.size > LARGE else "quantized"
    with warnings.catch_warnings():  # that MLX is slow here was said when the model was loaded
        warnings.simplefilter("ignore")
        runtime = open_runtime(directory, model.manifest, "cpu", kernels=kernels)
    packed = shim.Model(model.manifest, model.encoder, runtime)
    shortest = sorted(texts, key=lambda text: len(text.text))[:PROBES]
    if model.task == "rerank":
        ranking = corpus.Ranking(shortest[0], shortest)
        scores = [_logits(found, ranking) for found in (model, packed)]
        figures, _ = metrics.score_report(scores[:1], scores[1:], [ranking])
        return PackedKernels(texts=1, kernels=kernels, worst=figures.worst)
    task = shortest[0].task if model.manifest.model.adapters else None
    given, other = (found.embed([text.text for text in shortest], task=task) for found in (model, packed))
    if given.sparse is not None and other.sparse is not None:
        figures, _ = metrics.sparse_report(given.sparse, other.sparse, shortest)
    elif given.colbert is not None and other.colbert is not None:
        figures, _ = metrics.colbert_report(given.colbert, other.colbert, shortest)
    else:
        return PackedKernels(texts=len(shortest), kernels=kernels, worst=float(metrics.cosines(given.dense, other.dense).min()))
    return PackedKernels(texts=len(shortest), kernels=kernels, worst=figures.worst)
