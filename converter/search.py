"""The search: the smallest codes that reach the bar."""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from converter.candidate import Judge, Plan
from converter.companions import companions
from converter.job import Job
from converter.quantize.allocate import Allocation, allocate
from converter.quantize.grid import Scheme, schemes, uniform
from converter.targets import TARGETS
from shim.artifact import Record, Stored
from shim.errors import UsageError

if TYPE_CHECKING:  # it imports torch
    from converter.calibration import Calibration, Options, Outputs

ATTEMPTS = {"fast": 4, "balanced": 3, "max": 6}  # plans that are tried, at most
LAST = (1.2, 2.0, 6.0)  # where none of them passes, so many more are tried, their targets divided by these
SPARE = 0.92  # of what is allowed is aimed at: a plan may come out a little worse than predicted
WORSE = 1.7  # the worst text is at least so many times worse than the summed costs predict: they are measured on a sample
# After the first, the second and every later failure the next target is at most this fraction of what was predicted last.
FURTHER = (0.9, 0.65, 0.5)
GROWTH = 0.6  # power of the room that a passing plan leaves, by which the target grows: errors grow faster than predicted
NEAR = 0.85  # of what is allowed, from which on a passing plan counts as the smallest
HOPELESS = 2.0  # times the target is predicted of the widest codes: beyond that they are not tried
RESERVED = (20_000, 2_000)  # bytes for headers, nodes and JSON where a size is asked for: for the model, and for each module


@dataclass(frozen=True)
class Trial:
    """A plan that was tried. predicted, measured: the 1 - cosine that counts, by the options' costs and as it came out.

    size: bytes of what the plan decides. passed: None where only the calibration texts were asked. record: see Candidate.
    """

    plan: Plan
    predicted: float
    measured: float
    size: int = 0
    passed: bool | None = None
    record: Record = field(default_factory=Record)


@dataclass(frozen=True)
class Found:
    """What a round came to. trials: in their order. widest: the widest codes, where they fail, or would by far.

    What widest.measured says is then expected: as much worse than predicted as the last trial was.
    """

    trials: list[Trial]
    widest: Trial | None = None


def fewest_bits(job: Job, calibration: "Calibration", judge: Judge) -> None:
    """The fewest bits that reach the bar, at least the job's; the best that a size allows; or with strict bits, just those.

    First every module is quantized. Where the widest codes fail, or would by far, a second round leaves some modules in full
    precision, as few as will do. Raises UsageError where even the fewest bits are over the size that is asked for.
    """
    plan = uniform(job.checkpoint.matrices, job.full_precision, job.bits)
    if job.request.strict_bits:
        judge(calibration.candidate(plan, {"method": job.effort}))
        return
    ways = {name: _ways(job, name) for name in plan}
    if job.request.max_size:
        _largest(job, calibration, judge, plan, ways)
        return
    options, given = calibration.options(plan, ways)
    exact = {} if job.recipe.task == "rerank" else calibration.outputs()
    predicted = max(predict(options, plan, job), 1e-12)
    measured = job.bar.loss(calibration.distance(given, exact)) if exact else 0.0
    first = Trial(plan, predicted, max(measured, WORSE * predicted))
    found = _search(job, calibration, judge, options, first, exact)
    if found.widest:
        leave_in_full_precision(job, calibration, judge, found.widest.plan, found.widest.measured, found.trials)
    else:
        _keep_best(calibration, judge, found.trials)


def leave_in_full_precision(
    job: Job, calibration: "Calibration", judge: Judge, plan: Plan, measured: float, before: list[Trial] | None = None
) -> None:
    """As much of the plan as reaches the bar, the other modules in full precision.

    measured: the 1 - cosine of the whole plan, as it came out or may come out. before: trials of a round before this one.
    """
    options, _ = calibration.options(plan, {name: [scheme, None] for name, scheme in plan.items()})
    first = Trial(plan, max(predict(options, plan, job), 1e-12), measured)
    found = _search(job, calibration, judge, options, first, {})
    _keep_best(calibration, judge, [*(before or []), *found.trials])


def next_target(first: Trial, trials: list[Trial], allowed: float, attempts: int) -> float | None:
    """The 1 - cosine that the next plan may be predicted to have; None when the search is over.

    first: the plan that the options were measured on, which was not tried. trials: what was, in this order.
    After a failure the target is what was predicted last times allowed / measured; after a pass it grows, until what passed is
    near enough. Where some passed and some failed it lies between them.
    Example: 0.001 is allowed, and what is predicted comes out 1.7 times worse. Targets are then 0.00054; after 0.0012 was
    measured of that 0.00041; after 0.0008 of that 0.00045.
    """
    last = trials[-1] if trials else first
    passed = [trial.predicted for trial in trials if trial.passed]
    failed = [trial.predicted for trial in trials if trial.passed is False]
    extra = len(trials) - attempts
    if extra >= (0 if passed else len(LAST)) or (last.passed and last.measured >= NEAR * allowed):
        return None
    ratio = SPARE * allowed / max(last.measured, 1e-12)
    target = last.predicted * (ratio**GROWTH if last.passed else ratio)
    if trials and not last.passed:
        target = min(target, FURTHER[min(max(len(failed), 1), len(FURTHER)) - 1] * last.predicted)
    if passed and failed and not max(passed) < target < min(failed):
        target = float(np.sqrt(max(passed) * min(failed)))
    return target / LAST[extra] if extra >= 0 else target


def _search(job: Job, calibration: "Calibration", judge: Judge, options: "Options", first: Trial, exact: "Outputs") -> Found:
    """Try plans until one passes near the bar.

    first: the plan that the options were measured on. exact: what the original gives on the calibration texts, which must
    reach the bar, too, before the judge is asked; empty where they need not.
    """
    bar, trials = job.bar, list[Trial]()
    correction = first.measured / first.predicted  # so much worse than predicted do plans come out
    last_round = any(choice.scheme is None for given in options.values() for choice in given)
    while (target := next_target(first, trials, bar.allowed, ATTEMPTS[job.effort])) is not None:
        found = allocate(options, target, bar.on)
        plan, predicted, last = plan_of(found), bar.figure(found.point), trials[-1] if trials else first
        reachable, again = predicted <= target, plan in [trial.plan for trial in trials]
        if not reachable and not last_round and last.passed is False and (again or predicted > HOPELESS * target):
            return Found(trials, Trial(plan, predicted, predicted * last.measured / last.predicted))
        if again or any(trial.passed and found.point.size >= trial.size for trial in trials):
            break
        candidate = calibration.candidate(plan, record(job, found))
        losses = calibration.losses(candidate, exact) if exact else np.zeros((1, 1))
        trial = Trial(plan, predicted, bar.loss(losses), found.point.size, None, candidate.record)
        vetoed = trial.measured > bar.allowed
        if vetoed and reachable:
            if bar.on == "worst":
                options = calibration.with_farthest(options, candidate, losses.max(axis=0) / correction)
            first, *trials = [replace(each, predicted=predict(options, each.plan, job)) for each in [first, *trials, trial]]
            continue
        if (judged := judge(candidate)) is None:  # nothing is verified: what was written last stays
            return Found([])
        del candidate  # its codes are as large as an artifact
        measured = judged.loss if vetoed else max(trial.measured, judged.loss)
        trials.append(replace(trial, measured=measured, passed=judged.passed))
        if judged.passed and vetoed:  # there is nothing wider
            break
    return Found(trials)


def _keep_best(calibration: "Calibration", judge: Judge, trials: list[Trial]) -> None:
    """Let the judge see the smallest that passed last, else the nearest."""
    judged = [trial for trial in trials if trial.passed is not None]
    passed = [trial for trial in judged if trial.passed]
    if passed:
        best = min(passed, key=lambda trial: trial.size)
    elif judged:
        best = min(judged, key=lambda trial: trial.measured)
    elif trials:
        best = trials[-1]
    else:
        return
    if not judged or best is not judged[-1]:
        judge(calibration.candidate(best.plan, best.record))


def _largest(job: Job, calibration: "Calibration", judge: Judge, plan: Plan, ways: dict[str, list[Scheme]]) -> None:
    """The best codes under the size that is asked for."""
    shapes = job.checkpoint.matrices
    rest = _rest(job, plan)
    limit = (job.request.max_size or 0) - rest
    least = sum(min(job.target.stored(shapes[f"{name}.weight"], scheme) for scheme in given) for name, given in ways.items())
    if least > limit:
        size = f"{(rest + least) / 1e6:.1f} MB"
        raise UsageError(f"--max-size: at {job.bits} bits it comes to {size}; fewer --bits make it smaller")
    options, _ = calibration.options(plan, {name: [*given, None] for name, given in ways.items()})
    found = allocate(options, 0.0, job.bar.on, limit)
    judge(calibration.candidate(plan_of(found), record(job, found)))


def predict(options: "Options", plan: Plan, job: Job) -> float:
    """The 1 - cosine that counts, by the summed costs of the plan's modules."""
    rows = [next(each.costs for each in given if each.scheme == plan.get(name)) for name, given in options.items()]
    return job.bar.loss(np.sum(rows, axis=0))


def plan_of(found: Allocation) -> Plan:
    """The modules that an allocation quantizes."""
    return {name: choice.scheme for name, choice in found.chosen.items() if choice.scheme}


def record(job: Job, found: Allocation) -> Record:
    """What `quantization.json` says: of each module its bits, bytes and share of the error; the curve, and the chosen point."""
    shapes = job.checkpoint.matrices
    error, full = sum(choice.costs.mean() for choice in found.chosen.values()), 8 * job.target.stored((1, 1), None)
    tensors: dict[str, Stored] = {}
    for name, choice in found.chosen.items():
        scheme: Stored = {"bits": full}
        if choice.scheme:
            scheme = {"bits": choice.scheme.bits, "group_size": choice.scheme.group_size}
        mean = float(choice.costs.mean())
        tensors[name] = {**scheme, "bytes": choice.size, "cost": mean, "share_of_error": mean / error if error else 0.0}
    count = sum(int(np.prod(shapes[f"{name}.weight"])) for name in found.chosen)
    points = found.curve[:: -(-len(found.curve) // 40)]
    curve = [{"bits_per_weight": 8 * point.size / count, "worst": point.worst, "mean": point.mean} for point in points]
    chosen = {"bits_per_weight": 8 * found.point.size / count, "worst": found.point.worst, "mean": found.point.mean}
    return {"method": job.effort, "parity_on": job.bar.on, "predicted": chosen, "curve": curve, "tensors": tensors}


def _ways(job: Job, name: str) -> list[Scheme]:
    """Every way in which the target stores a module, short of full precision, with at least the job's bits."""
    of_tables = job.target.TABLE_BITS if f"{name}.weight" in job.checkpoint.tables else ()
    widths = sorted(bits for bits in (*TARGETS[job.request.target], *of_tables) if job.bits <= bits < 16)
    return schemes(name, job.checkpoint.matrices[f"{name}.weight"][1], tuple(widths))


def _rest(job: Job, names: Iterable[str]) -> int:
    """Bytes of what the plan does not decide: tensors of full precision, the tokenizer and other files."""
    quantized = {f"{name}.weight" for name in names}
    left = sum(int(np.prod(tensor.shape)) for key, tensor in job.checkpoint.tensors.items() if key not in quantized)
    files = sum(len(content) for content in companions(job.checkpoint).values())
    return left * job.target.stored((1, 1), None) + files + RESERVED[0] + RESERVED[1] * len(quantized)
