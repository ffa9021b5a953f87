"""`convert publish`: its options, and what it prints."""

import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from converter.commands.options import accept_option, json_option
from converter.progress import StageProgress
from converter.publish import upload
from converter.publish.upload import Outcome, Request
from shim.console import show_json

FILE = click.Path(path_type=Path, dir_okay=False)


@click.command()
@click.argument("artifacts", metavar="ARTIFACT...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--org", required=True, metavar="ORG", help="The organisation or user whose repository it is.")
@click.option("--name", metavar="NAME", help="Name of the repository (default RECIPE-onnx, of MLX the artifact's).")
@click.option("--private", is_flag=True, help="Where the repository has to be made, make a private one.")
@click.option("--revision", metavar="BRANCH", help="Branch of the commit, made when missing (default main).")
@click.option("--create-pr", is_flag=True, help="Open a pull request instead of committing to the branch.")
@click.option("--collection", metavar="TITLE", help="Put the repository into this collection, made when missing.")
@click.option("--allow-unverified", is_flag=True, help="Publish what is not sealed as a pass; the card says so.")
@click.option("--replace", is_flag=True, help="Remove precisions that are not given, and write over files of others.")
@click.option("--sign", type=FILE, metavar="KEY", help="Sign with this private key; shim --require-signature checks it.")
@click.option("--dry-run", is_flag=True, help="Write the repository into a folder instead; needs no network and no token.")
@click.option("--out", type=click.Path(path_type=Path), metavar="DIR", help="Folder that --dry-run writes (default ./NAME).")
@accept_option
@json_option
def publish(artifacts: tuple[Path, ...], dry_run: bool, out: Path | None, as_json: bool, **asked: Any) -> None:
    """Publish sealed artifacts as a repository of the hub, in one commit, or none where nothing changed.

    ONNX artifacts of one model share a repository; precisions that it has already stay, if they are of the same original.
    An MLX artifact has its own. The token is HF_TOKEN, or that of `hf auth login`. After an interruption the same command
    sends the rest.
    """
    if out and not dry_run:
        raise click.UsageError("--out goes with --dry-run")
    request = Request(list(artifacts), **asked)
    if dry_run:
        folder, outcome = upload.dry_run(request, out)
        facts, done = {"path": str(folder)}, f"would be published; it lies in {folder}"
    else:
        bars = sys.stderr.isatty() and not as_json
        with StageProgress(quiet=as_json or bars) as progress:
            outcome = upload.publish(request, progress, bars)
        facts, done = {}, "published" if outcome.commit else "nothing changed, no commit"
    if as_json:
        show_json({**facts, **asdict(outcome)})
    else:
        click.echo("\n".join([f"{outcome.repository}: {done}", *_lines(outcome)]))


def _lines(outcome: Outcome) -> Iterator[str]:
    """One fact a line."""
    for label, text in (
        ("url", outcome.url),
        ("commit", outcome.commit),
        ("pr", outcome.pull_request),
        ("listed", outcome.collection),
        ("holds", ", ".join(f"{key} ({verdict})" for key, verdict in outcome.precisions.items())),
        *(("sent", f"{size / 1e3:12,.1f} kB  {name}") for name, size in outcome.sent.items()),
        *(("deleted", f"{'':17}{name}") for name in outcome.deleted),
    ):
        if text:
            yield f"  {label:8} {text}"
