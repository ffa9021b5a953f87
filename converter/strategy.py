"""How a job's artifact is found: by rounding, with products in integers, or by the search for the fewest bits."""

import warnings
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from converter.candidate import Candidate, Judge, Plan, RoundedCodes
from converter.job import CALIBRATED_BELOW, FULL_PRECISION_FROM, INTEGER_BITS, Job
from converter.proof.measure import Progress
from converter.quantize.grid import GROUP_SIZES, uniform
from converter.search import fewest_bits, leave_in_full_precision

if TYPE_CHECKING:  # it imports torch
    from converter.calibration import Calibration

Strategy = Callable[[Judge], None]  # the candidate that it shows to the judge last is the one that is kept


def strategy(job: Job, progress: Progress) -> Strategy:
    """How the job's artifact is found. Raises UsageError for calibration texts that will not do."""
    if job.effort == "fast":
        return partial(rounded, job, progress)
    return partial(calibrated, job, open_calibration(job, progress))


def stages(job: Job) -> list[str]:
    """What a conversion goes through at least, by the names that it reports its progress under."""
    calibrated, integers = job.effort != "fast", job.target.INTEGERS and job.bits == INTEGER_BITS and not job.request.max_size
    quantizing = ["quantize"] * calibrated + ["sensitivity"] * (calibrated and not integers and not job.request.strict_bits)
    return ["reference"] * job.request.verified + quantizing + ["convert"] + ["verify"] * job.request.verified


def open_calibration(job: Job, progress: Progress) -> "Calibration":
    """The texts to calibrate on, and what they say. Raises UsageError for texts that will not do."""
    from converter.calibration import Calibration
    from converter.corpus import calibration

    request, checkpoint = job.request, job.checkpoint
    if job.effort == "fast":
        tokens = calibration.unjudged_tokens(checkpoint, job.verification)
    else:
        tokens = calibration.calibration_tokens(checkpoint, request.calibration, job.verification, job.effort)
    return Calibration(job, tokens, progress)


def rounded(job: Job, progress: Progress, judge: Judge) -> None:
    """Rounding to nearest with the same bits everywhere; then in smaller groups; then with some modules in full precision."""
    plan: Plan = {}
    for sizes in (GROUP_SIZES,) if job.request.strict_bits else (GROUP_SIZES, GROUP_SIZES[1:]):
        if job.bits < FULL_PRECISION_FROM:
            plan = uniform(job.checkpoint.matrices, job.full_precision, job.bits, sizes)
        codes = RoundedCodes(job.checkpoint, plan, job.target.GRID)
        # Rounded inputs multiply faster, and nothing but the verification can say whether they are near enough.
        for by_block in (True, False) if plan and job.target.INTEGERS and job.request.verified else (False,):
            judged = judge(Candidate(codes, {"method": "fast"} if plan else {}, by_block=by_block))
            if judged is None or judged.passed or not plan:
                return
    assert judged
    if not job.request.strict_bits and job.bits >= CALIBRATED_BELOW:  # fewer bits want calibration, which was not asked for
        with open_calibration(job, progress) as calibration:
            leave_in_full_precision(job, calibration, judge, plan, judged.loss)


def calibrated(job: Job, calibration: "Calibration", judge: Judge) -> None:
    """Products in integers where the target has them, at 8 bits; else, and where they fall short, the search."""
    with calibration:
        if job.target.INTEGERS and job.bits == INTEGER_BITS and not job.request.max_size:
            from converter.int8.fastest import fastest  # imports torch

            if (loss := fastest(job, calibration, judge)) is None:
                return
            reached = f"products in integers reach {1 - loss:.5f}, under {job.bar.cosine:g}"
            warnings.warn(f"{reached}; only weights are quantized", stacklevel=2)
        fewest_bits(job, calibration, judge)
