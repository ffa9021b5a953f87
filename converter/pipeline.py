"""The stages in order: recipe -> source -> quantize -> target -> verify -> seal -> rename."""

import contextlib
import dataclasses
import importlib
import importlib.metadata
import json
import platform
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import shim
from converter import card, companions, corpus
from converter.attempts import Attempts, Goal, Quantized, layers, rounded
from converter.proof.measure import Progress, check_queries, measure, prepare
from converter.quantize.plan import uniform
from converter.recipe import Recipe
from converter.source.checkpoint import Checkpoint, described
from converter.source.open import open_source
from converter.staging import check_destination, empty, staged
from shim import artifact
from shim.architectures import architecture
from shim.artifact import Manifest
from shim.errors import NotFiniteError, UsageError

if TYPE_CHECKING:  # it imports torch
    from converter.maker import Maker

EFFORTS = ("fast", "balanced", "max")
CALIBRATED_BELOW = 8  # bits under which rounding alone does not do, so that calibration is the default
COVERING = 800  # texts made of ours, with words that those do not have
RAISING = 6000  # about so many calibration tokens show what to raise where rounding everything alike fell short
TARGETS = ("mlx", "onnx")  # a module each in converter/targets, imported when it is wanted
PACKAGES = ("torch", "transformers", "mlx", "onnxruntime", "onnx-ir", "tokenizers", "numpy")


@dataclasses.dataclass(frozen=True)
class Request:
    """One conversion, as asked for on the command line."""

    recipe: Recipe
    target: str
    bits: int | None = None
    source: str | None = None
    out: Path = Path("artifacts")
    parity: float | None = None
    corpus: Path = corpus.VERIFICATION
    calibration: Path | None = None  # texts to calibrate on, None for ours
    effort: str | None = None  # one of EFFORTS; None for what the bits need
    parity_on: str = "worst"  # or "mean"
    strict_bits: bool = False
    max_size: int | None = None  # bytes of the whole artifact
    verified: bool = True
    force: bool = False
    accept_license: bool = False


def convert(request: Request, progress: Progress) -> tuple[Path, Manifest]:
    """Make the artifact, prove it, and put it under its final name; its verdict may be `fail`, which the caller must show.

    Raises UsageError, SourceError or NotFiniteError; then nothing is left under the final name.
    """
    target = _target(request.target)
    recipe = request.recipe
    if re.search(r"\bnc\b|non-?commercial", recipe.license.lower()) and not request.accept_license:
        raise UsageError(f"{recipe.name}: its license, {recipe.license}, forbids commercial use; --accept-license takes it so")
    bits = request.bits if request.bits is not None else 4 if request.max_size else target.DEFAULT_BITS
    if bits not in target.BITS:
        raise UsageError(f"--bits {bits}: {request.target} has {', '.join(map(str, target.BITS))}")
    parity = recipe.parity.cosine if request.parity is None else request.parity
    if not 0 < parity <= 1:
        raise UsageError(f"parity must be over 0 and at most 1, not {parity}")
    destination = request.out / (name := f"{recipe.name}-{request.target}-{bits}bit")
    check_destination(destination, request.force)
    texts, digest = corpus.judges(request.corpus, recipe.task), artifact.hash_file(request.corpus)
    checkpoint = open_source(recipe, request.source)
    recipe = dataclasses.replace(recipe, model=checkpoint.spec)
    request = dataclasses.replace(request, recipe=recipe)
    check_queries(checkpoint, recipe.model, recipe.task, texts)
    module = architecture(recipe.architecture)
    if request.target == "onnx":
        checkpoint = checkpoint.without(module.OPTIONAL)  # a graph holds what it computes with, nothing more
    if bits < 16 and not uniform(layers(checkpoint), module.FULL_PRECISION, bits):
        raise UsageError(f"--bits {bits}: no matrix of {recipe.name} has rows of a multiple of 32; take --bits 16")
    goal = Goal(bits, parity, request.parity_on, request.strict_bits, request.max_size)
    attempts = _attempts(request, checkpoint, goal, texts, progress)
    witnessed: dict[str, Any] = {}
    if request.verified:
        with contextlib.suppress(NotFiniteError):  # kept while memory is free; whoever quantizes names a weight that is NaN
            witnessed = prepare(checkpoint, recipe.task, texts, progress)
    with staged(destination, request.force) as directory:
        made: Quantized | None = next(attempts)
        while made is not None:
            empty(directory)
            _write(request, checkpoint, made, bits, directory, progress)
            manifest = Manifest(
                schema=artifact.SCHEMA,
                name=name,
                recipe=recipe.name,
                task=recipe.task,
                target=request.target,
                bits=bits,
                source=described(checkpoint),
                model=recipe.model,
                quantization=_quantization(made, checkpoint, directory),
                files=artifact.hash_files(directory),
                parity={"verdict": "unverified", "target": parity, "on": goal.on},
                tool={"version": shim.__version__, "packages": _packages()},
                license=recipe.license,
                created=datetime.now(UTC).isoformat(timespec="seconds"),
            )
            artifact.write(directory, manifest)
            if request.verified:
                report = measure(directory, manifest, checkpoint, texts, parity, goal.on, witnessed, progress)
                manifest = dataclasses.replace(manifest, parity={**report, "corpus_sha256": digest})
                artifact.write(directory, manifest)
            (directory / "README.md").write_text(card.card(manifest, card.PLOT in manifest.files), encoding="utf-8")
            made = None  # lets go of its codes, before there are others
            with contextlib.suppress(StopIteration):
                made = attempts.send(manifest.parity if request.verified else None)
    return destination, manifest


def _attempts(request: Request, checkpoint: Checkpoint, goal: Goal, judges: list[corpus.Text], progress: Progress) -> Attempts:
    """Rounding, where that is asked for or enough; else the search, which needs torch and texts to calibrate on.

    Raises UsageError for what cannot be, and reads the user's texts, before anything that takes time.
    """
    effort = request.effort or ("balanced" if goal.bits < CALIBRATED_BELOW or request.calibration or goal.size else "fast")
    if goal.strict and goal.size:
        raise UsageError("--strict-bits fixes the size; leave it out, or --max-size")
    if effort != "fast" and goal.bits < 16:
        return _calibrated(request, _maker(request, checkpoint, goal, effort, judges, progress))
    for flag, given in (("--calibration", request.calibration), ("--max-size", goal.size)):
        if given:
            why = "--effort fast calibrates on nothing" if goal.bits < 16 else f"--bits {goal.bits} quantizes nothing"
            raise UsageError(f"{why}; leave out {flag}, or take --effort balanced and fewer bits")
    return _rounded(request, checkpoint, goal, judges, progress)


def _rounded(request: Request, checkpoint: Checkpoint, goal: Goal, judges: list[corpus.Text], progress: Progress) -> Attempts:
    short = yield from rounded(checkpoint, request.recipe, goal, _target(request.target))
    if goal.strict or not short or goal.bits < CALIBRATED_BELOW:  # few bits want calibration, which was not asked for
        return short
    from converter import search

    with _maker(request, checkpoint, goal, "fast", judges, progress) as maker:
        return (yield from search.calibrated(maker, short))


def _calibrated(request: Request, maker: "Maker") -> Attempts:
    from converter import search

    with maker:
        if request.target == "onnx" and maker.goal.bits == 8 and not maker.goal.size:
            in_floats = yield from search.in_integers(maker)
            if not in_floats:
                return None
        return (yield from search.calibrated(maker))


def _maker(
    request: Request, checkpoint: Checkpoint, goal: Goal, effort: str, judges: list[corpus.Text], progress: Progress
) -> "Maker":
    """What makes codes by the texts to calibrate on. Raises UsageError for texts that will not do."""
    from converter import calibrate
    from converter.maker import Maker

    recipe = request.recipe
    texts = corpus.read(request.calibration or corpus.CALIBRATION)
    if effort == "fast":  # what is raised may be seen on other texts than those of ours that also judge
        known = {text.text.strip() for text in judges}
        texts = [text for text in texts if text.text.strip() not in known] or texts
        tokens = calibrate.prepare(checkpoint, recipe, texts)
        tokens = tokens[:: -(-sum(batch.input_ids.size for batch in tokens) // RAISING)]  # no codes are chosen by them
    else:  # ours are never calibrated on, as any artifact may be verified with them later
        judges = [*judges, *corpus.read(corpus.VERIFICATION), *corpus.read(corpus.DOCUMENTS)]
        calibrate.check_texts(texts, judges)
        if recipe.task == "embed" and not request.calibration:
            texts = calibrate.covering(checkpoint, texts, judges, COVERING)
        tokens = calibrate.prepare(checkpoint, recipe, texts, calibrate.affordable(layers(checkpoint), effort))
    return Maker(checkpoint, recipe, _target(request.target), goal, effort, tokens, progress)


def _write(request: Request, checkpoint: Checkpoint, made: Quantized, bits: int, directory: Path, progress: Progress) -> None:
    count = 0

    def done() -> None:
        nonlocal count
        count += 1
        progress("convert", count, len(checkpoint.tensors))

    target, checkpoint = _target(request.target), dataclasses.replace(checkpoint, changed=made.changed)
    if made.integers is not None:
        target.write_integers(request.recipe, checkpoint, made.integers, directory, done)
    else:
        target.write(request.recipe, checkpoint, made.plan, made.codes, bits, directory, done)
    if made.record:
        text = json.dumps(made.record, indent=1, allow_nan=False)
        (directory / "quantization.json").write_text(text + "\n", encoding="utf-8")
    if "curve" in made.record:
        (directory / card.PLOT).write_text(card.plot(made.record), encoding="utf-8")
    companions.write(checkpoint, directory)


def _target(name: str) -> Any:
    return importlib.import_module(f"converter.targets.{name}")


def _quantization(made: Quantized, checkpoint: Checkpoint, directory: Path) -> dict[str, Any]:
    weights = [path for pattern in ("*.safetensors", "onnx/*") for path in directory.glob(pattern)]
    count = sum(int(np.prod(tensor.shape)) for tensor in checkpoint.tensors.values())
    return {
        "bits_per_weight": round(8 * sum(path.stat().st_size for path in weights) / count, 3),
        "tensors": {name: dataclasses.asdict(scheme) for name, scheme in made.plan.items()}
        if made.integers is None
        else made.integers.describe(),
    }


def _packages() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
