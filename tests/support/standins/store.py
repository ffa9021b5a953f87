"""Where the stand-ins lie: each is made once, for all processes, under a name with its version."""

import contextlib
import fcntl
import hashlib
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from converter import cache
from support.standins import catalog
from support.standins import full as full_size

VERSION = 4  # of what is made: those of another version are not used; raise it when tests/support/standins makes something else
HUB = Path(__file__).resolve().parents[4] / "shared/hub"


def stored(name: str, size: str, out: Path | None = None) -> Path:
    """The directory of a stand-in, which is made if it is not there. `size`: tiny or full. `out`: its place, if not the cache.

    Raises RuntimeError where it is not good enough, FileNotFoundError where HUB has not the real files of a full one.
    """
    folder = cache.folder().resolve() / "standin" / size
    folder.mkdir(parents=True, exist_ok=True)
    if size == "tiny":
        key, build = str(VERSION), tiny(name, folder, str(VERSION))
    else:
        hub = HUB / catalog.MODELS[name].repo
        if not hub.is_dir():
            raise FileNotFoundError(f"{hub} is missing: the full size takes the real repository's files from it")
        key = f"{VERSION}-{digest_of(sorted(path for path in hub.rglob('*') if path.is_file()))}"
        build = full(name, hub)
    return made(out or folder / f"{name}-{key}", build)


def progress(message: str) -> None:
    """One line on stderr; stdout holds the directory only."""
    print(f"standin: {message}", file=sys.stderr, flush=True)


def digest_of(paths: list[Path]) -> str:
    """Twelve hexadecimal digits that change with the content of any of the files."""
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:12]


@contextlib.contextmanager
def locked(place: Path) -> Iterator[None]:
    """One builder of a place at a time: a second one finds what the first has made."""
    with (cache.folder().resolve() / "standin" / f"{place.name}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def made(place: Path, build: Callable[[Path], None]) -> Path:
    """`place`, after `build` has filled it unless it is there: built under another name, renamed once complete."""
    if place.exists():
        return place
    with locked(place):
        if place.exists():
            return place
        begun, building = time.monotonic(), place.with_name(f".{place.name}.building")
        shutil.rmtree(building, ignore_errors=True)
        building.mkdir(parents=True)
        try:
            build(building)
        except BaseException:
            shutil.rmtree(building, ignore_errors=True)
            raise
        building.rename(place)
        progress(f"{place.name} made in {time.monotonic() - begun:.0f} s")
    return place


def tiny(name: str, folder: Path, key: str) -> Callable[[Path], None]:
    """What fills a directory with the small model; families that it needs and that are not there are trained first."""

    def family(wanted: str) -> Path:
        parent = catalog.parent(wanted)
        directory = family(parent) if parent else None
        return made(folder / f"family-{wanted}-{key}", lambda place: catalog.build_family(wanted, place, directory, progress))

    return lambda place: catalog.build(name, place, family, progress)


def full(name: str, hub: Path) -> Callable[[Path], None]:
    """What fills a directory with the full-size model."""
    return lambda place: full_size.build(catalog.MODELS[name], hub, place, progress)
