"""Model: texts to vectors through a sealed artifact, whichever runtime it was made for."""

import importlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from shim import artifact
from shim.artifact import Manifest
from shim.errors import IntegrityError, NotFiniteError, UsageError
from shim.pooling import check_dimensions, cut
from shim.runtimes import Runtime
from shim.text import Encoded, TextEncoder, check_texts, prompt_for

BATCH_TOKENS = 4096  # padded tokens a runtime gets at once; more costs memory and, on a CPU, cache misses


@dataclass(frozen=True)
class Embeddings:
    """What `Model.embed` returns, in the order of the texts.

    dense: (n, d) float32, L2-normalised. tokens: tokens per text, prompt and special tokens included, after truncation.
    truncated: whether a text was cut to the model's limit.
    """

    dense: np.ndarray
    tokens: list[int]
    truncated: list[bool]


def load(
    path: str | os.PathLike[str],
    runtime: str = "auto",
    device: str = "auto",
    allow_unverified: bool = False,
    min_parity: float | None = None,
) -> "Model":
    """Load a sealed artifact: manifest, hashes and verdict are checked first.

    runtime: `auto` takes the one that the artifact was made for. device: `auto`, `cpu`, `gpu` (mlx) or `cuda` (onnx).
    min_parity: accept an artifact that was sealed at this lower target. allow_unverified: skip verdict and hashes.
    Raises IntegrityError for an artifact that is not whole or not sealed, UsageError for a runtime or device it cannot have.
    """
    directory = Path(path)
    manifest = artifact.read(directory)
    if not allow_unverified:
        artifact.check_verdict(manifest, min_parity)
        artifact.check_files(directory, manifest)
    if runtime not in ("auto", *artifact.TARGETS):
        raise UsageError(f"runtime {runtime!r} unknown (auto, {', '.join(artifact.TARGETS)})")
    if runtime not in ("auto", manifest.target):
        raise UsageError(f"{manifest.name} was made for {manifest.target}; runtime {runtime} cannot load it")
    opener = importlib.import_module(f"shim.runtimes.{manifest.target}").open_runtime
    return Model(manifest, TextEncoder(directory, manifest.model.max_tokens), opener(directory, manifest.model, device))


class Model:
    """A loaded artifact. One thread at a time: the thread that called `load`."""

    def __init__(self, manifest: Manifest, encoder: TextEncoder, runtime: Runtime):
        self.manifest, self.encoder, self.runtime = manifest, encoder, runtime
        self.name, self.task = manifest.name, manifest.task
        self.dimensions, self.max_tokens = manifest.model.dimensions, manifest.model.max_tokens

    def embed(
        self,
        texts: Sequence[str],
        task: str | None = None,
        instruction: str | None = None,
        dimensions: int | None = None,
    ) -> Embeddings:
        """Vectors of the texts.

        task: the prompt to put before each text (`retrieval.query`, `retrieval.passage`, …), none where the model has none.
        instruction: in place of the task's own, for a model that takes instructions.
        dimensions: cut the vectors to this many and normalise again.
        Raises UsageError for texts, task, instruction or dimensions that cannot be meant, NotFiniteError for NaN or
        infinity in an output.
        """
        width = check_dimensions(dimensions, self.dimensions)
        prompt = prompt_for(self.manifest.model.prompts, task, instruction)
        encoded = self.encoder.encode(check_texts(texts), prompt)
        dense = np.empty((len(encoded), self.dimensions), np.float32)
        for rows in batches(encoded):
            tokens = self.encoder.batch([encoded[row] for row in rows])
            vectors = self.runtime.run(tokens, ("sentence_embedding",))["sentence_embedding"]
            if vectors.shape[1] != self.dimensions:
                raise IntegrityError(f"{self.name}: {vectors.shape[1]} dimensions, the manifest says {self.dimensions}")
            dense[rows] = vectors
        broken = np.flatnonzero(~np.isfinite(dense).all(axis=1))
        if broken.size:
            raise NotFiniteError(f"{self.name}: NaN or infinity in the vector of text {broken[0]} ({broken.size} in all)")
        return Embeddings(cut(dense, width), [len(item.ids) for item in encoded], [item.truncated for item in encoded])

    def info(self) -> dict[str, Any]:
        """What a client may want to know of the model, as JSON values."""
        return {
            "name": self.name,
            "task": self.task,
            "dimensions": self.dimensions,
            "max_tokens": self.max_tokens,
            "heads": self.manifest.model.heads,
            "target": self.manifest.target,
            "bits": self.manifest.bits,
            "verdict": self.manifest.verdict,
            "texts": self.manifest.parity.get("texts", 0),
            "parity": {name: head["worst"] for name, head in self.manifest.parity.get("heads", {}).items()},
            "license": self.manifest.license,
            "runtime": self.runtime.name,
            "device": self.runtime.device,
        }


def batches(encoded: Sequence[Encoded], budget: int = BATCH_TOKENS) -> list[list[int]]:
    """Row numbers grouped by length, longest first.

    A batch's rows x longest stays in the budget of padded tokens; a single row always fits.
    """
    order = sorted(range(len(encoded)), key=lambda row: -len(encoded[row].ids))
    groups: list[list[int]] = []
    for row in order:
        if groups and (len(groups[-1]) + 1) * len(encoded[groups[-1][0]].ids) <= budget:
            groups[-1].append(row)
        else:
            groups.append([row])
    return groups
