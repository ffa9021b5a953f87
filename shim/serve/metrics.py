"""What is counted and timed, in Prometheus' terms; nothing here holds a text."""

from prometheus_client import CollectorRegistry, Counter, Gauge, GCCollector, Histogram, PlatformCollector, ProcessCollector
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4
SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60)
SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
TOKENS = (16, 64, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768)


class Metrics:
    """The figures of one server."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        for collector in (ProcessCollector, PlatformCollector, GCCollector):
            collector(registry=self.registry)
        self.requests = self._counter("requests_total", "Requests answered", "route", "status")
        self.errors = self._counter("errors_total", "Answers that are no success, by kind", "kind")
        self.request_seconds = self._histogram("request_seconds", "From the first byte to the answer", SECONDS, "route")
        self.queue_depth = self._gauge("queue_texts", "Texts that wait for the model", "model")
        self.queue_requests = self._gauge("queue_requests", "Requests accepted and not yet answered", "model")
        self.queue_seconds = self._histogram("queue_seconds", "How long a text waited for its batch", SECONDS, "model")
        self.batch_texts = self._histogram("batch_texts", "Texts in a batch", SIZES, "model")
        self.batch_tokens = self._histogram("batch_tokens", "Tokens in a batch, padding included", TOKENS, "model")
        self.tokenize_seconds = self._histogram("tokenize_seconds", "Tokenizing one part of a request", SECONDS, "model")
        self.inference_seconds = self._histogram("inference_seconds", "Computing one batch", SECONDS, "model")
        self.truncations = self._counter("truncated_texts_total", "Texts cut to the model's limit", "model")
        self.not_finite = self._counter("not_finite_total", "Texts whose output held NaN or infinity", "model")
        self.failures = self._counter("failed_batches_total", "Batches that raised", "model")
        self.load_seconds = self._gauge("model_load_seconds", "Checking, loading and warming the model", "model")
        self.memory = self._gauge("models_memory_bytes", "Bytes of the models in memory, without their batches")
        self.model_memory = self._gauge("model_memory_bytes", "Bytes that the model takes; 0 while it is not loaded", "model")
        self.connections = self._gauge("connections", "Open connections")
        self.held = self._gauge("held_bytes", "Bytes of bodies and answers that are held")
        self.ready = self._gauge("model_ready", "1 when the model answers as it should", "model")

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"sealport_{name}", text, labels, registry=self.registry)

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        return Gauge(f"sealport_{name}", text, labels, registry=self.registry)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
        return Histogram(f"sealport_{name}", text, labels, buckets=buckets, registry=self.registry)

    def add(self, model: str) -> None:
        """Show the counters of a model from its first moment: a figure that is not there yet cannot be watched."""
        for counter in (self.truncations, self.not_finite, self.failures):
            counter.labels(model)

    def page(self) -> bytes:
        """The figures as Prometheus reads them."""
        return generate_latest(self.registry)
