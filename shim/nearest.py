"""What a name that is nothing was meant to be."""

import difflib
import re
from collections.abc import Iterable

LANGUAGES = {"ar", "de", "en", "es", "fr", "ja", "ko", "ru", "zh"}  # as parts of names


def nearest(word: str, names: Iterable[str], most: int = 1, cutoff: float = 0.6) -> list[str]:
    """Those of the names that are near the word, the nearest first; none is for another language than the word says.

    cutoff: the least likeness, from 0 to 1.
    """
    language = LANGUAGES & _parts(word)
    offered = [name for name in names if not language or LANGUAGES & _parts(name) <= language]
    return difflib.get_close_matches(word, offered, n=most, cutoff=cutoff)


def meant(word: str, names: Iterable[str]) -> str:
    """`; did you mean NAME?` where one of the names is near the word, else an empty string."""
    near = nearest(word, names)
    return f"; did you mean {near[0]}?" if near else ""


def _parts(name: str) -> set[str]:
    return set(re.split(r"[-_./]", name.lower()))
