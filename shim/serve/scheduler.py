"""One thread per model: it loads the model and computes the batches of all requests. It knows no HTTP."""

import logging
import threading
import time
from collections.abc import Callable, Sequence

from shim.model import Model
from shim.results import Output
from shim.serve.metrics import Metrics
from shim.serve.pace import Pace
from shim.serve.probing import BrokenOutputError, Probe
from shim.serve.queue import Queue, Request, Text
from shim.serve.turns import Shares
from shim.text import Encoded

log = logging.getLogger("shim")


class BatchError(Exception):
    """The batch that held a text of this request failed."""


class ClosedError(Exception):
    """The model takes no work any more."""


class StartingError(Exception):
    """The model is started anew: its thread ended, or a batch hung."""


class FullError(Exception):
    """Too many requests wait; `retry_after` is in seconds."""

    def __init__(self, waiting: int, retry_after: int):
        super().__init__(f"{waiting} requests wait already; try again in {retry_after} s")
        self.retry_after = retry_after


class ModelThread:
    """A model, its queue of requests, and the only thread that computes with it."""

    def __init__(self, opener: Callable[[], Model], metrics: Metrics, budget: int, share: int):
        """Load and warm the model in its own thread and wait for it; whatever goes wrong there is raised here.

        share: work that is accepted of one client, see Shares.
        """
        self.opener, self.metrics = opener, metrics
        self.model: Model
        self._shares, self._pace = Shares(share), Pace()
        self._queue, self._condition = Queue(budget), threading.Condition()
        self._requests: set[Request] = set()
        self._closing = self._replaced = False
        self.lost = False  # it ended or hangs, and another takes over
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
        """Whether it answers as it should, see `Probe.ready`."""
        return self.alive and self._probe.ready

    @property
    def alive(self) -> bool:
        return self._thread.is_alive() and not self._closing

    def stuck(self, timeout: float) -> bool:
        """Whether only a new thread helps: this one ended by itself, or its batch hangs."""
        return not self._closing and (not self._thread.is_alive() or self._pace.hangs(timeout))

    def full(self, client: str, work: int = 1) -> FullError | None:
        """Why no request of that client is accepted now, if so."""
        if not self._shares.full(client, work):
            return None
        waiting = len(self._requests)
        seconds = self._pace.batch_seconds * waiting  # each has a turn, a batch long
        return FullError(waiting, max(1, min(60, round(seconds))))

    def open(self, request: Request) -> None:
        """Accept a request, whose texts then come by `put`. Raises FullError, ClosedError or StartingError."""
        with self._condition:
            if self._closing:
                raise ClosedError
            if not self._thread.is_alive():
                raise StartingError
            if (full := self.full(request.client, request.work)) is not None:
                raise full
            self._requests.add(request)
            self._shares.take(request.client, request.work)
            self._pace.asked(request.client)
            self._show()

    def put(self, request: Request, row: int, encoded: Sequence[Encoded]) -> None:
        """Texts of an accepted request, the first of which is its `row`."""
        now = time.perf_counter()
        with self._condition:
            if request in self._requests:
                self._queue.add(request, [Text(request, row + index, one, now) for index, one in enumerate(encoded)])
                self._condition.notify()

    def drop(self, request: Request) -> None:
        """Forget a request; nothing of it that still waits is computed. Its `finish` is not called any more."""
        with self._condition:
            self._leave(request)
            self._show()
            self._condition.notify()

    def succeed(self, old: "ModelThread") -> None:
        """Show this one's figures under the name from now on, and no more of the old one's, which may still have work."""
        old._replaced = True
        self._show()

    def refuse(self, error: type[Exception] = ClosedError) -> int:
        """Take no more requests, and end those accepted unanswered; how many that were."""
        with self._condition:
            self._closing, requests = True, list(self._requests)
            for request in requests:
                self._end(request, error())
            self._condition.notify()
        return len(requests)

    def close(self, drain: bool = True, timeout: float | None = None) -> bool:
        """Take no more requests and end: after those accepted, or (not `drain`) after the batch in progress; whether it did."""
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
            self.model.encoder.bound()  # others wait
            self._probe = Probe(self.model)
        except BaseException as error:  # any: it is raised again where the model was asked for
            self._error = error
            return
        finally:
            self._loaded.set()
        self.metrics.add(self.model.name)
        self.metrics.load_seconds.labels(self.model.name).set(time.perf_counter() - started)
        self._show()
        try:
            self._serve()
        except BaseException as error:  # what no batch raised: a new thread takes over, see `stuck`
            log.error("the model's thread ended", exc_info=error, extra={"model": self.model.name})

    def _serve(self) -> None:
        while True:
            with self._condition:
                woken = True
                if not self._queue.waiting and not (self._closing and not self._requests):
                    woken = self._condition.wait(self._probe.wait)
                if self._closing and not self._requests:
                    return
                batch = self._queue.take(self._pace.budget(self._queue.budget))
                hungry = [request for request in {text.request for text in batch} if not request.ahead(0.5)]
            for request in hungry:
                request.hungry()
            if batch:
                self._pace.begin(_padded(batch))
                self._compute(batch)
                self._pace.end()
            elif not woken:
                self._probe.again()
                self._show()

    def _compute(self, batch: list[Text]) -> None:
        name, started = self.model.name, time.perf_counter()
        for text in batch:
            self.metrics.queue_seconds.labels(name).observe(started - text.since)
        self.metrics.batch_texts.labels(name).observe(len(batch))
        self.metrics.batch_tokens.labels(name).observe(_padded(batch))
        try:
            outputs = self.model.compute([text.encoded for text in batch], batch[0].request.heads)
        except Exception as error:  # whatever a runtime raises, out of memory too: this batch fails, the next may not
            self.metrics.failures.labels(name).inc()
            log.error("a batch failed", extra={"model": name, "error": type(error).__name__, "texts": len(batch)})
            self._failed(batch, error)
            return
        self._probe.failures = 0
        seconds = time.perf_counter() - started
        self._pace.took(seconds, _padded(batch))
        self.metrics.inference_seconds.labels(name).observe(seconds)
        with self._condition:
            for text, output in zip(batch, outputs, strict=True):
                self._settle(text, output)
        if any(output.broken for output in outputs):
            self._probe.doubt()
        self._show()

    def _failed(self, batch: list[Text], error: Exception) -> None:
        """Compute each request's texts by themselves, so that only those fail which must."""
        requests = {text.request for text in batch}
        if len(requests) > 1:
            for request in requests:
                with self._condition:
                    texts = [text for text in batch if text.request is request and request in self._requests]
                if texts:
                    self._compute(texts)
            return
        self._probe.failures += 1
        with self._condition:
            for request in requests:
                self._end(request, BatchError(f"{self.model.name}: the batch failed ({type(error).__name__})"))
        self._show()

    def _settle(self, text: Text, output: Output) -> None:
        request = text.request
        if output.broken:
            self.metrics.not_finite.labels(self.model.name).inc()
            log.error("an output is not finite", extra={"model": self.model.name, "head": output.broken})
            message = f"{self.model.name}: NaN or infinity in the {output.broken} output of text {text.row}"
            self._end(request, BrokenOutputError(message))
            return
        request.outputs[text.row] = output
        if len(request.outputs) == request.count:
            self._end(request, [request.outputs[row] for row in range(request.count)])

    def _end(self, request: Request, outcome: list[Output] | Exception) -> None:
        if request in self._requests:
            self._leave(request)
            request.finish(outcome)

    def _leave(self, request: Request) -> None:
        if request in self._requests:
            self._requests.remove(request)
            self._queue.drop(request)
            self._shares.give(request.client, request.work)

    def _show(self) -> None:
        if self._replaced:
            return
        self.metrics.queue_depth.labels(self.model.name).set(self._queue.waiting)
        self.metrics.queue_requests.labels(self.model.name).set(len(self._requests))
        self.metrics.ready.labels(self.model.name).set(int(self.ready))


def _padded(batch: list[Text]) -> int:
    """Tokens of a batch, padding included."""
    return len(batch) * max(text.length for text in batch)
