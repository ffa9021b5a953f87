"""A run on this machine: find the files, load, refuse what does not fit, skip what is there, embed the rest."""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from shim.bulk.inputs import Input, absolute, find
from shim.bulk.progress import Progress
from shim.bulk.reader import check_lines
from shim.bulk.request import Request
from shim.bulk.shards import Folder, Shard, orphans, shards
from shim.bulk.workers import Loaded, Workers
from shim.errors import UsageError
from shim.jsons import JsonObject
from shim.runtimes.cores import memory, own

SPARE = 1.5  # times what a process takes once loaded, and this beside: what its batches and a shard's rows take
BESIDE = 300_000_000  # bytes
LOCK = ".lock"


def run(request: Request, processes: int | None) -> Progress:
    """Embed what is not there yet; returns the counts.

    processes: how many; None for as many as cores and memory allow, and one for a GPU.
    Raises UsageError for settings and inputs that cannot be meant and for a folder with vectors of another run, what
    `shim.load` raises, SourceError for files that cannot be read or written.
    """
    inputs = find(request.inputs, request.out)
    check_lines(inputs, request)
    request = replace(request, inputs=tuple(map(absolute, request.inputs)))
    folder = Folder(request.out)
    cores = own()
    progress = Progress({input.name: input.size for input in inputs})
    with alone(folder), Workers() as workers:
        first = workers.start(request, cores[:1] if processes is None else shares(cores, processes)[0])
        loaded = workers.loaded(first)
        identity = run_identity(request, loaded.identity)
        there = folder.manifests(identity)
        count = processes or affordable(loaded, len(cores))
        parts = shares(cores, count)
        if first.cores != parts[0]:  # loaded for one core, and each can have more
            first.end()
            workers.all.clear()
            workers.start(request.at(loaded.revision), parts[0])
        for part in parts[1:]:
            workers.start(request.at(loaded.revision), part)
        for worker in workers.all:
            workers.loaded(worker)
        progress.begin()
        try:
            for news in workers.embed(missing(inputs, request, folder, there, progress.skip), identity):
                if news is not None:
                    shard, written = news
                    progress.add(shard.input, shard.rows.read, written)
                progress.show()
            progress.orphans = orphans(inputs, there)
        finally:
            progress.close()
    return progress


def missing(
    inputs: list[Input],
    request: Request,
    folder: Folder,
    there: Mapping[str, JsonObject],
    skip: Callable[[str, float, int, int], None],
) -> Iterator[Shard]:
    """The shards of all inputs that are not there, or of rows that have changed; `skip` is told of the others.

    Those that a file had beyond its end of now are removed when that is read.
    """
    for input in inputs:
        count = 0
        for shard in shards(input, request):
            count += 1
            before = there.get(shard.name, {})
            rejected = int(str(before.get("rejected", 0)))
            if before.get("rows") != shard.digest or (rejected and request.strict):  # it says again what it stops at
                yield shard
            else:
                skip(shard.input, shard.rows.read, len(shard.rows.texts) - rejected, rejected)
        folder.remove_beyond(input, count, there)


def run_identity(request: Request, embedder: JsonObject) -> JsonObject:
    """What all shards of a folder have in common."""
    return {**embedder, **request.identity}


def shares(cores: list[int], count: int) -> list[list[int]]:
    """The cores of each of so many processes; where they are more than the cores, some share one."""
    each = max(1, len(cores) // count)
    return [[cores[(place * each + offset) % len(cores)] for offset in range(each)] for place in range(count)]


def affordable(loaded: Loaded, cores: int) -> int:
    """How many processes memory has room for, the one that is there included, and at most one a core; one for a GPU."""
    if loaded.device != "cpu":
        return 1
    each = SPARE * loaded.memory + BESIDE
    return max(1, min(cores, int((memory() + loaded.memory) / each)))


@contextlib.contextmanager
def alone(folder: Folder) -> Iterator[None]:
    """Have a folder of this machine for this run alone, without what killed ones left. Raises UsageError where it is taken."""
    if not folder.local:
        yield
        return
    import fcntl  # not on Windows

    path = Path(folder.root) / LOCK
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UsageError(f"{folder.path}: another run is writing to it") from None
        folder.litter()
        try:
            yield
        finally:
            folder.litter()
