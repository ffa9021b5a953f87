"""The search for the fewest bits: what to store of each tensor, tried, measured, and put right by what was measured."""

import hashlib
import json
import shutil
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import torch

import shim
from converter import cache, calibrate, integers
from converter.attempts import Attempts, Goal, Quantized, Short, Tried, error, layers, rounding
from converter.checkpoint import Checkpoint
from converter.measure import Progress
from converter.quantize.allocate import Allocation, Choice, allocate, predicted
from converter.quantize.grid import Codes, Scheme
from converter.quantize.losses import loss, masks_of
from converter.quantize.plan import candidates, uniform
from converter.recipe import Recipe
from shim.architectures import architecture
from shim.errors import UsageError
from shim.text import Tokens

ATTEMPTS = {"fast": 4, "balanced": 3, "max": 6}  # artifacts that are made and measured at most
SPARE = 0.97  # part of the allowed 1 - cosine that an attempt aims at
FARTHER = 1.5  # times as far off as costs that add up foretell is the worst text; of all-MiniLM-L6-v2 1.3 to 2.1
FURTHER = (0.95, 0.85, 0.7)  # of an aim that fell short is the next one's, at most: the first time, the second, and later
LAST = (3.0, 8.0)  # by so much lower the attempts aim that are made beyond those where none passes
NEAR = 0.9  # part of it that must be used up before a passing artifact counts as the smallest
RESERVED = (20_000, 2_000)  # bytes, and bytes for each module: headers, nodes and JSON, when a size is asked for


@dataclass(frozen=True)
class Maker:
    """Makes the codes of a plan, with all that they depend on.

    effort: `fast` rounds to nearest, `balanced` is GPTQ, `max` is GPTQ beside the original, then distillation on `lessons`.
    """

    checkpoint: Checkpoint
    recipe: Recipe
    target: Any
    effort: str
    tokens: list[Tokens]
    lessons: list[Tokens]
    progress: Progress
    kept: set[str] = field(default_factory=set)  # parts of the cache, until the search has ended

    def quantize(self, plan: dict[str, Scheme], method: str, others: dict[str, list[Scheme]]) -> calibrate.Calibrated:
        """Codes by one of calibrate.METHODS, and what `others` would cost; a run that was interrupted goes on where it was."""
        grid, schemes = self.target.GRID, [(name, str(scheme)) for name, scheme in plan.items()]
        kept = self.keep(schemes, str(others), method), self.keep("tables")
        shown = partial(self.progress, "quantize")
        return calibrate.quantize(self.checkpoint, self.recipe, plan, self.tokens, grid, method, shown, others, kept)

    def keep(self, *what: Any) -> str:
        """The part of the cache for what is made of this checkpoint on these tokens, as `what` says."""
        tools = [shim.__version__, torch.__version__]
        key = [*tools, str(self.recipe.model), self.checkpoint.files, str(self.target.GRID), *what]
        digest = hashlib.sha256(json.dumps(key).encode())
        for batch in self.tokens:
            digest.update(batch.input_ids.tobytes())
        kept = f"quantize/{digest.hexdigest()}"
        self.kept.add(kept)
        return kept

    def rounded(self, plan: dict[str, Scheme]) -> calibrate.Calibrated:
        """Codes without calibration, and the costs of no other scheme."""
        parts = rounding(self.checkpoint, plan, self.target.GRID)
        codes = {name: Codes.join(list(parts(name))) for name in plan}
        return calibrate.Calibrated(codes, {name: {scheme: 1.0} for name, scheme in plan.items()})

    def base(self, plan: dict[str, Scheme], others: dict[str, list[Scheme]]) -> calibrate.Calibrated:
        """Codes to measure costs with: each weight by itself, none making up for others."""
        return self.quantize(plan, "gptq", others)

    def make(self, plan: dict[str, Scheme], record: dict[str, Any]) -> Quantized:
        """An attempt with the best codes that the effort allows."""
        if self.effort == "fast":
            return Quantized(plan, rounding(self.checkpoint, plan, self.target.GRID), record)
        if self.effort == "balanced":
            made = self.base(plan, {})
            return Quantized(plan, _stored(made.codes), record, vectors=made.vectors)
        codes, grid = self.quantize(plan, "twin", {}).codes, self.target.GRID
        found = calibrate.distil(self.checkpoint, self.recipe, codes, self.lessons, grid, partial(self.progress, "distil"))
        record = {**record, "distilled": {"before": found.before, "after": found.after}}
        return Quantized(plan, _stored(found.codes), record, changed=found.tensors)

    def seen(self, made: Quantized, exact: dict[str, list[Any]], on: str) -> float:
        """1 - cosine of the `worst` of the texts calibrated on, or their mean; exact: what the original gives there."""
        codes = lambda name: Codes.join(list(made.codes(name))) if name in made.plan else None  # noqa: E731
        changed = replace(self.checkpoint, changed=made.changed)
        losses = loss(exact, made.vectors or calibrate.run(changed, self.recipe, self.tokens, codes), masks_of(self.tokens))
        return float(losses.max() if on == "worst" else losses.mean())


def calibrated(maker: Maker, goal: Goal, short: Short | None = None, nearest: Tried | None = None) -> Attempts:
    """At the lowest bits first, to see on the tokens what each tensor costs, then as these costs allow.

    Vectors of the texts that were calibrated on must be near enough, too, as far as codes go: they are many more than those
    that judge, but nothing is raised to full precision for their sake.
    short: what was tried before, of which only as much is raised to full precision as it must be; how far it came says what
    costs on the tokens are worth on the texts that judge. nearest: what came nearest before.
    Raises UsageError where even the lowest bits are over the size that is asked for.
    """
    checkpoint, recipe, target, progress = maker.checkpoint, maker.recipe, maker.target, maker.progress
    tensors = layers(checkpoint)
    plan = short.plan if short else uniform(tensors, architecture(recipe.architecture).FULL_PRECISION, goal.bits)
    if goal.strict:
        yield maker.make(plan, {"method": maker.effort})
        _forget(maker.kept)
        return None
    shapes = {name: tensors[f"{name}.weight"] for name in plan}
    others = {name: [plan[name]] if short else _ways(name, shape[1], goal.bits, target) for name, shape in shapes.items()}
    rest = _rest(checkpoint, shapes, target)
    limit = np.inf if goal.size is None else goal.size - rest
    least = sum(min(target.stored(shapes[name], scheme) for scheme in given) for name, given in others.items())
    if least > limit:
        size = f"{(rest + least) / 1e6:.1f} MB"
        raise UsageError(f"--max-size: at {goal.bits} bits it comes to {size}; fewer --bits make it smaller")
    base = maker.rounded(plan) if short else maker.base(plan, others)
    costs = calibrate.costs(checkpoint, recipe, base.codes, maker.tokens, partial(progress, "sensitivity"))
    whole = bool(short or goal.size)  # before the widest codes have failed, nothing is left whole to make room for bad ones
    choices = _choices(base, costs, shapes, {name: [*given, *[None] * whole] for name, given in others.items()}, target)
    del base  # its codes are as large as an artifact
    allowed, aim = 1 - goal.parity, (1 - goal.parity) * SPARE if goal.size is None else 0.0
    aim *= getattr(predicted(choices, short.plan), goal.on) / short.error if short else 1 / FARTHER
    best: tuple[int, Quantized] | None = None
    judged: dict[str, Scheme] | None = None  # the plan that was held to the texts that judge last
    tried: list[dict[str, Scheme]] = []
    passed, failed = [0.0], [np.inf]  # predictions of attempts
    exact = {} if short or goal.size or recipe.task == "rerank" else calibrate.run(checkpoint, recipe, maker.tokens)
    for lower in (*[1.0] * ATTEMPTS[maker.effort], *LAST):
        if lower > 1 and best:
            break
        aim /= lower  # where none passed, what was predicted did not come true: last ones that leave much room
        found = allocate(choices, aim, goal.on, limit)
        plan = {name: choice.scheme for name, choice in found.chosen.items() if choice.scheme}
        if plan in tried:
            break
        tried.append(plan)
        record = _record(found, goal, maker.effort, shapes, 8 * target.stored((1, 1), None))
        made = maker.make(plan, record)
        foretold, measured = getattr(found.point, goal.on), maker.seen(made, exact, goal.on) if exact else 0.0
        widest, vetoed, passes = foretold > aim and not whole, measured > allowed, False
        if widest or not vetoed:  # else it has failed already
            parity, judged = (yield made), plan
            if parity is None or goal.size is not None:
                best = nearest = None
                break
            measured = error(parity, goal) if vetoed else max(measured, error(parity, goal))
            passes = parity["verdict"] == "pass" and measured <= allowed
            if not best and (nearest is None or measured < nearest.error):
                nearest = Tried(measured, plan, record)
        if passes and (best is None or found.point.size < best[0]):
            best, nearest = (found.point.size, made), None
        if passes and (vetoed or measured >= NEAR * allowed):
            break
        del made  # its codes, before there are others
        if widest and not best:
            return (yield from calibrated(maker, goal, Short(plan, measured), nearest))
        aim = SPARE * allowed * foretold / max(measured, 1e-12)
        if passes:
            passed.append(foretold)
        else:
            aim = min(aim, FURTHER[min(len(failed), len(FURTHER)) - 1] * foretold)
            failed.append(foretold)
        if best and not max(passed) < aim < min(failed):
            aim = float(np.sqrt(max(passed) * min(failed)))
    if best and best[1].plan is not judged:
        yield best[1]
    elif not best and (last := nearest or Tried(measured, plan, record)).plan is not judged:
        yield maker.make(last.plan, last.record)
    _forget(maker.kept)
    return None


def in_integers(maker: Maker, goal: Goal) -> Attempts:
    """An ONNX graph whose products are in integers, with inputs in 8 bits, too: one attempt."""
    shown, kept = partial(maker.progress, "quantize"), maker.keep("integers", goal.parity)
    found = integers.quantize(maker.checkpoint, maker.recipe, maker.tokens, goal.parity, shown, kept)
    parity = yield Quantized(found.plan, _stored(found.codes), {"method": "integers", "tensors": found.describe()}, found)
    _forget(maker.kept)
    if parity is None or parity["verdict"] == "pass":
        return None
    off = error(parity, goal)
    warnings.warn(f"products in integers reach {1 - off:.5f}, under {goal.parity:g}; only weights are quantized", stacklevel=2)
    return Short(found.plan, off)


def _ways(name: str, columns: int, least: int, target: Any) -> list[Scheme]:
    """Every way in which the target stores the module `name`, short of full precision, with at least so many bits."""
    widths = target.TABLE_BITS if "embed" in name else target.BITS
    return candidates(name, columns, tuple(bits for bits in widths if least <= bits < 16))


def _choices(
    base: calibrate.Calibrated,
    costs: dict[str, np.ndarray],
    shapes: dict[str, tuple[int, ...]],
    schemes: dict[str, list[Scheme | None]],
    target: Any,
) -> dict[str, list[Choice]]:
    """Each module in each of its schemes; the costs are those of the base, times what its objective is of the base's."""

    def choice(name: str, scheme: Scheme | None) -> Choice:
        cost = costs[name] * base.relative[name][scheme] if scheme else np.zeros_like(costs[name])
        return Choice(scheme, target.stored(shapes[name], scheme), cost)

    return {name: [choice(name, scheme) for scheme in given] for name, given in schemes.items()}


def _record(found: Allocation, goal: Goal, effort: str, shapes: dict[str, tuple[int, ...]], full: int) -> dict[str, Any]:
    """What `quantization.json` says: of each tensor its bits, bytes and share of the error; the curve, and the chosen point.

    full: bits of a weight that is not quantized.
    """
    error = sum(choice.costs.mean() for choice in found.chosen.values())
    tensors = {}
    for name, choice in found.chosen.items():
        scheme = {"bits": choice.scheme.bits, "group_size": choice.scheme.group_size} if choice.scheme else {"bits": full}
        mean = float(choice.costs.mean())
        tensors[name] = {**scheme, "bytes": choice.size, "cost": mean, "share_of_error": mean / error if error else 0.0}
    count = sum(rows * columns for rows, columns in shapes.values())
    points = [found.curve[place] for place in sorted({*range(0, len(found.curve), -(-len(found.curve) // 40))})]
    curve = [{"bits_per_weight": 8 * point.size / count, "worst": point.worst, "mean": point.mean} for point in points]
    chosen = {"bits_per_weight": 8 * found.point.size / count, "worst": found.point.worst, "mean": found.point.mean}
    return {"method": effort, "parity_on": goal.on, "predicted": chosen, "curve": curve, "tensors": tensors}


def _rest(checkpoint: Checkpoint, shapes: dict[str, tuple[int, ...]], target: Any) -> int:
    """Bytes of what the plan does not decide: tensors of full precision, the tokenizer and other files."""
    quantized = {f"{name}.weight" for name in shapes}
    left = sum(int(np.prod(tensor.shape)) for key, tensor in checkpoint.tensors.items() if key not in quantized)
    files = sum((checkpoint.directory / name).stat().st_size for name in checkpoint.companions())
    return left * target.stored((1, 1), None) + files + RESERVED[0] + RESERVED[1] * len(shapes)


def _stored(codes: dict[str, Codes]) -> Callable[[str], Iterator[Codes]]:
    return lambda name: iter([codes[name]])


def _forget(kept: set[str]) -> None:
    for part in kept:
        shutil.rmtree(cache.folder() / part, ignore_errors=True)
