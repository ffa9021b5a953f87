"""Work in a process of its own: what it loads and imports leaves the memory with it."""

import contextlib
import ctypes
import gc
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from typing import TypeVar

from shim.errors import SourceError

Result = TypeVar("Result")
Told = TypeVar("Told")


def apart(
    work: Callable[..., Result],
    *given: object,
    progress: Callable[[Told], None],
    name: str = "the upstream library's process",
    parent: bool = False,
) -> Result:
    """What `work(*given, report)` returns, where `report(done)` calls `progress` here.

    work: a function of a module; what it is given, returns or raises goes through pickle. name: of the process, for errors.
    parent: whether it may have processes of its own. Raises what it raises, and SourceError where the process ends without an
    answer, as it does when the system has no more memory.
    """
    give_back()
    context = multiprocessing.get_context("spawn")  # a fork would copy this process's memory and its locks
    resource_tracker.ensure_running()  # now: its start lets SIGINT through again, and would do so between the next lines
    ours, theirs = context.Pipe()
    process = context.Process(target=_work, args=(theirs, work), daemon=not parent)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # the new process inherits this: only we handle Ctrl-C
    try:
        process.start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    theirs.close()
    try:
        ours.send(given)  # not with its start: whatever ends it there, this process would wait for it to read for ever
        while True:
            kind, value = ours.recv()
            if kind == "progress":
                progress(value)
                continue
            process.join()
            if kind == "raised":
                raise value
            return value
    except (EOFError, ConnectionError):
        process.join()
        raise SourceError(f"{name} ended with {process.exitcode}: out of memory?") from None
    finally:
        ours.close()
        process.terminate()  # it still runs when this process was interrupted
        process.join()


def give_back() -> None:
    """Let the system have the memory that is free here: after a tokenizer of 250,000 words, 160 MB."""
    gc.collect()
    with contextlib.suppress(AttributeError, OSError):  # glibc alone has it
        ctypes.CDLL(None).malloc_trim(0)


def _work(connection: Connection, work: Callable[..., object]) -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        answer = ("done", work(*connection.recv(), lambda done: connection.send(("progress", done))))
    except Exception as error:
        answer = ("raised", error)
    with contextlib.suppress(ConnectionError):  # nobody waits for it any more
        connection.send(answer)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)  # the parent was killed, and nobody waits for an answer
