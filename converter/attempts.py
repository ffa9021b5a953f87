"""What is tried: a plan and its codes, one attempt after the other, each with what was measured of the one before it."""

from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from converter.quantize.grid import Codes, Scheme, round_to_nearest
from converter.quantize.plan import GROUP_SIZES, uniform
from converter.recipe import Recipe
from converter.source.checkpoint import Checkpoint
from shim.architectures import architecture

if TYPE_CHECKING:  # it imports torch
    from converter.quantize.sites import Integers

Parity = dict[str, Any]


@dataclass(frozen=True)
class Goal:
    """What is asked for. bits: the lowest to use. on: `worst` or `mean`. size: bytes of the whole artifact, or None."""

    bits: int
    parity: float
    on: str = "worst"
    strict: bool = False
    size: int | None = None


@dataclass(frozen=True)
class Quantized:
    """One attempt: the scheme of every quantized module, its codes in parts along its rows, and how it was decided.

    integers: what an ONNX graph whose products are in integers is made of, instead of the plan and the codes.
    changed: vectors that are not the checkpoint's, float32. vectors: what it gives on the texts that were calibrated on, where
    making it has shown that.
    """

    plan: dict[str, Scheme]
    codes: Callable[[str], Iterator[Codes]]
    record: dict[str, Any] = field(default_factory=dict)
    integers: "Integers | None" = None
    changed: dict[str, np.ndarray] = field(default_factory=dict)
    vectors: dict[str, list[Any]] = field(default_factory=dict)


class Whole(Mapping[str, Codes]):
    """{module: Codes} of an attempt, put together when they are asked for: all at once they are as large as an artifact."""

    def __init__(self, made: Quantized):
        self.made = made

    def __getitem__(self, name: str) -> Codes:
        if name not in self.made.plan:
            raise KeyError(name)
        return Codes.join(list(self.made.codes(name)))

    def __iter__(self) -> Iterator[str]:
        return iter(self.made.plan)

    def __len__(self) -> int:
        return len(self.made.plan)


@dataclass(frozen=True)
class Short:
    """What was tried last and did not do: its plan, and the 1 - cosine that was measured of it."""

    plan: dict[str, Scheme]
    error: float


@dataclass(frozen=True)
class Tried:
    """An attempt that did not pass: how far off it was, and what it takes to make it again."""

    error: float
    plan: dict[str, Scheme]
    record: dict[str, Any]


# Is sent the parity of what it gave, None when that was not measured; returns what was left short of the goal, if so.
Attempts = Generator[Quantized, Parity | None, Short | None]


def rounded(checkpoint: Checkpoint, recipe: Recipe, goal: Goal, target: Any) -> Attempts:
    """Rounding to nearest with the same bits everywhere; where that falls short, in smaller groups."""
    full = architecture(recipe.architecture).FULL_PRECISION
    short = None
    for sizes in (GROUP_SIZES,) if goal.strict else (GROUP_SIZES, GROUP_SIZES[1:]):
        plan = uniform(layers(checkpoint), full, goal.bits, sizes) if goal.bits < 16 else {}
        parity = yield Quantized(plan, rounding(checkpoint, plan, target.GRID), {"method": "fast"} if plan else {})
        if parity is None or parity["verdict"] == "pass" or not plan:
            return None
        short = Short(plan, error(parity, goal))
    return short


def error(parity: Parity, goal: Goal) -> float:
    """1 - cosine of the head that is farthest off, of its worst text or on average."""
    return 1 - min(head[goal.on] for head in parity["heads"].values())


def layers(checkpoint: Checkpoint) -> dict[str, tuple[int, ...]]:
    """Name -> shape of the tensors that may be quantized: all but those of heads."""
    return {key: tensor.shape for key, tensor in checkpoint.tensors.items() if key not in checkpoint.heads}


def rounding(checkpoint: Checkpoint, plan: dict[str, Scheme], grid: Any) -> Callable[[str], Iterator[Codes]]:
    """Codes of a module of the plan, rounded to nearest, in parts along its rows."""
    return lambda name: (round_to_nearest(part, plan[name], grid) for part in checkpoint.chunks(f"{name}.weight"))
