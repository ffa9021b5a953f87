"""Sealing: the manifest of what a directory holds, written when it is made and whenever it is measured again."""

import dataclasses
import json
import os
import platform
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import numpy as np

import shim
from converter import licenses
from converter.candidate import Candidate
from converter.card import markdown
from converter.job import Job, settings
from converter.packages import version
from converter.proof.measure import Cosines
from converter.source.checkpoint import described
from converter.source.tensors import FLOATS
from shim import artifact
from shim.artifact import Manifest, Quantization, Source, Stored
from shim.errors import IntegrityError, SourceError
from shim.listing import entry_of, hash_files
from shim.parity import Parity

PACKAGES = ("torch", "transformers", "mlx", "onnxruntime", "onnx-ir", "tokenizers", "numpy")
COSINES = "cosines.json"


def seal(job: Job, candidate: Candidate, directory: Path) -> Manifest:
    """The manifest of what is in the directory, not yet measured, written there."""
    manifest = Manifest(
        schema=artifact.SCHEMA,
        name=job.name,
        recipe=job.recipe.name,
        task=job.recipe.task,
        target=job.request.target,
        bits=job.bits,
        source=_source(job),
        model=job.recipe.model,
        quantization=_quantization(job, candidate, directory),
        files=hash_files(directory),
        parity=Parity(verdict="unverified", target=job.bar.cosine, on=job.bar.on),
        tool={
            "version": shim.__version__,
            "packages": _packages(),
            "settings": settings(job.request),
            "command": job.command,
        },
        license=job.recipe.license,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    artifact.write(directory, manifest)
    return manifest


def keep(directory: Path, manifest: Manifest, cosines: Cosines) -> Manifest:
    """Write the cosines, and the manifest that lists them; the two take their names one right after the other."""
    content = json.dumps(cosines, allow_nan=False, separators=(",", ":")) + "\n"
    beside, path = directory / f".{COSINES}", directory / COSINES
    try:
        beside.write_text(content, encoding="utf-8")
        entry = entry_of(beside)
        manifest = dataclasses.replace(manifest, files=dict(sorted({**manifest.files, COSINES: entry}.items())))
        beside.replace(path)
    except OSError as error:
        raise SourceError(f"{path}: cannot be written ({error.strerror})") from None
    artifact.write(directory, manifest)
    return manifest


def seal_again(directory: Path, before: Manifest, after: Manifest, cosines: Cosines | None = None) -> Manifest:
    """Write the manifest, new cosines, and the model card where it is ours; a user's own stays. What was written.

    Raises IntegrityError where the artifact is not the one any more that was measured.
    """
    if artifact.read(directory) != before:
        raise IntegrityError(f"{directory} was changed meanwhile; nothing was recorded")
    if cosines is None:
        artifact.write(directory, after)
    else:
        after = keep(directory, after, cosines)
    shown = directory / "README.md"
    if shown.exists() and shown.read_text(encoding="utf-8") == markdown.of_artifact(before):
        shown.write_text(markdown.of_artifact(after), encoding="utf-8")
    return after


def check_writable(directory: Path) -> None:
    """Raise SourceError where new figures could not be sealed into it."""
    if not os.access(directory, os.W_OK):
        raise SourceError(f"{directory}: cannot be written, and the new figures would be sealed into it")


def _source(job: Job) -> Source:
    """What the manifest records of the original: its files, its license, and the repository that a package stands for."""
    recipe, found = job.recipe, described(job.checkpoint)
    if found["repo"] == f"pkg:{recipe.source.package}":
        found["base_model"] = recipe.source.repo
    return {**found, **licenses.terms(recipe.license, recipe.license_link)}


def _quantization(job: Job, candidate: Candidate, directory: Path) -> Quantization:
    weights = [path for pattern in ("*.safetensors", "onnx/*") for path in directory.glob(pattern)]
    tensors = job.checkpoint.tensors.values()
    count = sum(int(np.prod(tensor.shape)) for tensor in tensors)
    original = sum(np.prod(tensor.shape) * np.dtype(FLOATS[tensor.type]).itemsize for tensor in tensors)
    plain = {name: Stored(bits=scheme.bits, group_size=scheme.group_size) for name, scheme in candidate.plan.items()}
    return {
        "bits_per_weight": round(8 * sum(path.stat().st_size for path in weights) / count, 3),
        "original_bits_per_weight": round(8 * float(original) / count, 3),
        "tensors": candidate.integers.describe() if candidate.integers else plain,
    }


def _packages() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
