"""An artifact's files while they are loaded: what is opened is what was hashed, and nothing else of the folder is there."""

import contextlib
import ctypes
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from io import BufferedReader
from pathlib import Path

from shim.errors import SealportError, SourceError
from shim.listing import File, FileError, check_content, open_file

DESCRIPTORS = Path("/proc/self/fd")  # of Linux: a link to one of these leads to the open file, whatever took its name since
SHARED = Path("/dev/shm")  # where a container whose disk is read-only can still have a folder
folders: set[str] = set()  # private ones that there are now
TICK = 20_000_000  # nanoseconds: two changes of a file that are closer may have one time


class ChangedError(FileError):
    """A file was written to, or had its names changed, while it was loaded."""


@contextlib.contextmanager
def held(directory: Path, files: Mapping[str, File], hashed: bool = True, links: bool = True) -> Iterator[Path]:
    """A folder that has these files of `directory` and no others, each with the content that its hash is of.

    They are links to files that are held open until the block ends, or where the system has no such links, copies. Errors that
    leave the block name `directory` in place of the folder.
    hashed: False takes the files as they are, and leaves out what is missing. links: False for who follows them out of the
    folder and then refuses what is there.
    Raises FileError for a file that is missing or not what is listed, ChangedError for one that was written to before the
    block ended: any change moves a time that only the system sets.
    """
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(private_folder())
        names = [name for name in files if hashed or (directory / name).is_file()]
        opened = {name: stack.enter_context(open_file(directory, name)) for name in names}
        before = {name: _state(file) for name, file in opened.items()}
        if any(abs(time.time_ns() - changed) < TICK for *_, changed in before.values()):
            time.sleep(TICK / 1e9)  # the next change has another time
        for name, file in opened.items():
            target = folder / name
            _lead(target, file, links)
            if hashed:
                with target.open("rb") as content:
                    check_content(content, directory, name, files[name])
        try:
            yield folder
        except SealportError as error:
            error.args = (str(error).replace(str(folder), str(directory)),)
            raise
        for name, file in opened.items():
            if _state(file) != before[name]:
                raise ChangedError(f"{directory}: {name} was changed while it was loaded; load it again")


@contextlib.contextmanager
def private_folder() -> Iterator[Path]:
    """A new folder that nobody else may write to, removed at the end."""
    try:
        folder = tempfile.mkdtemp(prefix="sealport-")
    except OSError:
        try:
            folder = tempfile.mkdtemp(prefix="sealport-", dir=SHARED)
        except OSError as error:
            raise SourceError(f"no folder for temporary files ({error.strerror}); set TMPDIR") from None
    folders.add(folder)
    try:
        yield Path(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        folders.discard(folder)


def remove_folders() -> None:
    """Remove all private folders that there are, as the process ends while other threads load."""
    for folder in tuple(folders):
        shutil.rmtree(folder, ignore_errors=True)


def _state(file: BufferedReader) -> tuple[int, int, int]:
    """Size, and times of the last change of content and of anything, in nanoseconds."""
    found = os.fstat(file.fileno())
    return found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _lead(target: Path, file: BufferedReader, links: bool) -> None:
    """Have the path `target` lead to what is open, or to a copy of it."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        if links and DESCRIPTORS.is_dir():
            target.symlink_to(DESCRIPTORS / str(file.fileno()))
        elif not _cloned(target, file):
            with target.open("xb") as copy:
                shutil.copyfileobj(file, copy)
    except OSError as error:
        raise SourceError(f"{target}: cannot be written ({error.strerror})") from None


def _cloned(target: Path, file: BufferedReader) -> bool:
    """Whether macOS could make a copy that takes no time and no space, as it can on one disk: man fclonefileat."""
    if sys.platform != "darwin":
        return False
    here = -2  # AT_FDCWD: a path as it is
    return ctypes.CDLL(None).fclonefileat(file.fileno(), here, os.fsencode(target), 0) == 0
