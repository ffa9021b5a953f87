"""Processes of this machine that embed shards: fed one at a time, started anew when killed, gone when their parent is."""

import contextlib
import multiprocessing
import os
import pickle
import resource
import signal
import sys
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess

from shim.bulk.embedder import Embedder
from shim.bulk.request import Request
from shim.bulk.shards import Folder, Shard, Written
from shim.errors import SealportError
from shim.jsons import JsonObject

TRIES = 5  # processes that may die over one shard, or while they load, until it is taken for their killer
TICK = 0.5  # seconds without news after which whoever waits gets a chance to show progress
SPAWN = multiprocessing.get_context("spawn")  # a fork would copy the threads' locks of the libraries here


@dataclass(frozen=True)
class Loaded:
    """What a process says once it has loaded the artifact. memory: bytes that it took, at most; device: see `Runtime`."""

    identity: JsonObject
    revision: str | None
    device: str
    memory: int


class DiedError(SealportError):
    """A process died over and over at the same work."""


class Worker:
    """One process, and what it has to do: nothing where `shard` is None. ready: what it loaded, once it did."""

    def __init__(self, request: Request, cores: list[int]):
        self.request, self.cores = request, cores
        self.deaths = 0
        self.ready: Loaded | None = None
        self.shard: Shard | None = None
        self._start()

    def _start(self) -> None:
        self.connection, theirs = SPAWN.Pipe()
        self.process: BaseProcess = SPAWN.Process(target=serve, args=(theirs, self.request, self.cores), daemon=True)
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # it inherits that: Ctrl-C goes to all, we decide
        self.process.start()
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        theirs.close()

    def give(self, shard: Shard, run: JsonObject) -> None:
        """Have it embed a shard. A process that is dead already is noticed when it is asked for news."""
        self.shard, self.run = shard, run
        with contextlib.suppress(OSError):
            self.connection.send((shard, run))

    def news(self) -> Loaded | Written | None:
        """What it has to say; None where it died, and was started anew with the same work. Raises what it raised."""
        try:
            said = self.connection.recv()
        except (EOFError, OSError, pickle.UnpicklingError):
            self._again()
            return None
        if isinstance(said, BaseException):
            raise said
        if isinstance(said, Loaded):
            first, self.ready = self.ready is None, said
            if self.shard is not None:
                self.give(self.shard, self.run)
            return said if first else None
        assert isinstance(said, Written)
        self.shard, self.deaths = None, 0
        return said

    def _again(self) -> None:
        self.end()
        self.deaths += 1
        if self.deaths == TRIES:
            code = self.process.exitcode
            how = f"signal {-code}" if code and code < 0 else f"exit code {code}"
            what = f"over {self.shard.name} ({self.shard.input})" if self.shard else "while they loaded the artifact"
            raise DiedError(f"{TRIES} processes died {what}, the last by {how}; with fewer --processes each has more memory")
        self._start()

    def end(self) -> None:
        """Kill it: what it has not renamed yet does not count."""
        self.process.kill()
        self.process.join()
        self.connection.close()


class Workers:
    """As many processes as were asked for; a context that leaves none behind."""

    def __init__(self) -> None:
        self.all: list[Worker] = []

    def __enter__(self) -> "Workers":
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self.all:
            worker.end()

    def start(self, request: Request, cores: list[int]) -> Worker:
        """One more, on these cores."""
        self.all.append(Worker(request, cores))
        return self.all[-1]

    def loaded(self, worker: Worker) -> Loaded:
        """What the process says once it has loaded."""
        while worker.ready is None:
            wait([worker.connection])
            worker.news()
        return worker.ready

    def embed(self, shards: Iterable[Shard], run: JsonObject) -> Iterator[tuple[Shard, Written] | None]:
        """Each shard with what it came to, in the order in which they are ready; None now and then, while there is no news."""
        left = deque(self.all)  # who has nothing to do
        for shard in shards:
            while not left:
                yield from self._news(left)
            left.popleft().give(shard, run)
        while any(worker.shard for worker in self.all):
            yield from self._news(left)

    def _news(self, left: deque[Worker]) -> Iterator[tuple[Shard, Written] | None]:
        by_connection = {worker.connection: worker for worker in self.all}
        told = wait(list(by_connection), TICK)
        if not told:
            yield None
        for connection in told:
            worker = by_connection[connection]  # type: ignore[index]  # a connection is what was waited for
            shard = worker.shard
            said = worker.news()
            if isinstance(said, Written) and shard is not None:
                left.append(worker)
                yield shard, said


def serve(connection: Connection, request: Request, cores: list[int]) -> None:
    """The process: load, say so, then embed what comes until the parent is gone."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    try:
        embedder = Embedder.of(request, cores)
        folder = Folder(request.out)
        used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
        model = embedder.model
        connection.send(Loaded(embedder.identity, model.revision, model.runtime.device, used))
        while True:
            shard, run = connection.recv()
            connection.send(folder.write(shard, embedder, request, run))
    except EOFError:
        pass
    except Exception as error:
        connection.send(_picklable(error))


def _end_with(parent: BaseProcess) -> None:
    parent.join()
    os._exit(1)


def _picklable(error: Exception) -> Exception:
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return SealportError(f"{type(error).__name__}: {error}")
    return error
