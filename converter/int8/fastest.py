"""The fastest products in integers that reach the bar."""

from converter.calibration import Calibration
from converter.candidate import Candidate, HeldCodes, Judge
from converter.int8.products import IntegerProducts
from converter.job import Job
from converter.search import WORSE, Trial, next_target

ATTEMPTS = 3  # choices of how inputs are rounded that are tried; a few more where none of them passes


def fastest(job: Job, calibration: Calibration, judge: Judge) -> float | None:
    """An ONNX graph whose products are in integers, each input rounded as coarsely as the bar lets it be.

    What falls short is made again with the few inputs that cost most rounded more finely. Returns the 1 - cosine of the nearest
    attempt, where none passes.
    """
    products = IntegerProducts(calibration)
    # next_target starts from what is expected: choices come out WORSE than predicted.
    expected = Trial({}, job.bar.allowed, WORSE * job.bar.allowed)
    trials: list[Trial] = []
    tried: list[list[str]] = []  # the way of each site, trial by trial

    def attempt(ways: list[str]) -> Trial | None:
        made = products.made(ways)
        judged = judge(Candidate(HeldCodes(made.codes), {"method": "integers", "tensors": made.describe()}, made))
        return Trial({}, products.predicted(ways), judged.loss, passed=judged.passed) if judged else None

    while (target := next_target(expected, trials, job.bar.allowed, ATTEMPTS)) is not None:
        if (ways := products.ways(target)) in tried:
            break
        if (trial := attempt(ways)) is None:  # nothing is verified: what was written stays
            return None
        tried.append(ways)
        trials.append(trial)
    passed = [place for place, trial in enumerate(trials) if trial.passed]
    if not passed:
        return min(trial.measured for trial in trials)
    best = max(passed, key=lambda place: trials[place].predicted)  # the coarsest inputs, which are the fastest
    if best != len(trials) - 1:
        attempt(tried[best])
    return None
