"""The options of commands that load an artifact."""

import functools
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import click

from shim.loading import load
from shim.model import Model

Result = TypeVar("Result")
Opener = partial[Model]
ARTIFACT = "ARTIFACT|ORG/NAME[@REV]"
FILE = click.Path(path_type=Path, dir_okay=False)
LOADING = ("runtime", "device", "allow_unverified", "min_parity", "precision", "require_signature")


def choosing(command: Callable[..., Result]) -> Callable[..., Result]:
    """The options of every command that takes an artifact of the hub."""
    for option in (
        click.option("--require-signature", metavar="KEY", type=FILE, help="Take only what this public key's owner signed."),
        click.option("--precision", help="Which one of a repository that has several, such as 8bit."),
    ):
        command = option(command)
    return command


def loading(command: Callable[..., Result]) -> Callable[..., Result]:
    """The options of every command that loads an artifact; it gets an `opener`, which loads one as they say."""

    @functools.wraps(command)
    def opening(**given: Any) -> Result:
        opener = partial(load, **{name: given.pop(name) for name in LOADING})
        return command(opener=opener, **given)

    with_options = choosing(opening)
    for option in (
        click.option("--min-parity", type=click.FloatRange(0, 1), help="Accept an artifact sealed at this lower parity."),
        click.option("--allow-unverified", is_flag=True, help="Load an artifact without checking verdict and hashes."),
        click.option("--device", default="auto", show_default=True, help="auto, cpu, gpu (MLX) or cuda (ONNX)."),
        click.option("--runtime", default="auto", show_default=True, help="openvino: of an ONNX artifact verified with it."),
    ):
        with_options = option(with_options)
    return with_options
