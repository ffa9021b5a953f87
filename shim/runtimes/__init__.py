"""One file per runtime. Each gives `open_runtime(directory, manifest, device)`, whose object turns Tokens into named arrays."""

from typing import Protocol

import numpy as np

from shim.text import Tokens


class Runtime(Protocol):
    """A loaded model. It belongs to the thread that opened it: calls from two threads at once are not allowed."""

    name: str
    device: str
    kernels: str

    def run(self, tokens: Tokens, names: tuple[str, ...]) -> dict[str, np.ndarray]:
        """The outputs asked for (`sentence_embedding`, `token_embeddings`) as float32 arrays."""
