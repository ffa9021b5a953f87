"""Texts as callers give them: lists of strings that can be encoded."""

import operator
from collections.abc import Iterable, Mapping, Set

from shim.errors import UsageError

KINDS = {"TokenIds": "a list of token ids"}  # what users call it, where Python's name of a type says little


def check_texts(texts: object, noun: str = "text", empty: bool = False) -> list[str]:
    """The texts as a list; `noun` is what errors call one of them, `empty` allows empty strings.

    They may come as anything that gives them in an order: a list, an array, a column of a table, a generator.
    Raises UsageError where there is none, and for what is no non-empty, encodable string.
    """
    # A table would give the names of its columns, and what has no order would give texts in any.
    row = not isinstance(texts, str | bytes | Mapping | Set) and len(getattr(texts, "shape", (0,))) == 1
    if not row or not isinstance(texts, Iterable):
        raise UsageError(f"{noun}s must be a list of strings, not {type(texts).__name__}")
    found = list(texts)
    if not found:
        raise UsageError(f"{noun}s is an empty list; give at least one {noun}", empty=True)
    return [check_text(text, f"{noun} {index}", empty, f"{noun}s") for index, text in enumerate(found)]


def check_count(value: object, name: str, most: int | None = None) -> int:
    """The value as an int, whatever kind of integer it is. Raises UsageError, calling it `name`, outside 1..most."""
    try:
        found = 0 if isinstance(value, bool) else operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        found = 0
    if found < 1 or (most is not None and found > most):
        wanted = "over 0" if most is None else f"from 1 to {most}"
        raise UsageError(f"{name} must be a whole number {wanted}, not {value!r:.100}", name)
    return found


def check_text(text: object, name: str, empty: bool = False, param: str | None = None) -> str:
    """The text itself. Raises UsageError, calling it `name`, unless it is an encodable string, and not empty but by `empty`.

    param: the argument that it came in, see UsageError.
    """
    if not isinstance(text, str):
        raise UsageError(f"{name} is {KINDS.get(type(text).__name__, type(text).__name__)}, not a string", param)
    if not text and not empty:
        raise UsageError(f"{name} is an empty string", param)
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        message = f"{name} has a lone surrogate at character {error.start}; it is not valid Unicode"
        raise UsageError(message, param) from None
    return str(text)  # numpy has strings of its own kind
