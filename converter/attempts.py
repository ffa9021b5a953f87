"""What is tried: a plan and its codes, one attempt after the other, each with what was measured of the one before it."""

from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field
from typing import Any

from converter.checkpoint import Checkpoint
from converter.quantize.grid import Codes, Scheme, round_to_nearest
from converter.quantize.plan import GROUP_SIZES, uniform
from converter.recipe import Recipe
from shim.architectures import architecture

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
    """One attempt: the scheme of every quantized module, its codes in parts along its rows, and how it was decided."""

    plan: dict[str, Scheme]
    codes: Callable[[str], Iterator[Codes]]
    record: dict[str, Any] = field(default_factory=dict)


Attempts = Generator[Quantized, Parity | None, None]  # is sent the parity of what it gave, None when it was not measured


def rounded(checkpoint: Checkpoint, recipe: Recipe, goal: Goal, target: Any) -> Attempts:
    """Rounding to nearest with the same bits everywhere; where that falls short, in smaller groups."""
    full = architecture(recipe.architecture).FULL_PRECISION
    for sizes in (GROUP_SIZES,) if goal.strict else (GROUP_SIZES, GROUP_SIZES[1:]):
        plan = uniform(layers(checkpoint), full, goal.bits, sizes) if goal.bits < 16 else {}
        parity = yield Quantized(plan, _rounding(checkpoint, plan, target.GRID), {"method": "rounded"} if plan else {})
        if parity is None or parity["verdict"] == "pass" or not plan:
            return


def layers(checkpoint: Checkpoint) -> dict[str, tuple[int, ...]]:
    """Name -> shape of the tensors that may be quantized: all but those of heads."""
    return {key: tensor.shape for key, tensor in checkpoint.tensors.items() if key not in checkpoint.heads}


def _rounding(checkpoint: Checkpoint, plan: dict[str, Scheme], grid: Any) -> Callable[[str], Iterator[Codes]]:
    return lambda name: (round_to_nearest(part, plan[name], grid) for part in checkpoint.chunks(f"{name}.weight"))
