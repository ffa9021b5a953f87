"""The `shim` command; errors are printed and exit codes set by console.py."""

import json
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import click

import shim
from shim.console import run
from shim.errors import UsageError
from shim.model import Model, load
from shim.text import check_texts

BATCH = 64  # lines embedded at a time


def loading(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options of every command that loads an artifact."""
    for option in (
        click.option("--min-parity", type=click.FloatRange(0, 1), help="Accept an artifact sealed at this lower parity."),
        click.option("--allow-unverified", is_flag=True, help="Load an artifact without checking verdict and hashes."),
        click.option("--device", default="auto", show_default=True, help="auto, cpu, gpu (MLX) or cuda (ONNX)."),
    ):
        command = option(command)
    return command


@click.group(no_args_is_help=True)
@click.version_option(shim.__version__, message="%(version)s")
def main_group() -> None:
    """Serve sealed embedding artifacts.

    Exit codes: 0 done; 1 an output is not finite; 2 wrong usage or input; 4 integrity check failed; 130 interrupted.
    """


@main_group.command()
@click.argument("paths", metavar="ARTIFACT...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--port", default=8080, show_default=True, type=click.IntRange(0, 65535), help="Port to listen on; 0 takes a free one."
)
@loading
def serve(paths: tuple[Path, ...], host: str, port: int, device: str, allow_unverified: bool, min_parity: float | None) -> None:
    """Serve artifacts over HTTP: POST /v1/embeddings, GET /v1/models, GET /health."""
    from shim.serve.run import serve_forever

    opener = partial(load, device=device, allow_unverified=allow_unverified, min_parity=min_parity)
    serve_forever([partial(opener, path) for path in paths], host, port)


@main_group.command()
@click.argument("path", metavar="ARTIFACT", type=click.Path(path_type=Path))
@click.option("--task", help="The prompt to put before each text, such as retrieval.query.")
@click.option("--instruction", help="An instruction in place of the task's, for a model that takes one.")
@click.option("--dimensions", type=int, help="Cut the vectors to this many dimensions and normalise again.")
@loading
def embed(
    path: Path,
    task: str | None,
    instruction: str | None,
    dimensions: int | None,
    device: str,
    allow_unverified: bool,
    min_parity: float | None,
) -> None:
    """Embed JSON Lines on stdin, each a string or {"text": "…"}; write {"embedding", "tokens", "truncated"} lines in order."""
    model = load(path, device=device, allow_unverified=allow_unverified, min_parity=min_parity)
    texts: list[str] = []
    seen = 0
    for number, line in enumerate(sys.stdin.buffer, 1):
        if not line.strip():
            continue
        texts.append(_text(line, number))
        if len(texts) == BATCH:
            _embed(model, texts, task, instruction, dimensions)
            seen, texts = seen + len(texts), []
    if texts:
        _embed(model, texts, task, instruction, dimensions)
    elif not seen:
        raise UsageError("stdin holds no lines; give one JSON string or object a line")


def _text(line: bytes, number: int) -> str:
    try:
        value = json.loads(line)
        text = value["text"] if isinstance(value, dict) else value
    except (ValueError, KeyError, RecursionError) as error:
        raise UsageError(f'line {number}: not a JSON string or {{"text": "…"}} ({error})') from None
    try:
        return check_texts([text])[0]
    except UsageError as error:
        raise UsageError(f"line {number}: {str(error).replace('text 0', 'the text')}") from None


def _embed(model: Model, texts: list[str], task: str | None, instruction: str | None, dimensions: int | None) -> None:
    out = model.embed(texts, task=task, instruction=instruction, dimensions=dimensions)
    for vector, tokens, truncated in zip(out.dense, out.tokens, out.truncated, strict=True):
        click.echo(json.dumps({"embedding": vector.tolist(), "tokens": tokens, "truncated": truncated}, allow_nan=False))


def main() -> None:
    """Entry point of `shim`."""
    run(main_group, "shim")
