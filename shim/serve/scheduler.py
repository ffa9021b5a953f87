"""One thread per model: it loads the model and computes the batches of all requests. It knows no HTTP."""

import logging
import threading
import time
from collections.abc import Callable, Sequence

from shim.model import Model, Output
from shim.serve.batching import Item, Job, Line
from shim.serve.metrics import Metrics
from shim.text import Encoded

FAILURES = 3  # batches that fail in a row before the model counts as not ready
PROBE_SECONDS = 5.0  # a model that fails is tried this often while nobody asks
WARM = "A first text, so that no client waits for what is done only once."
log = logging.getLogger("shim")


class BatchError(Exception):
    """The batch that held a text of this job failed."""


class BrokenOutputError(Exception):
    """An output of this job is NaN or infinite."""


class ClosedError(Exception):
    """The model takes no work any more."""


class FullError(Exception):
    """Too many requests wait; `retry_after` is in seconds."""

    def __init__(self, waiting: int, retry_after: int):
        super().__init__(f"{waiting} requests wait already; try again in {retry_after} s")
        self.retry_after = retry_after


class ModelThread:
    """A model, its line of jobs, and the only thread that computes with it."""

    def __init__(self, opener: Callable[[], Model], metrics: Metrics, budget: int, max_requests: int):
        """Load and warm the model in its own thread and wait for it; whatever goes wrong there is raised here."""
        self.opener, self.metrics, self.max_requests = opener, metrics, max_requests
        self.model: Model
        self._line, self._condition = Line(budget), threading.Condition()
        self._jobs: set[Job] = set()
        self._closing = self._broken = self._replaced = False
        self._failures = 0
        self._batch_seconds = 0.1  # a running mean
        self._loaded = threading.Event()
        self._error: BaseException | None = None
        # A daemon: a batch that hangs must not hold up the exit for ever.
        self._thread = threading.Thread(target=self._run, name="model", daemon=True)
        self._thread.start()
        self._loaded.wait()
        if self._error is not None:
            raise self._error

    @property
    def ready(self) -> bool:
        """Whether it answers as it should: outputs finite, not one failure after another."""
        return self.alive and not self._broken and self._failures < FAILURES

    @property
    def alive(self) -> bool:
        return self._thread.is_alive() and not self._closing

    def full(self) -> FullError | None:
        """Why no job is accepted now, if so."""
        waiting = len(self._jobs)
        if waiting < self.max_requests:
            return None
        seconds = self._batch_seconds * waiting  # each has a turn, a batch long
        return FullError(waiting, max(1, min(60, round(seconds))))

    def open(self, job: Job) -> None:
        """Accept a job, whose texts then come by `put`. Raises FullError or ClosedError."""
        with self._condition:
            if self._closing:
                raise ClosedError
            if (full := self.full()) is not None:
                raise full
            self._jobs.add(job)
            self._show()

    def put(self, job: Job, row: int, encoded: Sequence[Encoded]) -> None:
        """Texts of an accepted job, the first of which is its `row`."""
        now = time.perf_counter()
        with self._condition:
            if job in self._jobs:
                self._line.add(job, [Item(job, row + index, text, now) for index, text in enumerate(encoded)])
                self._condition.notify()

    def drop(self, job: Job) -> None:
        """Forget a job; nothing of it that still waits is computed. Its `finish` is not called any more."""
        with self._condition:
            self._jobs.discard(job)
            self._line.drop(job)
            self._show()
            self._condition.notify()

    def succeed(self, old: "ModelThread") -> None:
        """Show this one's figures under the name from now on, and no more of the old one's, which may still have work."""
        old._replaced = True
        self._show()

    def refuse(self) -> int:
        """Take no more jobs, and end those accepted unanswered; how many that were."""
        with self._condition:
            self._closing, jobs = True, list(self._jobs)
            for job in jobs:
                self._end(job, ClosedError("the model is stopping"))
            self._condition.notify()
        return len(jobs)

    def close(self, drain: bool = True, timeout: float | None = None) -> bool:
        """Take no more jobs and end: after those accepted, or (not `drain`) after the batch in progress; whether it did."""
        if not drain:
            self.refuse()
        with self._condition:
            self._closing = True
            self._condition.notify()
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def _run(self) -> None:
        started = time.perf_counter()
        try:
            self.model = self.opener()
            self._warm = self.model.encoder.encode([WARM])[0]  # now: later the tokenizer is another thread's
            self._probe()
        except BaseException as error:
            self._error = error
            return
        finally:
            self._loaded.set()
        self.metrics.add(self.model.name)
        self.metrics.load_seconds.labels(self.model.name).set(time.perf_counter() - started)
        self._show()
        while True:
            with self._condition:
                woken = True
                if not self._line.waiting and not (self._closing and not self._jobs):
                    woken = self._condition.wait(PROBE_SECONDS if self._failures else None)
                if self._closing and not self._jobs:
                    return
                batch = self._line.take()
                hungry = [job for job in {item.job for item in batch} if not job.ahead(0.5)]
            for job in hungry:
                job.hungry()
            if batch:
                self._compute(batch)
            elif not woken:
                self._retry()

    def _probe(self) -> None:
        """Compute one text. Whatever goes wrong is raised."""
        heads = self.model.manifest.model.heads
        output = self.model.compute([self._warm], heads)[0]
        if output.broken:
            raise BrokenOutputError(f"{self.model.name}: NaN or infinity in the {output.broken} output of a first text")
        self.model.ranking([output]) if self.model.task == "rerank" else self.model.embeddings([output], heads)

    def _retry(self) -> None:
        try:
            self._probe()
        except Exception as error:
            log.error("the model fails a probe", extra={"model": self.model.name, "error": type(error).__name__})
        else:
            self._failures = 0
            log.info("the model answers again", extra={"model": self.model.name})
        self._show()

    def _compute(self, batch: list[Item]) -> None:
        name, started = self.model.name, time.perf_counter()
        for item in batch:
            self.metrics.queue_seconds.labels(name).observe(started - item.since)
        self.metrics.batch_texts.labels(name).observe(len(batch))
        self.metrics.batch_tokens.labels(name).observe(len(batch) * max(item.length for item in batch))
        try:
            outputs = self.model.compute([item.encoded for item in batch], batch[0].job.heads)
        except Exception as error:  # whatever a runtime raises, out of memory too: this batch fails, the next may not
            self._failures += 1
            self.metrics.failures.labels(name).inc()
            log.error("a batch failed", extra={"model": name, "error": type(error).__name__, "texts": len(batch)})
            with self._condition:
                for item in batch:
                    self._end(item.job, BatchError(f"{name}: the batch failed ({type(error).__name__})"))
            self._show()
            return
        self._failures = 0
        seconds = time.perf_counter() - started
        self._batch_seconds += 0.1 * (seconds - self._batch_seconds)
        self.metrics.inference_seconds.labels(name).observe(seconds)
        with self._condition:
            for item, output in zip(batch, outputs, strict=True):
                self._settle(item, output)
        self._show()

    def _settle(self, item: Item, output: Output) -> None:
        job = item.job
        if output.broken:
            self._broken = True
            self.metrics.not_finite.labels(self.model.name).inc()
            log.error("an output is not finite", extra={"model": self.model.name, "head": output.broken})
            message = f"{self.model.name}: NaN or infinity in the {output.broken} output of text {item.row}"
            self._end(job, BrokenOutputError(message))
            return
        job.outputs[item.row] = output
        if len(job.outputs) == job.count:
            self._end(job, [job.outputs[row] for row in range(job.count)])

    def _end(self, job: Job, outcome: list[Output] | Exception) -> None:
        if job in self._jobs:
            self._jobs.remove(job)
            self._line.drop(job)
            job.finish(outcome)

    def _show(self) -> None:
        if self._replaced:
            return
        self.metrics.queue_depth.labels(self.model.name).set(self._line.waiting)
        self.metrics.queue_requests.labels(self.model.name).set(len(self._jobs))
        self.metrics.ready.labels(self.model.name).set(int(self.ready))
