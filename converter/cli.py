"""The `convert` command. __main__.py begins it, progress.py shows its progress, shim/console.py its errors and exit codes."""

import re
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import click

import shim
from converter import pipeline, recipe, show
from converter.commands.convert_all import convert_all
from converter.commands.evaluate import evaluate
from converter.commands.options import accept_option, corpus_option, json_option, out_option, path_argument, source_option
from converter.commands.publish import publish
from converter.inventory import inventory, supported
from converter.job import EFFORTS, Request
from converter.model_argument import recipe_of, resolve
from converter.progress import StageProgress
from converter.targets import DEFAULT_BITS, TARGETS
from shim import artifact, integrity
from shim.artifact import Manifest, Record
from shim.console import HELP, show_json
from shim.jsons import JsonObject, read_object
from shim.nearest import meant
from shim.pooling import POOLINGS

WIDTHS = "; ".join(
    f"{name.upper()}: {', '.join(map(str, bits))} (default {DEFAULT_BITS[name]})" for name, bits in TARGETS.items()
)


class ConvertGroup(click.Group):
    """`convert MODEL …` is the main job; words that name a command (`convert verify …`) are those commands."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if args and args[0] not in self.commands and args[0] not in ("-h", "--help", "--version"):
            near = meant(args[0], set(self.commands) - {"model"})
            is_model = args[0] in recipe.names() or Path(args[0]).exists() or any(part.startswith("--to") for part in args)
            if near and not is_model:
                ctx.fail(f"no command {args[0]!r:.100}{near}")
            args = ["model", *args]
        return super().parse_args(ctx, args)

    def format_usage(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        formatter.write_usage(ctx.command_path, "MODEL --to mlx|onnx [OPTIONS]")
        formatter.write_usage(ctx.command_path, "all|recipe|verify|eval|inspect|list|publish [OPTIONS]")

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        self.commands["model"].format_options(ctx, formatter)
        self.format_commands(ctx, formatter)


class Size(click.ParamType):
    """A number of bytes: 400MB, 1.5GB, 800kB, 1GiB."""

    name = "size"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> int:
        found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmg]?)(i?)b?", str(value).strip().lower())
        size = float(found[1]) * (1024 if found[3] else 1000) ** "_kmg".index(found[2] or "_") if found else 0.0
        if not 1 <= size < 1e18:
            self.fail(f"{value!r} is not a size such as 400MB or 1.5GB", param, ctx)
        return int(size)


pooling_option = click.option(
    "--pooling", type=click.Choice(POOLINGS), help="How tokens become a vector, where no recipe and no file says it."
)
normalize_option = click.option(
    "--normalize/--no-normalize", default=None, help="Whether vectors have length 1, where no recipe and no file says it."
)
license_option = click.option(
    "--license", metavar="ID", help="The original's license as the hub names it, where no recipe and no file says it."
)


@click.group(cls=ConvertGroup, no_args_is_help=True, context_settings=HELP)
@click.version_option(shim.__version__, message="%(version)s")
def main_group() -> None:
    """Port an embedding model to MLX or ONNX and prove the result against the original.

    MODEL is a recipe's name (see `convert list`), a path to a recipe file, or without a recipe a checkpoint's directory or
    ORG/REPO[@REV] of the hub: then everything is read from the checkpoint's own files.
    Exit codes: 0 done and verified; 1 below parity (kept, marked fail); 2 wrong usage, recipe or input; 3 source, hub or disk
    could not be read or written; 4 integrity check failed; 130 interrupted.
    """


@main_group.command("model", hidden=True)
@click.argument("model")
@click.option("--to", "target", type=click.Choice(sorted(TARGETS)), required=True, help="The runtime to convert for.")
@click.option("--bits", type=int, help=WIDTHS + ".")
@source_option
@pooling_option
@normalize_option
@license_option
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("artifacts"),
    metavar="DIR",
    help="Folder that the artifact is put into (default ./artifacts).",
)
@click.option(
    "--parity",
    type=click.FloatRange(0, 1, min_open=True),
    help="Cosine that the worst text must reach (default: the recipe's 0.999).",
)
@click.option(
    "--effort",
    type=click.Choice(EFFORTS),
    help="fast rounds to nearest; balanced calibrates (default under 8 bits, for ONNX at 8); "
    "max makes each layer mend the ones before.",
)
@click.option(
    "--calibration",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Texts to calibrate on instead of ours: JSON Lines or text, none of them a text that is measured on.",
)
@click.option("--strict-bits", is_flag=True, help="Every tensor at --bits, whatever the parity (position tables at 8).")
@click.option(
    "--max-size", type=Size(), metavar="400MB", help="Best parity under this size of the whole artifact, from --bits (4) on."
)
@click.option(
    "--parity-on",
    type=click.Choice(("worst", "mean")),
    default="worst",
    help="What must reach the parity: the worst text (default), or the mean of all; shim then wants --min-parity.",
)
@corpus_option
@click.option("--no-verify", is_flag=True, help="Leave the verdict `unverified`; shim then refuses the artifact by default.")
@click.option("--force", is_flag=True, help="Replace an existing artifact.")
@accept_option
@json_option
def convert_model(
    model: str,
    source: str | None,
    pooling: str | None,
    normalize: bool | None,
    license: str | None,
    corpus: Path | None,
    no_verify: bool,
    as_json: bool,
    **asked: Any,  # the attributes of a Request
) -> int:
    known, origin, facts = resolve(model, source, pooling, normalize, license)
    for line in () if as_json else facts:
        click.echo(line, err=True)
    request = Request(recipe=known, source=origin, verified=not no_verify, **asked)
    if corpus:
        request = replace(request, corpus=corpus)
    started = time.monotonic()
    with StageProgress(quiet=as_json) as progress:
        path, manifest = pipeline.convert(request, progress)
    code = report(manifest, path, as_json)
    if not as_json:
        click.echo(f"  took     {show.duration(time.monotonic() - started)}")
        click.echo(f"  next     {show.next_step(manifest, str(path))}")
    return code


main_group.add_command(publish)


@main_group.command("recipe")
@click.argument("model", metavar="ORG/REPO[@REV]|DIR")
@pooling_option
@normalize_option
def print_recipe(model: str, pooling: str | None, normalize: bool | None) -> None:
    """Print the recipe that a checkpoint's own files make, to edit and keep; a comment names the file behind each line."""
    click.echo(recipe_of(model, pooling, normalize), nl=False)


@main_group.command()
@path_argument
@source_option
@corpus_option
@accept_option
@click.option(
    "--runtime",
    type=click.Choice(sorted(name for names in artifact.RUNTIMES.values() for name in names)),
    help="Measure through this one, where it is not the one that the artifact was made for; sealed beside the other's figures.",
)
@json_option
def verify(
    path: Path, source: str | None, corpus: Path | None, accept_license: tuple[str, ...], runtime: str | None, as_json: bool
) -> int:
    """Measure an artifact again and seal the new figures; with --corpus they are only shown."""
    with StageProgress(quiet=as_json) as progress:
        manifest = pipeline.verify(path, source, corpus, progress, accept_license, runtime)
    return report(manifest, path, as_json)


@main_group.command()
@path_argument
@json_option
def inspect(path: Path, as_json: bool) -> None:
    """Check an artifact's files and show its parity, its size, the bits of each tensor and what they cost."""
    manifest = artifact.read(path)
    integrity.check_files(path, manifest)
    found = read_object(path / pipeline.RECORD) if pipeline.RECORD in manifest.files else {}
    if as_json:
        show_json({**facts(manifest, path), "search": found})
        return
    record = cast(Record, found)
    click.echo(show.summary(manifest, str(path)))
    if manifest.quantization["tensors"]:
        click.echo(show.tensors(manifest, record))
    if "curve" in record:
        click.echo(show.curve(record))


@main_group.command("list")
@out_option
@click.option("--architectures", is_flag=True, help="Show the architectures and modules that can be converted instead.")
@json_option
def list_all(out: Path, architectures: bool, as_json: bool) -> None:
    """Show of each recipe where its original is, what of it is here for MLX and ONNX, and the command for the next step.

    Then the artifacts, and what the hub's cache holds; verdicts are those in the manifests: `convert inspect` checks hashes.
    """
    if architectures:
        if as_json:
            show_json(supported())
        else:
            click.echo("\n".join(f"{key:14} {', '.join(values)}" for key, values in supported().items()))
        return
    found = inventory(out)
    if as_json:
        show_json(found)
    else:
        click.echo(show.listing(found))


main_group.add_command(evaluate)
main_group.add_command(convert_all)


def report(manifest: Manifest, path: Path, as_json: bool) -> int:
    """Show the outcome; the exit code is 1 for an artifact below parity."""
    if as_json:
        show_json(facts(manifest, path))
    else:
        click.echo(show.summary(manifest, str(path)))
    if manifest.verdict != "fail":
        return 0
    click.echo(f"convert: {show.shortfall(manifest)}", err=True)
    return 1


def facts(manifest: Manifest, path: Path) -> JsonObject:
    """The manifest as JSON values, with the path and the size in bytes."""
    return {"path": str(path), "size": manifest.size, **manifest.as_json()}
