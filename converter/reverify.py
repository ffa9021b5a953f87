"""An artifact measured again, against the original that its manifest names."""

import dataclasses
import os
from pathlib import Path

from converter import card, corpus
from converter.proof.measure import Progress, check_queries, measure, prepare
from converter.recipe import Recipe, Source
from converter.source.checkpoint import described
from converter.source.open import open_source
from converter.source.settle import SETTLED
from shim import artifact
from shim.artifact import Manifest
from shim.errors import IntegrityError, SourceError, UsageError


def reverify(directory: Path, source: str | None, corpus_file: Path | None, progress: Progress) -> Manifest:
    """Measure an artifact again. With our own corpus the new figures are sealed into it; with a user's they are only returned.

    Raises IntegrityError when the artifact, or the original that `source` names, is not what the manifest lists.
    """
    manifest = artifact.read(directory)
    artifact.check_files(directory, manifest)
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
    if corpus_file is None and not os.access(directory, os.W_OK):
        raise SourceError(f"{directory}: cannot be written, and the new figures would be sealed into it")
    goal, on = float(manifest.parity.get("target", artifact.PARITY_TARGET)), manifest.parity.get("on", "worst")
    path = corpus_file or corpus.VERIFICATION
    texts, digest = corpus.judges(path, manifest.task), artifact.hash_file(path)
    check_queries(checkpoint, manifest.model, manifest.task, texts)
    witnessed = prepare(checkpoint, manifest.task, texts, progress)
    parity = measure(directory, manifest, checkpoint, texts, goal, on, witnessed, progress)
    origin = {key: manifest.source[key] for key in ("repo", "revision")}
    measured = dataclasses.replace(
        manifest,
        schema=artifact.SCHEMA,
        source={**described(checkpoint), **origin},
        model=checkpoint.spec,
        parity={**parity, "corpus_sha256": digest},
    )
    if corpus_file is None:
        artifact.write(directory, measured)
        shown, plotted = directory / "README.md", card.PLOT in manifest.files
        if shown.exists() and shown.read_text(encoding="utf-8") == card.card(manifest, plotted):  # a user's own stays
            shown.write_text(card.card(measured, plotted), encoding="utf-8")
    return measured


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
