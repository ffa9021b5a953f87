"""Whether a model answers as it should: a sound text tells, once its batches fail or an output is not finite."""

import logging

from shim.model import Model
from shim.serve.unanswered import BrokenOutputError

FAILURES = 3  # batches that fail in a row before the model counts as not ready
SECONDS = 5.0  # a model that fails is tried this often while nobody asks
WARM = "A first text, so that no client waits for what is done only once."
log = logging.getLogger("shim")


class Probe:
    """A text that any model can compute, and what is known of this one. Of the model's thread."""

    def __init__(self, model: Model):
        """Compute the text, after which the model is warm. Whatever goes wrong is raised."""
        self.model = model
        self._text = model.encoder.encode([WARM])[0]  # now: later the tokenizer is another thread's
        self.failures, self._broken = 0, False
        self._compute()

    @property
    def ready(self) -> bool:
        """Outputs finite, not one failure after another."""
        return not self._broken and self.failures < FAILURES

    @property
    def wait(self) -> float | None:
        """Seconds until it is to be tried `again`, where nobody asks; None where nothing is wrong."""
        return SECONDS if self.failures or self._broken else None

    def again(self) -> None:
        """Try it, and note where it answers."""
        if self._sound():
            self.failures, self._broken = 0, False
            log.info("the model answers again", extra={"model": self.model.name})

    def doubt(self) -> None:
        """After an output that is not finite: the text may be at fault, or the model."""
        self._broken = not self._sound() or self._broken

    def _sound(self) -> bool:
        try:
            self._compute()
        except Exception as error:  # whatever a runtime raises
            log.error("the model fails a probe", extra={"model": self.model.name, "error": type(error).__name__})
            return False
        return True

    def _compute(self) -> None:
        heads = self.model.manifest.model.heads
        output = self.model.compute([self._text], heads)[0]
        if output.broken:
            raise BrokenOutputError(f"{self.model.name}: NaN or infinity in the {output.broken} output of a first text")
        self.model.ranking([output]) if self.model.task == "rerank" else self.model.embeddings([output], heads)
