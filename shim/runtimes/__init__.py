"""One file per runtime. Each gives `open_runtime(directory, manifest, device)`, whose object turns Tokens into named arrays."""

from collections.abc import Callable
from typing import Protocol

import numpy as np

from shim.errors import UsageError
from shim.text import Tokens

PRESENT = "present_key_values"


class Runtime(Protocol):
    """A loaded model. It belongs to the thread that opened it, unless it is `parallel`.

    pause: where it is given, one that is not parallel calls it now and then in a run that takes long; it may itself `run`.
    """

    name: str
    device: str
    kernels: str
    parallel: bool  # whether several threads may run it at once
    pause: Callable[[], object] | None

    takes_past: bool  # whether keys and values may stand for tokens that all rows begin with

    def run(self, tokens: Tokens, names: tuple[str, ...], past: np.ndarray | None = None) -> dict[str, np.ndarray]:
        """The outputs asked for (`sentence_embedding`, `token_embeddings`) as float32 arrays.

        past: where it is taken, the output PRESENT of the tokens that every row has before those of `tokens`: keys and values
        of their first row, (2 * layers, tokens, groups * d). Padding is then on the right.
        """


class Closed:
    """What stands in the place of a runtime whose weights are gone."""

    parallel, takes_past = True, False
    pause: Callable[[], object] | None = None

    def __init__(self, runtime: Runtime, model: str):
        self.name, self.device, self.kernels, self.model = runtime.name, runtime.device, runtime.kernels, model

    def run(self, tokens: Tokens, names: tuple[str, ...], past: np.ndarray | None = None) -> dict[str, np.ndarray]:
        """Raises UsageError."""
        raise UsageError(f"{self.model} is closed; load it again")
