"""One target per runtime: pack a checkpoint into the files that the runtime loads."""

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Protocol, cast

from converter.candidate import Candidate
from converter.quantize.grid import Grid, Scheme
from converter.recipe import Recipe
from converter.source.checkpoint import Checkpoint

# Target -> the bits that a weight may have. A target is a module of this folder, imported when it is wanted.
TARGETS = {"mlx": (2, 3, 4, 5, 6, 8, 16), "onnx": (4, 8, 16, 32)}
DEFAULT_BITS = {"mlx": 4, "onnx": 8}


class Target(Protocol):
    """What a module of this folder has.

    TABLE_BITS: bits that a table, of which rows are looked up, may have beside those of every weight. GRID: what is stored
    beside the codes. INTEGERS: whether inputs of products can be rounded to 8 bits, too.
    """

    TABLE_BITS: tuple[int, ...]
    GRID: Grid
    INTEGERS: bool

    def stored(self, shape: tuple[int, ...], scheme: Scheme | None) -> int:
        """Bytes of a (rows, columns) weight in this scheme, None for full precision."""

    def write(
        self,
        recipe: Recipe,
        checkpoint: Checkpoint,
        candidate: Candidate,
        bits: int,
        directory: Path,
        done: Callable[[], None],
    ) -> None:
        """Write the weights and their configuration into `directory`; `done` is called after each tensor.

        Weights of the candidate's plan are stored as its codes, the others in the target's full precision at these bits.
        """


def load_target(name: str) -> Target:
    """The target of this name, one of TARGETS."""
    return cast(Target, importlib.import_module(f"{__name__}.{name}"))
