"""The stages in order: resolve, witness, choose codes, write, seal, measure, rename; and an artifact measured again."""

import contextlib
import dataclasses
import importlib.metadata
import json
import os
import platform
from collections.abc import Collection
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

import shim
from converter import companions, corpus, licenses
from converter.candidate import Candidate, Judged
from converter.card import markdown
from converter.evaluation.compare import compare
from converter.evaluation.sets import gather
from converter.job import Job, Request, resolve, settings
from converter.proof.measure import Cosines, Progress, check_queries, measure, prepare
from converter.recipe import Recipe, Source
from converter.source.checkpoint import Checkpoint, described
from converter.source.open import open_source
from converter.source.settle import SETTLED
from converter.staging import empty, staged
from converter.strategy import strategy
from shim import artifact
from shim.artifact import File, Manifest, Origin, Quantization, Stored
from shim.errors import IntegrityError, NotFiniteError, SourceError, UsageError
from shim.parity import Evaluation, Parity, Witness

PACKAGES = ("torch", "transformers", "mlx", "onnxruntime", "onnx-ir", "tokenizers", "numpy")
RECORD = "quantization.json"
COSINES = "cosines.json"


def convert(request: Request, progress: Progress) -> tuple[Path, Manifest]:
    """Make the artifact, prove it, and put it under its final name; its verdict may be `fail`, which the caller must show.

    Raises UsageError, SourceError or NotFiniteError; then nothing is left under the final name.
    """
    job = resolve(request)
    find = strategy(job, progress)
    witness: Witness | None = None
    if request.verified:
        with contextlib.suppress(NotFiniteError):  # kept while memory is free; whoever quantizes names a weight that is NaN
            witness = prepare(job.checkpoint, job.recipe.task, job.verification, progress)
    with staged(job.destination, request.force) as directory:

        def judge(candidate: Candidate) -> Judged | None:
            """Make the directory this candidate's artifact, and measure it."""
            empty(directory)
            _write(job, candidate, directory, progress)
            manifest = _seal(job, candidate, directory)
            if request.verified:
                parity, cosines = measure(directory, manifest, job.checkpoint, job.verification, progress)
                parity = dataclasses.replace(parity, witness=witness, corpus_sha256=job.corpus_sha256)
                manifest = _keep(directory, dataclasses.replace(manifest, parity=parity), cosines)
            (directory / "README.md").write_text(markdown.of_artifact(manifest), encoding="utf-8")
            heads = manifest.parity.heads
            return Judged(manifest.verdict == "pass", job.bar.loss_of(heads)) if heads else None

        find(judge)
        manifest = artifact.read(directory)
    return job.destination, manifest


def verify(
    directory: Path, source: str | None, corpus_file: Path | None, progress: Progress, accepted: Collection[str] = ()
) -> Manifest:
    """Measure an artifact again. With our own corpus the new figures are sealed into it; with a user's they are only returned.

    accepted: the licenses that `--accept-license` names. Raises UsageError for a license that must be accepted and is not,
    IntegrityError when the artifact, or the original that `source` names, is not what the manifest lists.
    """
    manifest = artifact.read(directory)
    licenses.accept(manifest, accepted)
    artifact.check_files(directory, manifest)
    checkpoint = _original(manifest, source)
    if corpus_file is None:
        _check_writable(directory)
    path = corpus_file or corpus.VERIFICATION
    texts, digest = corpus.judges(path, manifest.task), artifact.hash_file(path)
    check_queries(checkpoint, manifest.model, manifest.task, texts)
    witness = prepare(checkpoint, manifest.task, texts, progress)
    parity, cosines = measure(directory, manifest, checkpoint, texts, progress)
    kept = manifest.parity.evaluation  # the files are those that it was measured on
    origin = Origin(repo=manifest.source["repo"], revision=manifest.source["revision"])
    measured = dataclasses.replace(
        manifest,
        schema=artifact.SCHEMA,
        source={**manifest.source, **described(checkpoint), **origin},
        model=checkpoint.spec,
        parity=dataclasses.replace(parity, witness=witness, corpus_sha256=digest, evaluation=kept),
    )
    return measured if corpus_file else _seal_again(directory, manifest, measured, cosines)


def evaluate(
    directory: Path, source: str | None, pairs: tuple[Path, ...], folders: tuple[Path, ...], nano: bool, progress: Progress
) -> tuple[Manifest, list[Evaluation]]:
    """The artifact's figures on data sets beside its original's, sealed into it; those of the same sets before are replaced.

    pairs, folders, nano: see `evaluation.sets.gather`. Raises IntegrityError as `verify` does.
    """
    manifest = artifact.read(directory)
    artifact.check_files(directory, manifest)
    if manifest.schema == artifact.UNWITNESSED:
        raise UsageError(f"{manifest.name} is of an older version; `convert verify` brings it up to date first")
    _check_writable(directory)
    sets = gather(manifest.task, pairs, folders, nano)
    found = compare(directory, manifest, _original(manifest, source), sets, progress)
    names = {each.set for each in found}
    kept = [each for each in manifest.parity.evaluation or () if each.set not in names]
    evaluated = dataclasses.replace(manifest, parity=dataclasses.replace(manifest.parity, evaluation=kept + found))
    _seal_again(directory, manifest, evaluated)
    return evaluated, found


def _original(manifest: Manifest, source: str | None) -> Checkpoint:
    """The original that the artifact was converted from. Raises IntegrityError where `source` is another one."""
    try:
        checkpoint = open_source(_recipe(manifest), source or _origin(manifest))
    except UsageError as error:
        if str(manifest.source["repo"]).startswith("dir:") and source is None:
            raise
        raise IntegrityError(f"{manifest.name}: the original is not the one it was converted from ({error})") from None
    old, listed = manifest.schema == artifact.UNWITNESSED, manifest.source["files"]
    if {name: checkpoint.files.get(name) for name in listed} != listed or (
        not old and checkpoint.files.keys() != listed.keys()
    ):
        raise IntegrityError(f"{manifest.name}: the files in {checkpoint.directory} are not the ones it was converted from")
    if checkpoint.spec.modules != manifest.model.modules:
        raise IntegrityError(f"{manifest.name}: converted with other modules than its original has; convert it again")
    return checkpoint


def _check_writable(directory: Path) -> None:
    if not os.access(directory, os.W_OK):
        raise SourceError(f"{directory}: cannot be written, and the new figures would be sealed into it")


def _seal_again(directory: Path, before: Manifest, after: Manifest, cosines: Cosines | None = None) -> Manifest:
    """Write the manifest, new cosines, and the model card where it is ours; a user's own stays. What was written.

    Raises IntegrityError where the artifact is not the one any more that was measured.
    """
    if artifact.read(directory) != before:
        raise IntegrityError(f"{directory} was changed meanwhile; nothing was recorded")
    if cosines is None:
        artifact.write(directory, after)
    else:
        after = _keep(directory, after, cosines)
    shown = directory / "README.md"
    if shown.exists() and shown.read_text(encoding="utf-8") == markdown.of_artifact(before):
        shown.write_text(markdown.of_artifact(after), encoding="utf-8")
    return after


def _write(job: Job, candidate: Candidate, directory: Path, progress: Progress) -> None:
    count = 0

    def done() -> None:
        nonlocal count
        count += 1
        progress("convert", count, len(job.checkpoint.tensors))

    job.target.write(job.recipe, job.checkpoint, candidate, job.bits, directory, done)
    if candidate.record:
        text = json.dumps(candidate.record, indent=1, allow_nan=False)
        (directory / RECORD).write_text(text + "\n", encoding="utf-8")
    companions.write(job.checkpoint, directory)


def _seal(job: Job, candidate: Candidate, directory: Path) -> Manifest:
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
        files=artifact.hash_files(directory),
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


def _keep(directory: Path, manifest: Manifest, cosines: Cosines) -> Manifest:
    """Write the cosines, and the manifest that lists them; the two take their names one right after the other."""
    content = json.dumps(cosines, allow_nan=False, separators=(",", ":")) + "\n"
    beside, path = directory / f".{COSINES}", directory / COSINES
    try:
        beside.write_text(content, encoding="utf-8")
        entry = File(sha256=artifact.hash_file(beside), size=beside.stat().st_size)
        manifest = dataclasses.replace(manifest, files=dict(sorted({**manifest.files, COSINES: entry}.items())))
        beside.replace(path)
    except OSError as error:
        raise SourceError(f"{path}: cannot be written ({error.strerror})") from None
    artifact.write(directory, manifest)
    return manifest


def _source(job: Job) -> artifact.Source:
    """What the manifest records of the original: its files, its license, and the repository that a package stands for."""
    recipe, found = job.recipe, described(job.checkpoint)
    if found["repo"] == f"pkg:{recipe.source.package}":
        found["base_model"] = recipe.source.repo
    return {**found, **licenses.terms(recipe.license, recipe.license_link)}


def _quantization(job: Job, candidate: Candidate, directory: Path) -> Quantization:
    weights = [path for pattern in ("*.safetensors", "onnx/*") for path in directory.glob(pattern)]
    count = sum(int(np.prod(tensor.shape)) for tensor in job.checkpoint.tensors.values())
    plain = {name: Stored(bits=scheme.bits, group_size=scheme.group_size) for name, scheme in candidate.plan.items()}
    return {
        "bits_per_weight": round(8 * sum(path.stat().st_size for path in weights) / count, 3),
        "tensors": candidate.integers.describe() if candidate.integers else plain,
    }


def _packages() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _recipe(manifest: Manifest) -> Recipe:
    repo, revision = manifest.source["repo"], manifest.source["revision"]
    known = SETTLED if manifest.schema != artifact.UNWITNESSED else tuple(key for key in SETTLED if key not in artifact.SINCE)
    return Recipe(
        name=manifest.recipe,
        task=manifest.task,
        architecture=manifest.model.architecture,
        license=manifest.license,
        source=Source(repo, revision),
        model=manifest.model,
        stated=frozenset(known),
        overrides=manifest.source.get("overrides", {}),
    )


def _origin(manifest: Manifest) -> str | None:
    """Where the manifest says the original was; a directory has no lasting name, so --source must give it."""
    repo = str(manifest.source["repo"])
    if repo.startswith("pkg:"):
        return repo
    if repo.startswith("dir:"):
        raise UsageError(f"{manifest.name} was converted from a directory; give it with --source DIR")
    return None
