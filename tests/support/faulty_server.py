"""`shim serve`, but what a batch does is told by the file FAULT: raise, oom, nan, exit, hang, slow and a number of seconds,
hold, or rot; and with bug, an answer cannot be put together.

A text that holds the word `poison` brings the fault about; without one in it, a batch is only ever slow, held until the file
says something else, or all NaN (rot).
"""

import os
import time
from pathlib import Path

import numpy as np

from shim import model
from shim.cli import main

FAULT = Path(os.environ["FAULT"])
COUNT = Path(os.environ["FAULT"] + ".count")
honest, put_together = model.Model.compute, model.Model.embeddings


def compute(self, encoded, heads):  # type: ignore[no-untyped-def]
    """`Model.compute` after the fault of the moment."""
    kind, _, seconds = (FAULT.read_text() if FAULT.exists() else "").partition(" ")
    with COUNT.open("a") as file:
        file.write(f"{len(encoded)}\n")
    if kind == "slow":
        time.sleep(float(seconds))
    while kind == "hold" and FAULT.exists() and FAULT.read_text() == "hold":
        time.sleep(0.02)
    ids = set(self.encoder.tokenizer.encode("poison", add_special_tokens=False).ids)
    poisoned = [row for row, item in enumerate(encoded) if ids & set(item.ids)]
    if poisoned and kind == "raise":
        raise RuntimeError("a text of a client: secret")
    if poisoned and kind == "oom":
        raise MemoryError
    while poisoned and kind == "hang" and FAULT.exists():
        time.sleep(0.02)
    if poisoned and kind == "exit":
        raise SystemExit
    if kind == "rot":
        poisoned = list(range(len(encoded)))
    if poisoned and kind in ("nan", "rot"):
        run = self.runtime.run

        def broken(tokens, names):  # type: ignore[no-untyped-def]
            return {name: np.where(np.isin(np.arange(len(array)), poisoned).reshape(-1, *[1] * (array.ndim - 1)), np.nan, array)
                    for name, array in run(tokens, names).items()}  # fmt: skip

        self.runtime.run = broken
        try:
            return honest(self, encoded, heads)
        finally:
            self.runtime.run = run
    return honest(self, encoded, heads)


def embeddings(self, *arguments):  # type: ignore[no-untyped-def]
    """`Model.embeddings`, with its bug."""
    if FAULT.exists() and FAULT.read_text() == "bug":
        raise ZeroDivisionError("a text of a client: secret")
    return put_together(self, *arguments)


model.Model.compute = compute  # type: ignore[method-assign]
model.Model.embeddings = embeddings  # type: ignore[method-assign]
main()
