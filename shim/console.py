"""What both command lines share: exit codes, one-line errors, and `--json`."""

import json
import os
import signal
import sys
import threading
import warnings
from typing import NoReturn

import click
from click.exceptions import NoArgsIsHelpError

from shim.errors import SealportError
from shim.jsons import Json

MISUSED, UNREADABLE, INTERRUPTED = 2, 3, 130
MAX_LINE = 2000  # characters of an error: it may quote a file of another's making
HELP = {"help_option_names": ["-h", "--help"]}  # settings of a command line's context
interrupted = threading.Event()  # some libraries turn an interrupt into an error of their own


def run(command: click.Command, name: str) -> NoReturn:
    """Run a click command and exit: errors as one line on stderr, and as an object on stdout where `--json` was given."""
    prepare(name)
    try:
        code = command.main(prog_name=name, standalone_mode=False)
        sys.exit(code if isinstance(code, int) else 0)
    except NoArgsIsHelpError as error:
        click.echo(error.format_message())
        sys.exit(0)
    except click.Abort:
        fail(name, "interrupted", INTERRUPTED)
    except BrokenPipeError:
        # The reader of our output has left, as `| head` does: point stdout away so that the exit's flush cannot fail, too.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except Exception as error:
        if interrupted.is_set():
            fail(name, "interrupted", INTERRUPTED)
        if isinstance(error, click.ClickException):
            context = getattr(error, "ctx", None)
            hint = f" (see {context.command_path.removesuffix(' model')} --help)" if context is not None else ""
            fail(name, error.format_message() + hint, error.exit_code)
        if isinstance(error, SealportError):
            fail(name, str(error), error.exit_code)
        if isinstance(error, ModuleNotFoundError) and name == "convert":
            fail(name, not_installed(error), MISUSED)
        if isinstance(error, OSError) and error.filename:
            fail(name, f"{error.filename}: {error.strerror}", UNREADABLE)
        raise


def fail(name: str, message: str, code: int) -> NoReturn:
    """Print an error as one line on stderr, with `--json` as an object on stdout, too, and exit with the code."""
    shown = (letter if letter.isprintable() else repr(letter)[1:-1] for letter in " ".join(message.split())[:MAX_LINE])
    message = "".join(shown)  # no control sequence, nothing that a terminal cannot encode
    click.echo(f"{name}: {message}", err=True)
    if "--json" in sys.argv:
        show_json({"error": message, "exit_code": code})
    sys.exit(code)


def not_installed(error: ModuleNotFoundError) -> str:
    """What `convert` says of a module that it lacks. Raises the error where the module is our own."""
    package = (error.name or "").split(".")[0]
    if package in ("", "converter", "shim"):
        raise error
    return f"{package} is not installed: pip install 'sealport[convert]'"


def prepare(name: str) -> None:
    """Make this process a command's: a signal ends it as Ctrl-C does, a warning is one line."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)
    warnings.showwarning = lambda message, *_: print(f"{name}: {message}", file=sys.stderr)  # click.echo writes past a bar
    warnings.simplefilter("once", UserWarning)  # others, as of a file that an interrupt left open, tell users nothing


def show_json(value: Json) -> None:
    """Print one JSON object on stdout. NaN is a ValueError, never null."""
    click.echo(json.dumps(value, ensure_ascii=False, allow_nan=False))


def _interrupt(*_: object) -> NoReturn:
    interrupted.set()
    raise KeyboardInterrupt
