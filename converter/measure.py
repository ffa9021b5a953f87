"""The proof: an artifact, loaded as it will be served, against its original on the same texts."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import shim
from converter import corpus, reference, verify
from converter.checkpoint import Checkpoint
from shim.artifact import Manifest

Progress = Callable[[str, int, int], None]  # stage, done, total
PROBES = 2  # texts that also go through MLX's packed kernels when a CPU verifies with dequantized weights


def measure(
    directory: Path, manifest: Manifest, checkpoint: Checkpoint, texts: list[corpus.Text], goal: float, progress: Progress
) -> dict[str, Any]:
    """The parity report of an artifact against its original, both embedding the texts under each text's own task."""
    expected = reference.embed(checkpoint, manifest.model, texts, lambda done: progress("reference", done, len(texts)))
    model = shim.load(directory, allow_unverified=True)
    heads = {"dense": verify.dense_report(expected, _embed(model, texts, progress), texts)}
    report: dict[str, Any] = {
        "verdict": verify.verdict(heads, goal),
        "target": goal,
        "texts": len(texts),
        "runtime": model.runtime.name,
        "device": model.runtime.device,
        "kernels": model.runtime.kernels,
        "heads": heads,
        "notes": [note for head, figures in heads.items() for note in verify.notes(head, figures)],
    }
    if model.runtime.kernels == "float32" and manifest.quantization["tensors"]:
        report["packed_kernels"] = _probe(directory, model, texts)
        if not report["packed_kernels"]["worst"] >= goal:
            report["verdict"] = "fail"
            report["notes"].append("the packed weights, through MLX's own kernels, are not what was verified")
    return report


def _embed(model: shim.Model, texts: list[corpus.Text], progress: Progress) -> np.ndarray:
    vectors = np.empty((len(texts), model.dimensions), np.float32)
    done = 0
    for task in sorted({text.task for text in texts}):
        rows = [row for row, text in enumerate(texts) if text.task == task]
        for start in range(0, len(rows), 16):
            part = rows[start : start + 16]
            vectors[part] = model.embed([texts[row].text for row in part], task=task).dense
            done += len(part)
            progress("verify", done, len(texts))
    return vectors


def _probe(directory: Path, model: shim.Model, texts: list[corpus.Text]) -> dict[str, Any]:
    """How far MLX's packed kernels are from the dequantized weights that were verified, on the shortest texts."""
    from shim.runtimes.mlx import open_runtime

    with warnings.catch_warnings():  # that MLX is slow here was said when the model was loaded
        warnings.simplefilter("ignore")
        runtime = open_runtime(directory, model.manifest.model, "cpu", kernels="quantized")
    packed = shim.Model(model.manifest, model.encoder, runtime)
    shortest = sorted((text.text for text in texts), key=len)[:PROBES]
    scores = verify.cosines(model.embed(shortest).dense, packed.embed(shortest).dense)
    return {"texts": len(shortest), "worst": float(scores.min())}
