"""JSON Lines on stdin: what each is, and what is wrong with which."""

import json
import sys
from collections.abc import Iterator

from shim.checks import check_text
from shim.errors import UsageError
from shim.jsons import Json

TEXT = 'a JSON string or {"text": "…"}'
RANKING = '{"query": "…", "documents": ["…", …]}'


def lines(shape: str) -> Iterator[tuple[int, Json]]:
    """The number and the JSON value of each line on stdin that is not blank; `shape` is what it should be."""
    for number, line in enumerate(sys.stdin.buffer, 1):
        if line.strip():
            try:
                value = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise UsageError(f"line {number}: not {shape} ({error})") from None
            yield number, value


def text_of(value: object, number: int) -> str:
    """The text of the line of that number."""
    if isinstance(value, dict):
        if "text" not in value:
            raise UsageError(f"line {number}: not {TEXT}")
        value = value["text"]
    try:
        return check_text(value, "the text")
    except UsageError as error:
        raise UsageError(f"line {number}: {error}") from None
