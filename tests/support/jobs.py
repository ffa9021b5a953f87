"""Jobs and calibrations for tests of the parts that a conversion goes through."""

from typing import Any

from converter.calibration import Calibration
from converter.job import Job, Request
from converter.recipe import Recipe
from converter.source.checkpoint import Checkpoint
from converter.targets import load_target
from shim.parity import Bar
from shim.text import Tokens


def job_of(
    checkpoint: Checkpoint, recipe: Recipe, target: str = "mlx", effort: str = "balanced", cosine: float = 0.999, **asked: Any
) -> Job:
    """A job of 4 bits, or those that are asked for, that is verified on nothing."""
    request = Request(recipe, target, **{"bits": 4, **asked})
    return Job(request, recipe, checkpoint, load_target(target), request.bits or 4, Bar(cosine), effort, [], "")


def calibration_of(checkpoint: Checkpoint, recipe: Recipe, tokens: list[Tokens], **job: Any) -> Calibration:
    """What the tokens say of `job_of`."""
    return Calibration(job_of(checkpoint, recipe, **job), tokens, lambda *_: None)
