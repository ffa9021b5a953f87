"""Which tensor gets how many bits: the smallest artifact whose added-up costs stay under a goal, or the best under a size.

A knapsack, solved greedily: of all changes of one tensor, that with the most parity for a byte, again and again.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from converter.quantize.grid import Scheme

SHARPNESS = 8.0  # of the norm over texts by which changes are chosen: near the maximum, but smooth


@dataclass(frozen=True)
class Choice:
    """A way to store one tensor. scheme: None for full precision. size: bytes. costs: (rows,) 1 - cosine of each text."""

    scheme: Scheme | None
    size: int
    costs: np.ndarray


@dataclass(frozen=True)
class Point:
    """One place on the way from the smallest artifact to the best: its bytes, and the predicted 1 - cosine."""

    size: int
    worst: float
    mean: float


@dataclass(frozen=True)
class Allocation:
    """chosen: of each tensor; point: what that comes to; curve: all points, from the smallest artifact to the best."""

    chosen: dict[str, Choice]
    point: Point
    curve: list[Point]


def allocate(choices: dict[str, list[Choice]], goal: float, on: str = "worst", limit: float = np.inf) -> Allocation:
    """The first allocation on the way whose 1 - cosine is at most `goal`, or the last of a way that stays within `limit` bytes.

    choices: of each tensor, in any order. on: `worst` text, or the `mean` of all. Where even the best does not reach the goal,
    it is the best; where even the smallest is over the limit, it is the smallest.
    """
    measure: Callable[[np.ndarray], float] = _norm if on == "worst" else np.mean
    chosen = {name: min(given, key=lambda choice: (choice.size, choice.costs.sum())) for name, given in choices.items()}
    total = np.sum([choice.costs for choice in chosen.values()], axis=0)
    size = sum(choice.size for choice in chosen.values())
    best, curve = dict(chosen), [_point(size, total)]
    reached = met_at_start = getattr(curve[0], on) <= goal
    point = curve[0]
    while (step := _step(choices, chosen, total, measure, limit - size)) is not None:
        name, choice = step
        total = total - chosen[name].costs + choice.costs
        size += choice.size - chosen[name].size
        chosen[name] = choice
        curve.append(_point(size, total))
        if not reached:
            best, point = dict(chosen), curve[-1]
            reached = getattr(point, on) <= goal
    if reached and not met_at_start:
        best = _trimmed(choices, best, goal, on)
        point = _point(sum(c.size for c in best.values()), np.sum([c.costs for c in best.values()], axis=0))
    return Allocation(best, point, curve)


def _step(
    choices: dict[str, list[Choice]],
    chosen: dict[str, Choice],
    total: np.ndarray,
    measure: Callable[[np.ndarray], float],
    room: float,
) -> tuple[str, Choice] | None:
    """The change of one tensor that gains most for each byte that it adds, of at most `room`; None where nothing gains."""
    now, most, step = measure(total), 0.0, None
    for name, current in chosen.items():
        rest = total - current.costs
        for choice in choices[name]:
            if 0 < choice.size - current.size <= room:
                gain = (now - measure(rest + choice.costs)) / (choice.size - current.size)
                if gain > most:
                    most, step = gain, (name, choice)
    return step


def _trimmed(choices: dict[str, list[Choice]], chosen: dict[str, Choice], goal: float, on: str) -> dict[str, Choice]:
    """The same less what the last steps made needless: smaller choices that stay within the goal, the greatest saving first."""
    chosen = dict(chosen)
    total = np.sum([choice.costs for choice in chosen.values()], axis=0)
    savings = [(chosen[name].size - choice.size, name, choice) for name, given in choices.items() for choice in given]
    for _, name, choice in sorted(savings, key=lambda saving: -saving[0]):
        changed = total - chosen[name].costs + choice.costs
        if choice.size < chosen[name].size and getattr(_point(0, changed), on) <= goal:
            total, chosen[name] = changed, choice
    return chosen


def _point(size: int, total: np.ndarray) -> Point:
    return Point(int(size), float(np.maximum(total, 0).max()), float(np.maximum(total, 0).mean()))


def _norm(total: np.ndarray) -> float:
    peak = total.max()
    return float(peak * np.mean((total / peak) ** SHARPNESS) ** (1 / SHARPNESS)) if peak > 0 else 0.0
