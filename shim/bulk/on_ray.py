"""A run on a Ray cluster: Ray reads the files, moves the shards and replaces what dies.

Which shards there are, how one is written and what a later run skips is as on one machine. Ray Data's own checkpoints are not
used: they keep the ids of all rows in memory, and need ids that no two rows have.
"""

import contextlib
import functools
import logging
import os
import pickle
import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np

from shim.bulk.embedder import Embedder
from shim.bulk.inputs import Input, absolute, find
from shim.bulk.progress import Progress
from shim.bulk.reader import check_lines
from shim.bulk.request import Request
from shim.bulk.run import alone, missing, run_identity
from shim.bulk.shards import Folder, Shard, Written, orphans
from shim.errors import IntegrityError, SealportError, UsageError
from shim.jsons import JsonObject

ACTOR, READER = 0.9, 0.1  # CPUs of each: actors on all would leave none to read with
Skipped = list[tuple[str, float, int, int]]  # arguments of Progress.skip
Work = tuple[Skipped, Shard | None] | Exception
Done = tuple[Skipped, tuple[str, float, Written] | None] | Exception


def run_on_ray(request: Request, address: str, processes: int | None) -> Progress:
    """Embed what is not there yet, by an actor a device; returns the counts.

    address: of a cluster; `auto` for the one that this machine is of, `local` for one that lasts as long as the run. The files,
    the folder and the artifact must be there under the same name on all its machines.
    processes: how many actors; None for one on each GPU, or where there is none on each CPU.
    Raises as `run` does, and UsageError where there is no such cluster.
    """
    try:
        import ray
        import ray.data
    except ModuleNotFoundError as error:
        raise UsageError(f"--ray needs {error.name}: pip install 'sealport[ray]'") from None

    inputs = find(request.inputs, request.out)
    check_lines(inputs, request)
    request = replace(request, inputs=tuple(map(absolute, request.inputs)))
    folder = Folder(request.out)
    progress = Progress({input.name: input.size for input in inputs})
    with contextlib.redirect_stdout(sys.stderr):  # Ray prints what died, and some of it late; stdout is for results
        try:
            own = {"include_dashboard": False} if address == "local" else {}  # it takes seconds
            ray.init(address, logging_level="ERROR", log_to_driver=False, **own)
            logging.getLogger("ray.data").setLevel("ERROR")
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise UsageError(f"--ray {address}: {' '.join(str(error).split()):.200}") from None
        try:
            with alone(folder):
                _embed(request, inputs, folder, progress, processes)
        except ray.exceptions.RayError as error:
            if isinstance(cause := getattr(error, "cause", None), SealportError):
                raise cause from None
            raise SealportError(f"Ray: {error}") from None
        finally:
            progress.close()
            ray.shutdown()
    return progress


def _embed(request: Request, inputs: list[Input], folder: Folder, progress: Progress, processes: int | None) -> None:
    import ray
    import ray.data

    there_are = ray.cluster_resources()
    gpus = int(there_are.get("GPU", 0)) if request.loading.get("device") != "cpu" else 0
    devices = {"num_gpus": 1.0} if gpus else {"num_cpus": ACTOR}
    identity, revision = ray.get(ray.remote(**devices)(_loaded).remote(request))
    request, run = request.at(revision), run_identity(request, identity)
    there = folder.manifests(run)

    def shards(row: Mapping[str, bytes]) -> Iterator[dict[str, bytes]]:
        """What is to be done for a file: a shard to embed, or what there is to tell of one that is there already."""
        skipped: Skipped = []
        try:
            input = pickle.loads(row["work"])
            for shard in missing([input], request, Folder(request.out), there, lambda *skip: skipped.append(skip)):
                yield {"work": pickle.dumps((skipped, shard))}
                skipped.clear()
            yield {"work": pickle.dumps((skipped, None))}
        except (SealportError, OSError) as error:
            yield {"work": pickle.dumps(error)}

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = context.print_on_execution_start = False
    context.target_max_block_size = 1  # a block is a shard: larger ones would leave actors without work
    count = processes or gpus or max(1, int(there_are.get("CPU", 1)))
    data = ray.data.from_items([{"work": pickle.dumps(input)} for input in inputs], override_num_blocks=len(inputs))
    data = data.flat_map(shards, num_cpus=READER)
    pool = ray.data.ActorPoolStrategy(size=count, max_tasks_in_flight_per_actor=2)
    data = data.map_batches(_Actor, batch_size=1, compute=pool, fn_constructor_args=(request, run), **devices)
    progress.begin()
    for row in data.iter_rows():
        done: Done = pickle.loads(row["done"])
        if isinstance(done, Exception):
            raise done
        for skip in done[0]:
            progress.skip(*skip)
        if done[1] is not None:
            progress.add(*done[1])
        progress.show()
    progress.orphans = orphans(inputs, there)


class _Actor:
    """Embeds and writes shards. What goes wrong is told as what is done: of an exception Ray keeps the text only."""

    def __init__(self, request: Request, run: JsonObject):
        self.request, self.run, self.folder = request, run, Folder(request.out)

    @functools.cached_property
    def embedder(self) -> Embedder:
        """Loaded with the first shard. Raises IntegrityError for another artifact than that of the run."""
        embedder = Embedder.of(self.request)
        if self.run != run_identity(self.request, embedder.identity):
            where = os.uname().nodename
            raise IntegrityError(f"{self.request.artifact}: is another one on {where} than where the run was begun")
        return embedder

    def __call__(self, batch: Mapping[str, np.ndarray]) -> dict[str, list[bytes]]:
        return {"done": [pickle.dumps(self._done(pickle.loads(work))) for work in batch["work"]]}

    def _done(self, work: Work) -> Done:
        if isinstance(work, Exception):
            return work
        skipped, shard = work
        if shard is None:
            return skipped, None
        try:
            written = self.folder.write(shard, self.embedder, self.request, self.run)
        except (SealportError, OSError) as error:
            return error
        return skipped, (shard.input, shard.rows.read, written)


def _loaded(request: Request) -> tuple[JsonObject, str | None]:
    embedder = Embedder.of(request)
    return embedder.identity, embedder.model.revision
