"""Build a directory beside its destination and rename it in one step: nothing half-made ever has the final name."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from shim.errors import SourceError, UsageError


def check_destination(destination: Path, force: bool) -> None:
    """Raise UsageError when something is there already and must be kept."""
    if destination.exists() and not force:
        raise UsageError(f"{destination} exists; --force replaces it")
    if destination.exists() and not (destination / "artifact.json").exists():
        raise UsageError(f"{destination} exists and is not an artifact; it is kept even with --force")


@contextmanager
def staged(destination: Path, force: bool) -> Iterator[Path]:
    """A new directory that takes the name `destination` when the block ends well, and is removed when it does not.

    Raises UsageError for an existing destination without `force`, SourceError when the disk cannot be written.
    """
    check_destination(destination, force)
    with scratch(destination) as directory:
        try:
            yield directory
            directory.chmod(0o777 & ~_umask())
            _swap(directory, destination, force)
        except OSError as error:
            if error.filename and not Path(error.filename).is_relative_to(directory):
                raise SourceError(f"{error.filename}: {error.strerror}; {destination} was not made") from error
            raise SourceError(
                f"{destination}: cannot be written ({error.strerror or error}); nothing was left there"
            ) from error


@contextmanager
def scratch(destination: Path) -> Iterator[Path]:
    """A new directory beside `destination`, removed when the block ends; what a killed run left beside it goes, too.

    Raises SourceError when the disk cannot be written.
    """
    try:
        destination.parent.mkdir(parents=True, exist_ok=True)
        _sweep(destination)
        prefix = f".{destination.name}.partial-{os.getpid()}-"
        directory = Path(tempfile.mkdtemp(dir=destination.parent, prefix=prefix))
    except OSError as error:
        raise SourceError(f"{destination.parent}: cannot be written ({error.strerror})") from None
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def empty(directory: Path) -> None:
    """Remove what is in it, for the next attempt."""
    for path in directory.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def _sweep(destination: Path) -> None:
    """Remove what a killed run left: partial folders whose process is gone."""
    for left in destination.parent.glob(f".{destination.name}.partial-*-*"):
        pid = left.name.split(".partial-")[1].split("-")[0]
        if pid.isdigit() and not _alive(int(pid)):
            shutil.rmtree(left, ignore_errors=True)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _swap(directory: Path, destination: Path, force: bool) -> None:
    """Rename; an old artifact steps aside first and is removed only when the new one stands."""
    old = directory.with_name(directory.name + ".old")
    check_destination(destination, force)  # another run may have finished meanwhile
    try:
        if destination.exists():
            destination.rename(old)
        directory.rename(destination)
    except BaseException:  # Ctrl-C as well
        if old.exists() and not destination.exists():
            old.rename(destination)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
