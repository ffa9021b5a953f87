"""`convert eval`: what parity means to a user."""

from dataclasses import asdict
from pathlib import Path

import click

from converter import pipeline, show
from converter.commands.options import json_option, path_argument, source_option
from converter.evaluation import figures
from converter.progress import StageProgress
from shim.console import show_json


@click.command("eval")
@path_argument
@source_option
@click.option(
    "--pairs",
    type=click.Path(path_type=Path),
    multiple=True,
    metavar="FILE",
    help="Sentence pairs with scores, .csv, .tsv or .jsonl; may be repeated.",
)
@click.option(
    "--retrieval",
    "folders",
    type=click.Path(path_type=Path),
    multiple=True,
    metavar="DIR",
    help="Queries, documents and answers in BEIR's layout; may be repeated.",
)
@click.option("--nanobeir", "nano", is_flag=True, help="The 13 sets of NanoBEIR, from the hub (sealport[eval]).")
@json_option
def evaluate(
    path: Path, source: str | None, pairs: tuple[Path, ...], folders: tuple[Path, ...], nano: bool, as_json: bool
) -> None:
    """Measure tasks, similarity and retrieval, with the original and with the artifact, and seal the figures into it.

    Shown are both figures, their difference, and its 95 % bootstrap interval, in points of 100; the verdict stays as it is.
    """
    with StageProgress(quiet=as_json) as progress:
        manifest, found = pipeline.evaluate(path, source, pairs, folders, nano, progress)
    if as_json:
        bootstrap = {"resamples": figures.RESAMPLES, "seed": figures.SEED, "level": figures.LEVEL}
        show_json(
            {"path": str(path), "name": manifest.name, "evaluation": [asdict(each) for each in found], "bootstrap": bootstrap}
        )
    else:
        click.echo("\n".join([f"{manifest.name}: {manifest.verdict}", *show.evaluation(found)]))
