"""`convert all`: a matrix of models, targets and bits."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click

from converter import corpus, matrix, recipe, show
from converter.commands.options import accept_option, corpus_option, json_option, out_option
from converter.job import EFFORTS, Request, destination
from converter.matrix import Entry
from converter.model_argument import resolve
from converter.progress import StageProgress
from converter.publish import upload
from converter.publish.hub import Hub, repository_id
from converter.targets import DEFAULT_BITS, TARGETS
from shim.console import INTERRUPTED, interrupted, show_json
from shim.errors import SealportError, SourceError, UsageError


@click.command("all")
@click.argument("models", nargs=-1, metavar="[MODEL]...")
@click.option("--to", default=",".join(TARGETS), metavar="mlx,onnx", help="The runtimes to convert for (default all).")
@click.option("--bits", metavar="4,8,16", help="Bits; a runtime leaves out those that it has not (default: each one's own).")
@out_option
@click.option("--parity", type=click.FloatRange(0, 1, min_open=True), help="Cosine that the worst text must reach.")
@click.option("--effort", type=click.Choice(EFFORTS), help="As for one model.")
@click.option("--strict-bits", is_flag=True, help="As for one model.")
@corpus_option
@click.option("--org", metavar="ORG", help="Publish what passes to this organisation at the end, as `convert publish` does.")
@click.option("--force", is_flag=True, help="Replace artifacts that were made otherwise or are broken; the same ones are kept.")
@accept_option
@json_option
def convert_all(models: tuple[str, ...], to: str, bits: str | None, org: str | None, as_json: bool, **asked: Any) -> int:
    """Convert each model for each runtime at each of the bits, and end with one table.

    Without a MODEL these are all recipes. What is there already, whole and of the same original, recipe, settings and version,
    is kept: the same command goes on where it was interrupted. A failure stops nothing; the exit code is the highest of all.
    """
    if asked["corpus"] is None:
        asked["corpus"] = corpus.VERIFICATION
    corpus.read(asked["corpus"])
    if org:
        Hub(repository_id(org, "any"), "main", bars=False)  # refuses a wrong name and a missing token, before what takes hours
    entries: list[Entry] = []
    requests = _requests(models or tuple(recipe.names()), _pairs(to, bits), asked, entries)

    def starting(number: int) -> StageProgress:
        if not as_json:
            click.echo(f"{destination(requests[number]).name} ({number + 1} of {len(requests)})", err=True)
        return StageProgress(quiet=as_json)

    published: list[Published] = []
    unreachable, code = len(entries), 0
    try:
        for entry in matrix.run(requests, starting):
            entries.append(entry)
        for artifacts in _repositories(entries) if org else ():
            with StageProgress(quiet=as_json) as progress:
                published.append(_publish(artifacts, str(org), asked["accept_license"], progress))
    except KeyboardInterrupt:
        click.echo("convert: interrupted", err=True)
        left = [destination(request) for request in requests[len(entries) - unreachable :]]
        entries += [Entry(path.name, path, "not started" if place else "interrupted") for place, path in enumerate(left)]
        code = INTERRUPTED
    code = max([code, *(entry.exit_code for entry in entries), *(each.exit_code for each in published)])
    if as_json:
        shown = {"published": [asdict(each) for each in published]} if org else {}
        show_json({"artifacts": [entry.as_json() for entry in entries], **shown, "exit_code": code})
    else:
        lines = show.matrix(entries)
        rows = [[", ".join(each.artifacts), each.state, each.url or each.error] for each in published]
        click.echo("\n".join([*lines, *([""] if rows else []), *show.columns(rows)]))
    return code


@dataclass(frozen=True)
class Published:
    """Artifacts that share a repository. state: `published`, `unchanged` or `failed`; url: of the repository."""

    artifacts: list[str]
    state: str
    url: str = ""
    error: str = ""
    exit_code: int = 0


def _repositories(entries: list[Entry]) -> list[list[Path]]:
    """The artifacts that passed, those of one repository together: of ONNX all of a recipe, of MLX each."""
    found: dict[str, list[Path]] = {}
    for entry in entries:
        if entry.manifest and entry.manifest.verdict == "pass":
            key = entry.manifest.recipe if entry.manifest.target == "onnx" else entry.name
            found.setdefault(key, []).append(entry.path)
    return list(found.values())


def _publish(artifacts: list[Path], org: str, accepted: tuple[str, ...], progress: StageProgress) -> Published:
    names = [path.name for path in artifacts]
    try:
        outcome = upload.publish(upload.Request(artifacts, org, accept_license=accepted), progress)
    except SealportError as error:
        if interrupted.is_set():  # some libraries turn it into an error of their own
            raise KeyboardInterrupt from None
        return Published(names, "failed", error=str(error).replace("\n", " "), exit_code=error.exit_code)
    return Published(names, "published" if outcome.commit else "unchanged", outcome.url)


def _pairs(to: str, bits: str | None) -> list[tuple[str, int]]:
    """The targets with their bits. Raises UsageError for a target that there is not, and for bits that none of them has."""
    targets = list(dict.fromkeys(to.split(",")))
    if unknown := [target for target in targets if target not in TARGETS]:
        raise UsageError(f"--to {unknown[0]}: there are {', '.join(TARGETS)}")
    if bits is None:
        return [(target, DEFAULT_BITS[target]) for target in targets]
    found: dict[str, list[int]] = {target: [] for target in targets}
    for text in dict.fromkeys(bits.split(",")):
        having = [target for target in targets if text in map(str, TARGETS[target])]
        if not having:
            raise UsageError(
                f"--bits {text}: " + "; ".join(f"{one} has {', '.join(map(str, TARGETS[one]))}" for one in targets)
            )
        for target in having:
            found[target].append(int(text))
    return [(target, width) for target, widths in found.items() for width in widths]


def _requests(
    models: tuple[str, ...], pairs: list[tuple[str, int]], asked: dict[str, Any], entries: list[Entry]
) -> list[Request]:
    """The conversions, in order; a model that cannot be had becomes an entry. Raises UsageError for what is no model."""
    found = []
    for model in dict.fromkeys(models):
        try:
            known, origin, _ = resolve(model, None, None, None)
        except SourceError as error:
            entries.append(matrix.failed(Path(model), error))
            continue
        found += [Request(recipe=known, source=origin, target=target, bits=bits, **asked) for target, bits in pairs]
    return found
