"""One file per runtime. Each gives `open_runtime(directory, manifest, device)`, whose object turns Tokens into named arrays."""

from typing import Protocol

import numpy as np

from shim.text import Tokens

PRESENT = "present_key_values"


class Runtime(Protocol):
    """A loaded model. It belongs to the thread that opened it: calls from two threads at once are not allowed."""

    name: str
    device: str
    kernels: str

    takes_past: bool  # whether keys and values may stand for tokens that all rows begin with

    def run(self, tokens: Tokens, names: tuple[str, ...], past: np.ndarray | None = None) -> dict[str, np.ndarray]:
        """The outputs asked for (`sentence_embedding`, `token_embeddings`) as float32 arrays.

        past: where it is taken, the output PRESENT of the tokens that every row has before those of `tokens`: keys and values
        of their first row, (2 * layers, tokens, groups * d). Padding is then on the right.
        """
