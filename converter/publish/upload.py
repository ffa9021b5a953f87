"""From sealed artifacts to a commit of the hub: one, whole or not at all, and none where nothing changes."""

import os
import re
from dataclasses import dataclass
from pathlib import Path

from converter import cache, staging
from converter.licenses import check_license
from converter.publish import repository as manifests
from converter.publish.hub import Hub, Progress, State, repository_id
from converter.publish.layout import CONFIG, Kept, build
from converter.publish.plan import local, message, plan
from converter.publish.repository import CARD, Repository
from converter.publish.sealed import Sealed, check, gather, keep
from converter.publish.signature import public_key, sign
from shim.errors import IntegrityError, UsageError
from shim.listing import MANIFEST, SIGNATURE, hash_file

BRANCH = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)*", re.ASCII)


@dataclass(frozen=True)
class Request:
    """What to publish, and where.

    org, name: of the repository; by default it has the MLX artifact's name, or RECIPE-onnx. revision: the branch, made when
    missing. private: of a repository that is made. collection: the title of one that the repository is put into.
    replace: precisions that are not given go, and files that nobody published with this program are written over.
    sign: the PEM file of a private key, which signs the manifest. accept_license: those that may forbid commercial use.
    """

    artifacts: list[Path]
    org: str
    name: str | None = None
    private: bool = False
    revision: str | None = None
    create_pr: bool = False
    collection: str | None = None
    allow_unverified: bool = False
    replace: bool = False
    sign: Path | None = None
    accept_license: tuple[str, ...] = ()


@dataclass(frozen=True)
class Outcome:
    """What was done, or would be. sent: bytes by path. commit: None where nothing changed, and of a dry run."""

    repository: str
    url: str
    revision: str
    precisions: dict[str, str]  # verdicts
    default: str
    sent: dict[str, int]
    deleted: list[str]
    commit: str | None = None
    pull_request: str | None = None
    collection: str | None = None


def dry_run(request: Request, out: Path | None) -> tuple[Path, Outcome]:
    """Write the whole repository into a folder, ./NAME unless `out`, without the hub; what an empty one would be sent.

    Raises UsageError where the folder is there already, and what `publish` raises of artifacts.
    """
    artifacts, id = _artifacts(request)
    directory = out or Path(id.split("/")[1])
    if directory.exists():
        raise UsageError(f"{directory} exists; --out DIR takes another folder")
    check(artifacts)
    with staging.staged(directory, force=False) as folder:
        made = build(artifacts, folder, id)
        if request.sign:
            sign(folder, request.sign)
        sizes = {name: (folder / name).stat().st_size for name in local(folder, made)}
    return directory, _outcome(made, "", request, sizes, [])


def publish(request: Request, progress: Progress, bars: bool = False) -> Outcome:
    """Send what the hub has not, then make one commit of all changes. What an interrupted run has sent is not sent again.

    Precisions that the repository has and that are not given stay, where they are of the same original. bars: of single files.
    Raises IntegrityError for an artifact that is not whole or not sealed, UsageError for artifacts that do not fit together or
    to what is there, SourceError where the hub cannot be reached, refuses, or fails.
    """
    artifacts, id = _artifacts(request)
    hub = Hub(id, request.revision or "main", bars)
    check(artifacts)
    state = hub.state()
    if state and request.private and not state.private:
        raise UsageError(f"{id} is there and public; --private is for a repository that is made")
    before = _published(hub, state)
    kept = _kept(hub, state, before, artifacts, request.replace)
    here = artifacts[0].path.resolve().parent
    with staging.scratch((here if os.access(here, os.W_OK) else cache.folder()) / id.replace("/", "--")) as folder:
        made = build(artifacts, folder, id, kept)
        if request.sign:
            sign(folder, request.sign, _signed(hub, state))
        state = hub.prepared(state, request.private)
        changes = plan(folder, made, before, state)
        sizes = {name: (folder / name).stat().st_size for name in changes.send}
        outcome = _outcome(made, hub.url, request, sizes, changes.delete)
        commit = None
        if not changes.empty:
            words = message(made, before, changes, state.files)
            commit = hub.commit(folder, changes, words, state.commit, request.create_pr, progress)
    collection = hub.collect(request.collection, request.private) if request.collection else None
    done = {"commit": commit.id, "pull_request": commit.pull_request} if commit else {}
    return Outcome(**{**vars(outcome), **done, "collection": collection})


def _signed(hub: Hub, state: State | None) -> Path | None:
    """The signature that is there."""
    return hub.fetch([SIGNATURE], state.commit) / SIGNATURE if state and SIGNATURE in state.files else None


def _artifacts(request: Request) -> tuple[list[Sealed], str]:
    """The artifacts, whose files are still to be checked, and ORG/NAME."""
    if request.revision is not None and (not BRANCH.fullmatch(request.revision) or ".." in request.revision):
        raise UsageError(f"--revision {request.revision!r} is not a branch's name")
    if request.sign:
        public_key(request.sign)
    artifacts = gather(request.artifacts, request.allow_unverified)
    first = artifacts[0].manifest
    check_license(first, request.accept_license)
    default = f"{first.recipe}-onnx" if first.target == "onnx" else first.name
    return artifacts, repository_id(request.org, request.name or default)


def _published(hub: Hub, state: State | None) -> Repository | None:
    """What this program published there before."""
    if state is None or MANIFEST not in state.files:
        return None
    try:
        return manifests.read(hub.fetch([MANIFEST], state.commit) / MANIFEST, hub.id)
    except IntegrityError:
        return None


def _kept(hub: Hub, state: State | None, before: Repository | None, artifacts: list[Sealed], replace: bool) -> Kept | None:
    """What stays of what is there. Raises UsageError where that cannot be and nobody said that it may go."""
    others = [name for name in (state.files if state else ()) if name != CARD and not name.startswith(".")]
    if state is None or replace or not others:
        return None
    if before is None:
        shown = ", ".join(others[:3]) + (", …" if len(others) > 3 else "")
        raise UsageError(f"{hub.id} has files of others ({shown}); --name takes another, --replace writes over them")
    precisions = keep(before, artifacts)
    if not precisions:
        return None
    listed = {name: entry for manifest in precisions.values() for name, entry in manifest.files.items()}
    listed |= {name: entry for name, entry in before.files.items() if name.startswith("onnx/")}
    own = [name for name in listed if name.startswith(("onnx/", "assets/"))]
    if absent := [name for name in (*own, CONFIG) if name not in state.files]:
        raise IntegrityError(f"{hub.id}: {absent[0]} is missing there; give its artifact too, or --replace")
    small = [name for name in own if state.files[name].sha256 is None or name.startswith("assets/")]
    folder = hub.fetch([CONFIG, *small], state.commit)
    for name in own:
        found = hash_file(folder / name) if name in small else state.files[name].sha256
        if found != listed[name]["sha256"]:
            raise IntegrityError(f"{hub.id}: {name} differs from its artifact.json; give its artifact too, or --replace")
    return Kept(precisions, before.files, folder)


def _outcome(made: Repository, url: str, request: Request, sent: dict[str, int], deleted: list[str]) -> Outcome:
    verdicts = {key: manifest.verdict for key, manifest in made.precisions.items()}
    return Outcome(made.id, url, request.revision or "main", verdicts, made.default, sent, deleted)
