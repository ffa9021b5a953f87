"""Texts as callers give them: lists of strings that can be encoded."""

from collections.abc import Sequence

from shim.errors import UsageError


def check_texts(texts: object, noun: str = "text", empty: bool = False) -> list[str]:
    """The texts as a list; `noun` is what errors call one of them, `empty` allows empty strings.

    Raises UsageError for anything but a non-empty sequence of non-empty, encodable strings.
    """
    if isinstance(texts, str) or not isinstance(texts, Sequence):
        raise UsageError(f"{noun}s must be a list of strings, not {type(texts).__name__}")
    if not texts:
        raise UsageError(f"{noun}s is an empty list; give at least one {noun}", empty=True)
    for index, text in enumerate(texts):
        check_text(text, f"{noun} {index}", empty, f"{noun}s")
    return list(texts)


def check_text(text: object, name: str, empty: bool = False, param: str | None = None) -> str:
    """The text itself. Raises UsageError, calling it `name`, unless it is an encodable string, and not empty but by `empty`.

    param: the argument that it came in, see UsageError.
    """
    if not isinstance(text, str):
        raise UsageError(f"{name} is {type(text).__name__}, not a string", param)
    if not text and not empty:
        raise UsageError(f"{name} is an empty string", param)
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        message = f"{name} has a lone surrogate at character {error.start}; it is not valid Unicode"
        raise UsageError(message, param) from None
    return text
