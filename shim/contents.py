"""What the tokenizer's library makes of texts, without special tokens: long ones part by part, as far as they are needed."""

import contextlib
import re
import unicodedata
from collections.abc import Callable, Generator, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from tokenizers import AddedToken, Encoding, Tokenizer, models, normalizers

from shim.errors import IntegrityError
from shim.seams import PART, parts, seams

T = TypeVar("T")
Steps = Generator[None, None, T]  # work that may be left to others after each step, of about PART characters
SPLIT = "\ufdd0"  # no character: what stands on both sides of it in a text is tokenized by itself


class Contents:
    """A tokenizer's file, read without padding and truncation. plain: whether control tokens in users' texts are texts.

    markers: words of its vocabulary that are control tokens, too.
    bounded: whether a text is refused that cannot be cut into steps of FARTHEST characters; for those who wait meanwhile.
    """

    def __init__(self, path: Path, lower_case: bool = False, plain: bool = False, markers: Sequence[str] = ()):
        self.path, self.bounded = path, False
        with self.sound():
            self.tokenizer = Tokenizer.from_file(str(path))
        if lower_case and not _lowers(self.tokenizer.normalizer):
            steps = [normalizers.Lowercase(), *([self.tokenizer.normalizer] if self.tokenizer.normalizer else [])]
            self.tokenizer.normalizer = normalizers.Sequence(steps)
        self.tokenizer.no_padding()
        self.tokenizer.add_special_tokens([AddedToken(marker, normalized=False, special=True) for marker in markers])
        self.seams = seams(self.tokenizer)
        # The longest first: one may begin with another.
        added = (token.content for token in self.tokenizer.get_added_tokens_decoder().values())
        control = sorted((content for content in added if content.strip()), key=len, reverse=True)
        self._control = re.compile("|".join(map(re.escape, control)), re.IGNORECASE) if plain and control else None

    @contextlib.contextmanager
    def sound(self) -> Iterator[None]:
        """Raise IntegrityError for whatever the tokenizer's library finds in its file, at once or with the first text."""
        try:
            yield
        except BaseException as error:
            # It raises bare Exception, and where it did not expect a fault, its own PanicException, which is none of those.
            if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
                raise
            raise IntegrityError(f"{self.path}: not a readable tokenizer ({' '.join(str(error).split()):.200})") from None

    def plain(self, text: str) -> str:
        """A user's text, its control tokens split where they are to be text."""
        if self._control is None:
            return text
        text = text.replace(SPLIT, "")
        if isinstance(self.tokenizer.model, models.Unigram):  # whose pieces hold the control tokens, found once normalised
            normal = unicodedata.normalize("NFKC", text)
            text = normal if self._control.search(normal) else text
        return self._control.sub(lambda found: found[0][0] + SPLIT + found[0][1:], text)

    def of_one(self, text: str, limit: int, side: str = "right") -> Steps[Encoding]:
        """The tokens of a text: all, or of a long one more than `limit`, on the side that is kept. Raises as `parts` does."""
        if len(text) <= PART:
            (found,) = yield from self.of_short([text])
            return found
        encodings: list[Encoding] = []
        count = 0
        for part in parts(text, self.seams, side, self.bounded):
            (encoding,) = yield from self.of_short([part])
            encodings.append(encoding)
            count += len(encoding)
            if count > limit:
                break
        return Encoding.merge(encodings[::-1] if side == "left" else encodings)

    def of_short(self, texts: Sequence[str]) -> Steps[list[Encoding]]:
        """All tokens of each, at once."""
        self.tokenizer.no_truncation()  # what others set meanwhile
        with self.sound():
            if self._control is None:
                found = self.tokenizer.encode_batch(list(texts), add_special_tokens=False)
            else:
                found = [self._joined(text.split(SPLIT)) for text in texts]
        yield
        return found

    def _joined(self, texts: list[str]) -> Encoding:
        return Encoding.merge(self.tokenizer.encode_batch(texts, add_special_tokens=False))

    def of_all(self, texts: Sequence[str], limit: int, made: Callable[[Encoding], T], side: str = "right") -> Steps[list[T]]:
        """What is made of each text's tokens; short texts go together."""
        found: list[T] = []
        for group in _grouped(texts):
            if len(group) == 1:
                found.append(made((yield from self.of_one(group[0], limit, side))))
            else:
                found += map(made, (yield from self.of_short(group)))
        return found


def completed(steps: Steps[T]) -> T:
    """The result of all steps."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value


def _grouped(texts: Sequence[str]) -> Iterator[list[str]]:
    """The texts in groups of PART characters; a longer text is by itself."""
    group: list[str] = []
    size = 0
    for text in texts:
        if group and size + len(text) > PART:
            yield group
            group, size = [], 0
        group.append(text)
        size += len(text)
    if group:
        yield group


def _lowers(normalizer: normalizers.Normalizer | None) -> bool:
    """Whether one of its steps is Lowercase; BERT's own lower-casing does not count, as sentence-transformers has it."""
    steps: Any = normalizer if isinstance(normalizer, normalizers.Sequence) else [normalizer]
    return any(isinstance(step, normalizers.Lowercase) for step in steps)
