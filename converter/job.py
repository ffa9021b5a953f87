"""What is asked for, and what that comes to: everything that can be refused is refused here, before anything that costs."""

import hashlib
import json
import shlex
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from converter import corpus
from converter.licenses import check_accepted, check_known, link_of, non_commercial
from converter.proof.measure import check_queries
from converter.quantize.grid import uniform
from converter.recipe import Recipe, load, names
from converter.source.checkpoint import Checkpoint
from converter.source.open import open_source
from converter.staging import check_destination
from converter.targets import DEFAULT_BITS, TARGETS, Target, load_target
from shim.architectures import architecture
from shim.artifact import Settings
from shim.errors import UsageError
from shim.jsons import JsonObject
from shim.listing import hash_file
from shim.parity import Bar

EFFORTS = ("fast", "balanced", "max")
CALIBRATED_BELOW = 8  # bits; with fewer, rounding to nearest does not suffice and calibration is the default
INTEGER_BITS = 8  # at which ONNX multiplies in integers, where calibration shows how to round what goes in
FULL_PRECISION_FROM = 16  # bits; with so many nothing is quantized
SIZED_BITS = 4  # the fewest bits where only --max-size is given


@dataclass(frozen=True)
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
    accept_license: tuple[str, ...] = ()  # licenses without commercial use that are accepted, by name


@dataclass(frozen=True)
class Job:
    """A request that can be carried out: its checkpoint is open, and what it left out is decided.

    recipe: with the model as the checkpoint's files say it. bits: the fewest of any module. verification: the texts that the
    artifact is measured on; corpus_sha256: their file's.
    """

    request: Request
    recipe: Recipe
    checkpoint: Checkpoint
    target: Target
    bits: int
    bar: Bar
    effort: str
    verification: list[corpus.Text]
    corpus_sha256: str

    @property
    def destination(self) -> Path:
        return destination(self.request)

    @property
    def name(self) -> str:
        """The artifact's name, and its folder's."""
        return self.destination.name

    @property
    def full_precision(self) -> tuple[str, ...]:
        """Patterns of the modules that are never quantized."""
        return architecture(self.recipe.architecture).FULL_PRECISION

    @property
    def goal(self) -> JsonObject:
        """What the choice of bits depends on besides the texts, for keys of the cache."""
        return {"bits": self.bits, **asdict(self.bar), "strict": self.request.strict_bits, "size": self.request.max_size}

    @property
    def command(self) -> str:
        """The command that makes this artifact again; of files and folders of the user's, their names only."""
        request, recipe, origin = self.request, self.request.recipe, self.checkpoint.origin
        place, revision = str(origin["repo"]).replace("dir:", "./"), str(origin["revision"])
        place += f"@{revision}" if revision and ":" not in place else ""
        written = "dimensions" in recipe.stated  # a recipe states them, what is drafted from a checkpoint's files does not
        model = place
        if written:
            model = recipe.name if recipe.name in names() and load(recipe.name) == recipe else f"{recipe.name}.toml"
        words = ["convert", model, "--to", request.target, "--bits", str(self.bits)]
        known = place in (recipe.source.repo, f"{recipe.source.repo}@{recipe.source.revision}")
        words += ["--source", place] if written and not known else []
        if not written:
            words += ["--pooling", recipe.model.pooling] if "pooling" in recipe.stated else []
            words += [f"--{'' if recipe.model.normalized else 'no-'}normalize"] if "modules" in recipe.stated else []
            words += ["--license", recipe.license] if "license" not in self.checkpoint.facts else []
        words += ["--accept-license", recipe.license] if non_commercial(recipe.license) else []
        for flag, given in (
            ("--effort", request.effort),
            ("--parity", request.parity),
            ("--parity-on", "mean" if request.parity_on == "mean" else None),
            ("--max-size", request.max_size),
            ("--calibration", request.calibration and request.calibration.name),
            ("--corpus", request.corpus.name if request.corpus != corpus.VERIFICATION else None),
        ):
            words += [flag, str(given)] if given is not None else []
        return shlex.join(words + ["--strict-bits"] * request.strict_bits)


def resolve(request: Request) -> Job:
    """What the request comes to. Raises UsageError for what cannot be, SourceError for an original that cannot be read."""
    recipe, target = request.recipe, load_target(request.target)
    _check_license(recipe, request.accept_license)
    bits = _bits(request)
    cosine = recipe.parity.cosine if request.parity is None else request.parity
    if not 0 < cosine <= 1:
        raise UsageError(f"parity must be over 0 and at most 1, not {cosine}")
    check_destination(destination(request), request.force)
    texts, digest = corpus.judges(request.corpus, recipe.task), hash_file(request.corpus)
    checkpoint = open_source(recipe, request.source)
    recipe = replace(recipe, model=checkpoint.spec)
    texts = corpus.under_each(texts, checkpoint.spec.adapters)
    check_queries(checkpoint, recipe.model, recipe.task, texts)
    module = architecture(recipe.architecture)
    if request.target == "onnx":
        checkpoint = checkpoint.without(module.OPTIONAL)  # a graph holds what it computes with, nothing more
    if bits < FULL_PRECISION_FROM and not uniform(checkpoint.matrices, module.FULL_PRECISION, bits):
        raise UsageError(f"--bits {bits}: no matrix of {recipe.name} has rows of a multiple of 32; take --bits 16")
    bar = Bar(cosine, "mean" if request.parity_on == "mean" else "worst")
    return Job(request, recipe, checkpoint, target, bits, bar, _effort(request, bits), texts, digest)


def _check_license(recipe: Recipe, accepted: tuple[str, ...]) -> None:
    license, link = recipe.license, recipe.license_link
    check_known(recipe.name, license, link)
    check_accepted(recipe.name, license, link_of(license, link, recipe.source.repo, recipe.source.revision), accepted)


def destination(request: Request) -> Path:
    """Where its artifact goes. Raises UsageError for bits that the target has not."""
    return request.out / f"{request.recipe.name}-{request.target}-{_bits(request)}bit"


def settings(request: Request) -> Settings:
    """What the artifact depends on besides its original, target and bits: the same again would make the same."""
    stated = asdict(request.recipe) | {"stated": sorted(request.recipe.stated)}
    found = Settings(
        recipe=hashlib.sha256(json.dumps(stated, sort_keys=True).encode()).hexdigest(),
        effort=_effort(request, _bits(request)),
        parity=request.recipe.parity.cosine if request.parity is None else request.parity,
        parity_on=request.parity_on,
        strict_bits=request.strict_bits,
        corpus=hash_file(request.corpus),
    )
    if request.calibration:
        found["calibration"] = hash_file(request.calibration)
    if request.max_size:
        found["max_size"] = request.max_size
    return found


def _bits(request: Request) -> int:
    bits = request.bits if request.bits is not None else SIZED_BITS if request.max_size else DEFAULT_BITS[request.target]
    if bits not in TARGETS[request.target]:
        raise UsageError(f"--bits {bits}: {request.target} has {', '.join(map(str, TARGETS[request.target]))}")
    return bits


def _effort(request: Request, bits: int) -> str:
    """The request's effort, or the least that its bits and its other wishes need.

    Raises UsageError for wishes that exclude each other.
    """
    integers = request.target == "onnx" and bits == INTEGER_BITS
    wanted = bits < CALIBRATED_BELOW or integers or request.calibration or request.max_size
    effort = request.effort or ("balanced" if wanted else "fast")
    if request.strict_bits and request.max_size:
        raise UsageError("--strict-bits fixes the size; leave it out, or --max-size")
    if effort != "fast" and bits < FULL_PRECISION_FROM:
        return effort
    for flag, given in (("--calibration", request.calibration), ("--max-size", request.max_size)):
        if given:
            why = "--effort fast calibrates on nothing" if bits < FULL_PRECISION_FROM else f"--bits {bits} quantizes nothing"
            raise UsageError(f"{why}; leave out {flag}, or take --effort balanced and fewer bits")
    return "fast"
