"""The threads of a model: one loads it and computes the batches of all requests, others what need not wait. No HTTP here."""

import logging
import threading
import time
from collections.abc import Callable, Sequence

from shim.model import Model
from shim.results import Output
from shim.serve.lanes import Lanes, padded
from shim.serve.metrics import Metrics
from shim.serve.probing import Probe
from shim.serve.queue import Request, Text
from shim.serve.turns import Shares
from shim.serve.unanswered import BatchError, BrokenOutputError, ClosedError, FullError, StartingError
from shim.serve.workers import Workers
from shim.text import Encoded

log = logging.getLogger("shim")


class ModelThread:
    """A model, its queue of requests, and the thread that computes with it.

    While that computes a long batch, others compute short ones beside it where the runtime lets them; else it does so itself,
    whenever the runtime makes a pause.
    """

    def __init__(self, opener: Callable[[], Model], metrics: Metrics, budget: int, share: int):
        """Load and warm the model in its own thread and wait for it; whatever goes wrong there is raised here.

        share: work that is accepted of one client, see Shares.
        """
        self.opener, self.metrics = opener, metrics
        self.model: Model
        self._shares, self._lanes, self._condition = Shares(share), Lanes(budget), threading.Condition()
        self._requests: set[Request] = set()
        self._closing = self._replaced = False
        self.lost = False  # it ended or hangs, and another takes over
        self._loaded = threading.Event()
        self._error: BaseException | None = None
        self._workers = Workers(self._condition)
        self._workers.start(self._run)
        self._loaded.wait()
        if self._error is not None:
            raise self._error

    @property
    def ready(self) -> bool:
        """Whether it answers as it should, see `Probe.ready`."""
        return self.alive and self._probe.ready

    @property
    def alive(self) -> bool:
        return self._workers.whole and not self._closing

    def stuck(self, timeout: float) -> bool:
        """Whether only a new thread helps: one ended by itself, or its batch hangs."""
        return not self._closing and (not self._workers.whole or self._lanes.hang(timeout))

    def full(self, client: str, work: int = 1) -> FullError | None:
        """Why no request of that client is accepted now, if so."""
        if not self._shares.full(client, work):
            return None
        waiting = len(self._requests)
        seconds = self._lanes.pace.batch_seconds * waiting  # each has a turn, a batch long
        return FullError(waiting, max(1, min(60, round(seconds))))

    def open(self, request: Request) -> None:
        """Accept a request, whose texts then come by `put`. Raises FullError, ClosedError or StartingError."""
        with self._condition:
            if self._closing:
                raise ClosedError
            if not self._workers.whole:
                raise StartingError
            if (full := self.full(request.client, request.work)) is not None:
                raise full
            self._requests.add(request)
            self._shares.take(request.client, request.work)
            self._lanes.pace.asked(request.client)
            self._show()

    def put(self, request: Request, row: int, encoded: Sequence[Encoded]) -> None:
        """Texts of an accepted request, the first of which is its `row`."""
        now = time.perf_counter()
        with self._condition:
            if request in self._requests:
                self._lanes.queue.add(request, [Text(request, row + index, one, now) for index, one in enumerate(encoded)])
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
        return self._workers.join(timeout)

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
        self._serve()

    def _serve(self) -> None:
        try:
            while self._next():
                pass
        except BaseException as error:  # what no batch raised: a new thread takes over, see `stuck`
            log.error("the model's thread ended", exc_info=error, extra={"model": self.model.name})

    def _next(self) -> bool:
        """Compute a batch, or wait for one; whether there may be more."""
        with self._condition:
            batch = self._take()
            woken = bool(batch) or self._over or self._workers.wait(self._probe.wait)
            batch = batch or self._take()
            if self._over:
                self._condition.notify()  # the next one
                return False
        if batch:
            self._compute_taken(batch)
        elif not woken:
            self._probe.again()
            self._show()
        return True

    def _beside(self) -> None:
        """While the runtime makes a pause: compute another batch, if one may begin."""
        with self._condition:
            batch = self._take()
        if batch:
            self._compute_taken(batch)

    def _take(self) -> list[Text]:
        """The next batch, if one may begin; if others may beside it, a thread is there for them."""
        batch = self._lanes.take()
        if batch and self._lanes.long(batch) and self.model.runtime.parallel:
            self._workers.another(self._serve)
        return batch

    def _compute_taken(self, batch: list[Text]) -> None:
        for request in {text.request for text in batch}:
            if not request.ahead(0.5):
                request.hungry()
        runtime = self.model.runtime
        outer = runtime.pause
        try:
            runtime.pause = self._beside if self._lanes.long(batch) and not runtime.parallel else None
            self._compute(batch)
        finally:
            runtime.pause = outer
            with self._condition:
                self._lanes.done(batch)

    @property
    def _over(self) -> bool:
        return self._closing and not self._requests

    def _compute(self, batch: list[Text]) -> None:
        name, started = self.model.name, time.perf_counter()
        for text in batch:
            self.metrics.queue_seconds.labels(name).observe(started - text.since)
        self.metrics.batch_texts.labels(name).observe(len(batch))
        self.metrics.batch_tokens.labels(name).observe(padded(batch))
        try:
            outputs = self.model.compute([text.encoded for text in batch], batch[0].request.heads)
        except Exception as error:  # whatever a runtime raises, out of memory too: this batch fails, the next may not
            self.metrics.failures.labels(name).inc()
            log.error("a batch failed", extra={"model": name, "error": type(error).__name__, "texts": len(batch)})
            self._failed(batch, error)
            return
        self._probe.failures = 0
        seconds = time.perf_counter() - started
        self._lanes.pace.took(seconds, padded(batch))
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
            self._lanes.queue.drop(request)
            self._shares.give(request.client, request.work)

    def _show(self) -> None:
        if self._replaced:
            return
        self.metrics.queue_depth.labels(self.model.name).set(self._lanes.queue.waiting)
        self.metrics.queue_requests.labels(self.model.name).set(len(self._requests))
        self.metrics.ready.labels(self.model.name).set(int(self.ready))
