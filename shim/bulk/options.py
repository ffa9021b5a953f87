"""The options of a corpus, which `shim embed` has beside its own; nothing of the extra is imported for them."""

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import click
from click.core import ParameterSource

from shim.errors import UsageError

Result = TypeVar("Result")
OPTIONS = {
    "inputs": click.option(
        "--in", "inputs", multiple=True, metavar="GLOB", help="Files of a corpus, or fsspec addresses; may be repeated."
    ),
    "out": click.option(
        "--out", metavar="FOLDER", help="Where its vectors go, as Parquet: a folder, or an fsspec address of one."
    ),
    "text": click.option(
        "--text", default="text", show_default=True, help="Column of the texts, or a template: '{title}: {body}'."
    ),
    "id": click.option("--id", help="Column of the ids; else they are made, FILE:ROW."),
    "columns": click.option("--columns", default="", help="Comma-separated: further columns to carry along."),
    "embedding_type": click.option(
        "--embedding-type", default="float32", show_default=True, help="Of dense vectors: float32, float16, int8 or ubinary."
    ),
    "processes": click.option("--processes", type=click.IntRange(1), help="By default as many as cores and memory allow."),
    "rows": click.option("--rows", default=4096, show_default=True, type=click.IntRange(1), help="Of an output file, at most."),
    "strict": click.option("--strict", is_flag=True, help="Stop at the first text that cannot be embedded."),
    "price": click.option("--price", type=click.FloatRange(0), help="Of the machines for an hour: says what 1 M texts cost."),
    "ray": click.option(
        "--ray", metavar="ADDRESS", help="Embed on a Ray cluster; auto: the one that is here, local: one for this run."
    ),
    "as_json": click.option("--json", "as_json", is_flag=True, help="Of a corpus: its counts as one JSON object on stdout."),
}


def corpus(command: Callable[..., Result]) -> Callable[..., Result]:
    """The options of a corpus; the command gets them as one, `corpus`: None where there is none.

    Raises UsageError for one of them without --in and --out.
    """

    @functools.wraps(command)
    def gathering(**given: Any) -> Result:
        options = {name: given.pop(name) for name in OPTIONS}
        if options["inputs"] and options["out"]:
            return command(corpus=options, **given)
        context = click.get_current_context()
        for parameter in context.command.params:
            if parameter.name in OPTIONS and context.get_parameter_source(parameter.name) is not ParameterSource.DEFAULT:
                raise UsageError(f"{parameter.opts[0]} is of a corpus, which needs --in and --out; else texts come from stdin")
        return command(corpus=None, **given)

    with_options: Callable[..., Result] = gathering
    for option in reversed(OPTIONS.values()):
        with_options = option(with_options)
    return with_options
