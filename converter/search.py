"""The search for the fewest bits: what to store of each tensor, tried, measured, and put right by what was measured."""

import warnings
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from converter import calibrate, integers
from converter.aims import Aims
from converter.attempts import Attempts, Goal, Quantized, Short, Tried, Whole, error, layers
from converter.companions import companions
from converter.maker import Maker, stored
from converter.quantize.allocate import Allocation, Choice, allocate
from converter.quantize.grid import Codes, Scheme
from converter.quantize.plan import candidates, uniform
from converter.quantize.sensitivity import affordable, farthest
from converter.source.checkpoint import Checkpoint
from shim.architectures import architecture
from shim.errors import UsageError
from shim.text import Tokens

FARTHER = 1.7  # times what added-up costs of some texts foretell is the worst of all, at least
FEW = 4  # as many tokens as tell what tensors cost, over this, tell it of the texts that came out farthest off
RESERVED = (20_000, 2_000)  # bytes, and bytes for each module: headers, nodes and JSON, when a size is asked for


def calibrated(maker: Maker, short: Short | None = None) -> Attempts:
    """At the lowest bits first, to see on the tokens what each tensor costs, then as these costs allow.

    Vectors of the texts that were calibrated on must be near enough, too, as far as codes go: they are many more than those
    that judge. Only where the widest codes fail the latter, or would by far, is anything left whole, as little as will do.
    short: what was tried before, and fell short; of that, too, only what is left whole is decided.
    Raises UsageError where even the lowest bits are over the size that is asked for.
    """
    checkpoint, recipe, target, goal = maker.checkpoint, maker.recipe, maker.target, maker.goal
    tensors = layers(checkpoint)
    plan = short.plan if short else uniform(tensors, architecture(recipe.architecture).FULL_PRECISION, goal.bits)
    if goal.strict:
        yield maker.make(plan, {"method": maker.effort})
        return None
    shapes = {name: tensors[f"{name}.weight"] for name in plan}
    others = {name: [plan[name]] if short else _ways(name, shape[1], goal.bits, target) for name, shape in shapes.items()}
    rest = _rest(checkpoint, shapes, target)
    limit = np.inf if goal.size is None else goal.size - rest
    least = sum(min(target.stored(shapes[name], scheme) for scheme in given) for name, given in others.items())
    if least > limit:
        size = f"{(rest + least) / 1e6:.1f} MB"
        raise UsageError(f"--max-size: at {goal.bits} bits it comes to {size}; fewer --bits make it smaller")
    base = maker.rounded(plan) if short else maker.quantize(plan, "gptq", others)
    costs = _costs(maker, base.codes, maker.tokens)
    whole = bool(short or goal.size)  # before the widest codes have failed, nothing is left whole to make room for bad ones
    ways = {name: [*given, *[None] * whole] for name, given in others.items()}
    choices = _choices(base.relative, costs, shapes, ways, target)
    vectors = base.vectors
    del base  # its codes are as large as an artifact
    exact = {} if short or goal.size or recipe.task == "rerank" else calibrate.run(checkpoint, recipe, maker.tokens)
    foretold = max(_all(_sum(costs), goal.on), 1e-12)
    off = _all(maker.off(vectors, exact), goal.on) if exact else 0.0
    farther = short.error / foretold if short else max(FARTHER, off / foretold)
    allowed = 1 - goal.parity
    aims = Aims(maker.effort, allowed, np.inf if goal.size else farther, whole)
    best: tuple[int, Quantized] | None = None
    nearest: Tried | None = None
    last: Tried | None = None
    judged: dict[str, Scheme] | None = None  # the plan that was held to the texts that judge last
    tried: list[dict[str, Scheme]] = []
    for aim in aims:
        found = allocate(choices, aim, goal.on, limit)
        plan, foretold = _plan(found), getattr(found.point, goal.on)
        widest = foretold > aim and not aims.whole
        if widest and tried and tried[-1] is judged and (foretold > aims.hopeless or plan in tried):
            base = maker.quantize(plan, "gptq", {})  # of so many bits other texts and tensors matter than of few
            costs = _costs(maker, base.codes, maker.tokens)
            del base
            same, ways = {name: {plan[name]: 1.0} for name in plan}, {name: [plan[name], None] for name in plan}
            choices = _choices(same, costs, shapes, ways, target)
            aims.leave_whole(_all(_sum(costs), goal.on) / max(foretold, 1e-12))
            widest, exact = False, {}
            found = allocate(choices, aims.aim, goal.on, limit)
            plan, foretold = _plan(found), getattr(found.point, goal.on)
        if plan in tried:
            break
        tried.append(plan)
        if best and found.point.size >= best[0]:
            aims.needless(foretold)
            continue
        record = _record(found, goal, maker.effort, shapes, 8 * target.stored((1, 1), None))
        made = maker.make(plan, record)
        losses = maker.seen(made, exact) if exact else np.zeros(1)
        measured = _all(losses, goal.on)
        last = Tried(measured, plan, record)
        vetoed, passes = measured > allowed, False
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
        if passes and (vetoed or aims.done(measured)):
            break
        if looked := vetoed and not widest and goal.on == "worst":
            choices = _with_farthest(choices, maker, made, losses.max(axis=0) / farther)
            aims.learnt()
        del made  # its codes, before there are others
        if not looked:
            aims.measured(foretold, measured, passes)
    if best and best[1].plan is not judged:
        yield best[1]
    elif not best and (again := nearest or last) and again.plan is not judged:
        yield maker.make(again.plan, again.record)
    return None


def in_integers(maker: Maker) -> Attempts:
    """An ONNX graph whose products are in integers, with inputs in 8 bits, too: one attempt."""
    goal, shown, kept = maker.goal, partial(maker.progress, "quantize"), maker.keep("integers")
    found = integers.quantize(maker.checkpoint, maker.recipe, maker.tokens, goal.parity, shown, kept)
    parity = yield Quantized(found.plan, stored(found.codes), {"method": "integers", "tensors": found.describe()}, found)
    if parity is None or parity["verdict"] == "pass":
        return None
    off = error(parity, goal)
    warnings.warn(f"products in integers reach {1 - off:.5f}, under {goal.parity:g}; only weights are quantized", stacklevel=2)
    return Short(found.plan, off)


def _ways(name: str, columns: int, least: int, target: Any) -> list[Scheme]:
    """Every way in which the target stores the module `name`, short of full precision, with at least so many bits."""
    widths = target.TABLE_BITS if "embed" in name else target.BITS
    return candidates(name, columns, tuple(bits for bits in widths if least <= bits < 16))


def _costs(maker: Maker, codes: Mapping[str, Codes], tokens: list[Tokens]) -> dict[str, np.ndarray]:
    """What each module's codes cost by themselves."""
    return calibrate.costs(maker.checkpoint, maker.recipe, codes, tokens, partial(maker.progress, "sensitivity"))


def _all(losses: np.ndarray, on: str) -> float:
    """Of the `worst` text, or the mean; losses: (rows,), or (heads, texts), whose mean is the worst head's."""
    return float((losses if on == "worst" else losses.mean(axis=-1)).max())


def _sum(costs: dict[str, np.ndarray]) -> np.ndarray:
    return np.asarray(np.sum(list(costs.values()), axis=0))


def _with_farthest(
    choices: dict[str, list[Choice]], maker: Maker, made: Quantized, losses: np.ndarray
) -> dict[str, list[Choice]]:
    """The same with rows for the texts that came out farthest off, of which those before foretold too little.

    losses: (texts,) what the rows of each text come to for the plan of `made`.
    """
    codes = Whole(made)
    texts, losses = farthest(maker.tokens, losses, affordable(codes) // FEW)
    costs = _costs(maker, codes, texts)
    total = _sum(costs).reshape(-1, len(losses)).max(axis=0)  # of the worst head
    found = {}
    for name, given in choices.items():
        rows = (costs[name].reshape(-1, len(losses)) * (losses / np.maximum(total, 1e-12))).ravel()
        least = max(next(choice.costs.sum() for choice in given if choice.scheme == made.plan[name]), 1e-30)
        found[name] = [replace(c, costs=np.append(c.costs, rows * (c.costs.sum() / least))) for c in given]
    return found


def _choices(
    relative: dict[str, dict[Scheme, float]],
    costs: dict[str, np.ndarray],
    shapes: dict[str, tuple[int, ...]],
    schemes: dict[str, list[Scheme | None]],
    target: Any,
) -> dict[str, list[Choice]]:
    """Each module in each of its schemes; the costs are those that were measured, times what its objective is of that one's."""

    def choice(name: str, scheme: Scheme | None) -> Choice:
        cost = costs[name] * relative[name][scheme] if scheme else np.zeros_like(costs[name])
        return Choice(scheme, target.stored(shapes[name], scheme), cost)

    return {name: [choice(name, scheme) for scheme in given] for name, given in schemes.items()}


def _plan(found: Allocation) -> dict[str, Scheme]:
    return {name: choice.scheme for name, choice in found.chosen.items() if choice.scheme}


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
    points = found.curve[:: -(-len(found.curve) // 40)]
    curve = [{"bits_per_weight": 8 * point.size / count, "worst": point.worst, "mean": point.mean} for point in points]
    chosen = {"bits_per_weight": 8 * found.point.size / count, "worst": found.point.worst, "mean": found.point.mean}
    return {"method": effort, "parity_on": goal.on, "predicted": chosen, "curve": curve, "tensors": tensors}


def _rest(checkpoint: Checkpoint, shapes: dict[str, tuple[int, ...]], target: Any) -> int:
    """Bytes of what the plan does not decide: tensors of full precision, the tokenizer and other files."""
    quantized = {f"{name}.weight" for name in shapes}
    left = sum(int(np.prod(tensor.shape)) for key, tensor in checkpoint.tensors.items() if key not in quantized)
    files = sum(len(content) for content in companions(checkpoint).values())
    return left * target.stored((1, 1), None) + files + RESERVED[0] + RESERVED[1] * len(shapes)
