"""Texts to tokens: task prompts, pairs, special tokens, truncation and padding, whatever the tokenizer file itself has set."""

import contextlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer, normalizers

from shim.checks import check_text
from shim.errors import IntegrityError, UsageError
from shim.jsons import read_object
from shim.prompts import DEFAULT, PAIR, SLOT

MAX_ID = 2**32  # of a token, in the tokenizer's library


@dataclass(frozen=True)
class Tokens:
    """A batch for a runtime. Ours is padded on the right; runtimes take padding on the left, too, where positions are rotary.

    input_ids, attention_mask, token_type_ids: (n, length) int64; attention_mask is 1 on tokens and 0 on padding.
    """

    input_ids: np.ndarray
    attention_mask: np.ndarray
    token_type_ids: np.ndarray


@dataclass(eq=False)
class Prefix:
    """What the pairs of one query begin with: the ids of template and query, once they are known; how many pairs there are.

    Where it meets a document they may be other tokens, so a pair's ids may follow it for a part only.
    """

    pairs: int
    ids: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class Encoded:
    """One text as token ids, special tokens included, cut to the model's limit. prefix: of a pair by a template."""

    ids: list[int]
    type_ids: list[int]
    truncated: bool
    prefix: Prefix | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True)
class Piece:
    """One token and where it lies in its text, in characters; a special token lies nowhere."""

    id: int
    text: str
    special: bool
    start: int | None
    stop: int | None


class TextEncoder:
    """The tokenizer of an artifact; its own padding and truncation are replaced by ours."""

    def __init__(self, directory: Path, max_tokens: int, lower_case: bool = False):
        """Read `tokenizer.json` and the padding id of `config.json` in `directory`; max_tokens counts special tokens.

        lower_case: whether texts are lower-cased before anything else of the tokenizer's.
        """
        self.directory, self.max_tokens = directory, max_tokens
        with self._sound():
            self.tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
        if lower_case and not _lowers(self.tokenizer.normalizer):
            steps = [normalizers.Lowercase(), *([self.tokenizer.normalizer] if self.tokenizer.normalizer else [])]
            self.tokenizer.normalizer = normalizers.Sequence(steps)
        self.tokenizer.no_padding()
        with self._sound():
            added = self.tokenizer.num_special_tokens_to_add(False)
        self._room(added, "special tokens")
        config = read_object(directory / "config.json")
        pad_id = config.get("pad_token_id") or 0
        if not isinstance(pad_id, int) or not 0 <= pad_id < MAX_ID:
            raise IntegrityError(f"{directory / 'config.json'}: pad_token_id must be the id of a token, not {pad_id!r:.100}")
        self.pad_id = pad_id
        sizes = [config.get(name) for name in ("vocab_size", "type_vocab_size")]
        self.words, self.types = (size if isinstance(size, int) else MAX_ID for size in sizes)  # rows of the two tables
        # transformers' classifiers over causal models score at the last token that is not the padding id, even a text's own.
        names = config.get("architectures")
        causal = config.get("model_type") == "qwen3" and config.get("pad_token_id") is not None
        self.unscored = pad_id if causal and "ForSequenceClassification" in str(names) else None

    def _encodings(self, texts: list[Any], special: bool = True) -> list[Any]:
        """The library's encodings of texts or pairs; `special` puts the special tokens around them."""
        with self._sound():
            return self.tokenizer.encode_batch(texts, add_special_tokens=special)

    @contextlib.contextmanager
    def _sound(self) -> Iterator[None]:
        """Raise IntegrityError for whatever the tokenizer's library finds in its file, at once or with the first text."""
        try:
            yield
        except BaseException as error:
            # It raises bare Exception, and where it did not expect a fault, its own PanicException, which is none of those.
            if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
                raise
            path = self.directory / "tokenizer.json"
            raise IntegrityError(f"{path}: not a readable tokenizer ({' '.join(str(error).split()):.200})") from None

    def encode(self, texts: Sequence[str], prompt: str = "", side: str = "right") -> list[Encoded]:
        """Token ids of prompt + text; each is cut on its right (or left: `side`) to max_tokens, special tokens kept.

        Raises UsageError for a prompt that leaves no room for a text.
        """
        if prompt:
            self.tokenizer.no_truncation()
            self._room(len(self._encodings([prompt])[0].ids), "tokens of the prompt")
        self.tokenizer.enable_truncation(self.max_tokens, direction=side)
        encodings = self._encodings([prompt + text for text in texts])
        return [Encoded(item.ids, item.type_ids, bool(item.overflowing)) for item in encodings]

    def pairs(
        self,
        query: str,
        documents: Sequence[str],
        prompts: Mapping[str, str],
        instruction: str | None = None,
        side: str = "right",
        prefix: Prefix | None = None,
    ) -> list[Encoded]:
        """Token ids of the query with each document, cut on their right to max_tokens.

        prefix: one for all calls with the same query; None where there is one call.

        The pair is the template `pair` of `prompts` where there is one, around `instruction` or its default; then only the
        document is cut, never what comes behind it. Else it is the tokenizer's own, with the default before the query, and the
        longer of the two is cut, as in sentence-transformers' CrossEncoder; `side` left cuts on the left. Raises UsageError for
        a query that leaves a template no room for a document, and for an instruction that has no place.
        """
        template = prompts.get(PAIR)
        if template is None:
            if instruction is not None:
                raise UsageError("this model takes no instruction; leave it out")
            return self._own_pairs(prompts.get(DEFAULT, "") + query, documents, side)
        if side != "right":
            raise UsageError(f"this model's documents are cut on the right, not on the {side}")
        if instruction is not None:
            check_text(instruction, "instruction", param="instruction")
        values = {"{query}": query, SLOT: prompts.get(DEFAULT, "") if instruction is None else instruction}
        before, after = template.split("{document}")
        before = re.sub(r"\{query\}|\{instruction\}", lambda slot: values[slot[0]], before)
        self.tokenizer.no_truncation()
        head, tail = (encoding.ids for encoding in self._encodings([before, after], special=False))
        self.tokenizer.enable_truncation(self._room(len(head) + len(tail), "tokens of the query and its template") + len(head))
        encodings = self._encodings([before + document for document in documents], special=False)
        prefix = prefix or Prefix(len(documents))
        prefix.ids = head
        types = [0] * len(tail)
        return [Encoded(item.ids + tail, item.type_ids + types, bool(item.overflowing), prefix) for item in encodings]

    def _own_pairs(self, query: str, documents: Sequence[str], side: str) -> list[Encoded]:
        self._room(self.tokenizer.num_special_tokens_to_add(True), "special tokens")
        self.tokenizer.enable_truncation(self.max_tokens, strategy="longest_first", direction=side)
        encodings = self._encodings([(query, document) for document in documents])
        return [Encoded(item.ids, item.type_ids, bool(item.overflowing)) for item in encodings]

    def pieces(self, texts: Sequence[str], special: bool = True) -> list[list[Piece]]:
        """Each text's tokens, uncut; `special` puts the special tokens around them."""
        self.tokenizer.no_truncation()
        found = []
        for text, encoding in zip(texts, self._encodings(list(texts), special), strict=True):
            rows = zip(encoding.ids, encoding.tokens, encoding.special_tokens_mask, encoding.offsets, strict=True)
            found.append([
                Piece(id, token, True, None, None) if mask else Piece(id, text[start:stop], False, start, stop)
                for id, token, mask, (start, stop) in rows
            ])  # fmt: skip
        return found

    def _room(self, taken: int, what: str) -> int:
        if taken >= self.max_tokens:
            raise UsageError(f"max_tokens {self.max_tokens} leaves no room beside {taken} {what}")
        return self.max_tokens - taken

    def unused(self) -> frozenset[int]:
        """Ids that mean nothing in a sparse vector: those of the cls, eos, pad and unk tokens of `tokenizer_config.json`."""
        config = read_object(self.directory / "tokenizer_config.json")
        tokens = [config.get(f"{name}_token") for name in ("cls", "eos", "pad", "unk")]
        ids = [self.tokenizer.token_to_id(str(t["content"] if isinstance(t, dict) else t)) for t in tokens if t is not None]
        return frozenset(id for id in ids if id is not None)

    def batch(self, encoded: Sequence[Encoded]) -> Tokens:
        """Pad on the right to the longest of the batch.

        Raises IntegrityError for an id that a table has no row for: MLX reads the memory behind it, and others take zeros.
        """
        shape = (len(encoded), max(len(item.ids) for item in encoded))
        ids, mask, types = np.full(shape, self.pad_id, np.int64), np.zeros(shape, np.int64), np.zeros(shape, np.int64)
        for row, item in enumerate(encoded):
            length = len(item.ids)
            scored = length
            while self.unscored is not None and scored > 1 and item.ids[scored - 1] == self.unscored:
                scored -= 1
            ids[row, :length], mask[row, :scored], types[row, :length] = item.ids, 1, item.type_ids
        if ids.max() >= self.words or types.max() >= self.types:
            raise IntegrityError(f"{self.directory / 'tokenizer.json'}: gives ids that config.json has no rows for")
        return Tokens(ids, mask, types)


def _lowers(normalizer: normalizers.Normalizer | None) -> bool:
    """Whether one of its steps is Lowercase; BERT's own lower-casing does not count, as sentence-transformers has it."""
    steps: Any = normalizer if isinstance(normalizer, normalizers.Sequence) else [normalizer]
    return any(isinstance(step, normalizers.Lowercase) for step in steps)
