"""The tokens of a text as a user may look at them: uncut, each with what it stands for and where that lies in the text."""

from collections.abc import Iterator
from dataclasses import dataclass

from tokenizers import Tokenizer

from shim.contents import Contents, completed
from shim.seams import parts


@dataclass(frozen=True, slots=True)
class Piece:
    """One token and where it lies in its text, in characters; a special token lies nowhere."""

    id: int
    text: str
    special: bool
    start: int | None
    stop: int | None


def pieces_of(text: str, contents: Contents, special: bool = True) -> Iterator[list[Piece]]:
    """The tokens of a text, part by part; `special` puts the special tokens around them. Raises as `shim.seams.parts` does."""
    before, after = edges(contents.tokenizer) if special else ([], [])
    yield before
    start = 0
    for part in parts(text, contents.seams, bounded=contents.bounded):
        (encoding,) = completed(contents.of_short([part]))
        rows = zip(encoding.ids, encoding.offsets, strict=True)
        yield [Piece(id, part[left:right], False, start + left, start + right) for id, (left, right) in rows]
        start += len(part)
    yield after


def edges(tokenizer: Tokenizer) -> tuple[list[Piece], list[Piece]]:
    """The special tokens before a text, and those behind it."""
    tokenizer.no_truncation()
    found = tokenizer.encode("a")
    rows = [Piece(id, token, True, None, None) for id, token in zip(found.ids, found.tokens, strict=True)]
    mask = found.special_tokens_mask
    first = mask.index(0) if 0 in mask else len(mask)
    return rows[:first], [row for row, special in zip(rows[first:], mask[first:], strict=True) if special]
