"""The stages in order: resolve, witness, choose codes, write, seal, measure, rename; and an artifact measured again."""

import contextlib
import dataclasses
import json
from collections.abc import Collection
from pathlib import Path

from converter import companions, corpus, licenses
from converter.candidate import Candidate, Judged
from converter.card import markdown
from converter.evaluation.compare import compare
from converter.evaluation.sets import gather
from converter.job import Job, Request, resolve
from converter.packages import version
from converter.proof.measure import Progress, check_queries, measure, prepare
from converter.proof.openvino import measure_openvino, open_with_openvino
from converter.recipe import Recipe, Source
from converter.sealing import check_writable, keep, seal, seal_again
from converter.source.checkpoint import Checkpoint, described
from converter.source.open import open_source
from converter.source.settle import SETTLED
from converter.staging import empty, staged
from converter.strategy import stages, strategy
from shim import artifact, integrity
from shim.artifact import Manifest, Origin, Tool
from shim.errors import IntegrityError, NotFiniteError, UsageError
from shim.listing import hash_file
from shim.parity import Evaluation, Witness

RECORD = "quantization.json"


def convert(request: Request, progress: Progress) -> tuple[Path, Manifest]:
    """Make the artifact, prove it, and put it under its final name; its verdict may be `fail`, which the caller must show.

    Raises UsageError, SourceError or NotFiniteError; then nothing is left under the final name.
    """
    job = resolve(request)
    find = strategy(job, progress)
    for stage in stages(job):
        progress(stage, 0, 1)
    witness: Witness | None = None
    if request.verified:
        with contextlib.suppress(NotFiniteError):  # where the original gives NaN, go on: quantizing names the weight
            witness = prepare(job.checkpoint, job.recipe.task, job.verification, progress)
    with staged(job.destination, request.force) as directory:

        def judge(candidate: Candidate) -> Judged | None:
            """Make the directory this candidate's artifact, and measure it."""
            empty(directory)
            _write(job, candidate, directory, progress)
            manifest = seal(job, candidate, directory)
            if request.verified:
                parity, cosines = measure(directory, manifest, job.checkpoint, job.verification, progress)
                parity = dataclasses.replace(parity, witness=witness, corpus_sha256=job.corpus_sha256)
                manifest = keep(directory, dataclasses.replace(manifest, parity=parity), cosines)
            (directory / "README.md").write_text(markdown.of_artifact(manifest), encoding="utf-8")
            heads = manifest.parity.heads
            return Judged(manifest.verdict == "pass", job.bar.loss_of(heads)) if heads else None

        find(judge)
        manifest = artifact.read(directory)
    return job.destination, manifest


def verify(
    directory: Path,
    source: str | None,
    corpus_file: Path | None,
    progress: Progress,
    accepted: Collection[str] = (),
    runtime: str | None = None,
) -> Manifest:
    """Measure an artifact again. With our own corpus the new figures are sealed into it; with a user's they are only returned.

    accepted: the licenses that `--accept-license` names. runtime: through which, where it is not the one that the artifact was
    made for; its figures are sealed beside the others, and what is returned is `Manifest.through` it. Raises UsageError for a
    license that must be accepted and is not, and for a runtime that cannot load it, IntegrityError when the artifact, or the
    original that `source` names, is not what the manifest lists.
    """
    manifest = artifact.read(directory)
    licenses.accept(manifest, accepted)
    integrity.check_files(directory, manifest)
    further = runtime if runtime not in (None, manifest.target) else None
    if further:
        _check_current(manifest.through(further))
        open_with_openvino(directory, manifest)  # before the original is asked, which takes longer
    checkpoint = _original(manifest, source)
    if corpus_file is None:
        check_writable(directory)
    path = corpus_file or corpus.VERIFICATION
    texts, digest = corpus.judges(path, manifest.task), hash_file(path)
    texts = corpus.under_each(texts, checkpoint.spec.adapters)
    check_queries(checkpoint, manifest.model, manifest.task, texts)
    witness = prepare(checkpoint, manifest.task, texts, progress)
    if further:
        parity = measure_openvino(directory, manifest, checkpoint, texts, progress)
        parity = dataclasses.replace(parity, witness=witness, corpus_sha256=digest)
        packages = {**manifest.tool["packages"], further: version(further)}
        runtimes, tool = {**(manifest.runtimes or {}), further: parity}, Tool({**manifest.tool, "packages": packages})
        measured = dataclasses.replace(manifest, runtimes=runtimes, tool=tool)
        return (measured if corpus_file else seal_again(directory, manifest, measured)).through(further)
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
    return measured if corpus_file else seal_again(directory, manifest, measured, cosines)


def evaluate(
    directory: Path, source: str | None, pairs: tuple[Path, ...], folders: tuple[Path, ...], nano: bool, progress: Progress
) -> tuple[Manifest, list[Evaluation]]:
    """The artifact's figures on data sets beside its original's, sealed into it; those of the same sets before are replaced.

    pairs, folders, nano: see `evaluation.sets.gather`. Raises IntegrityError as `verify` does.
    """
    manifest = artifact.read(directory)
    integrity.check_files(directory, manifest)
    _check_current(manifest)
    check_writable(directory)
    sets = gather(manifest.task, pairs, folders, nano)
    found = compare(directory, manifest, _original(manifest, source), sets, progress)
    names = {each.set for each in found}
    kept = [each for each in manifest.parity.evaluation or () if each.set not in names]
    evaluated = dataclasses.replace(manifest, parity=dataclasses.replace(manifest.parity, evaluation=kept + found))
    seal_again(directory, manifest, evaluated)
    return evaluated, found


def _check_current(manifest: Manifest) -> None:
    if manifest.schema == artifact.UNWITNESSED:
        raise UsageError(f"{manifest.name} is of an older version; `convert verify` brings it up to date first")


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


def _write(job: Job, candidate: Candidate, directory: Path, progress: Progress) -> None:
    count, total = 0, len(job.checkpoint.tensors)

    def done() -> None:
        nonlocal count
        count += 1
        progress("convert", min(count, total), total)

    job.target.write(job.recipe, job.checkpoint, candidate, job.bits, directory, done)
    if candidate.record:
        text = json.dumps(candidate.record, indent=1, allow_nan=False)
        (directory / RECORD).write_text(text + "\n", encoding="utf-8")
    companions.write(job.checkpoint, directory)
    progress("convert", total, total)  # some tensors are written as one


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
