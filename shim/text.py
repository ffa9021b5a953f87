"""Texts to tokens: task prompts, pairs, special tokens, truncation and padding, whatever the tokenizer file itself has set."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from tokenizers import Encoding

from shim.checks import check_text
from shim.contents import Contents, Steps, completed
from shim.errors import IntegrityError, TooLongError, UsageError
from shim.jsons import read_object
from shim.pieces import Piece, pieces_of
from shim.prompts import DEFAULT, PAIR, SLOT
from shim.seams import FARTHEST

MAX_ID = 2**32  # of a token, in the tokenizer's library
# Of these, transformers' classifiers score at the last token that is not the padding id, even a text's own.
CAUSAL = ("gemma3_text", "llama", "mistral", "olmo3", "qwen2", "qwen3")


@dataclass(frozen=True)
class Tokens:
    """A batch for a runtime. Ours is padded on the right; runtimes take padding on the left, too, where positions are rotary.

    input_ids, attention_mask, token_type_ids: (n, length) int64; attention_mask is 1 on tokens and 0 on padding.
    adapters: (n,) int64, the number of each text's adapter, -1 for none; None where no text has one.
    """

    input_ids: np.ndarray
    attention_mask: np.ndarray
    token_type_ids: np.ndarray
    adapters: np.ndarray | None = None

    def texts(self, rows: slice | np.ndarray, length: int | None = None) -> "Tokens":
        """These texts of the batch, cut to `length` tokens where given."""
        ids, mask, types = (part[rows, :length] for part in (self.input_ids, self.attention_mask, self.token_type_ids))
        return Tokens(ids, mask, types, None if self.adapters is None else self.adapters[rows])


@dataclass(eq=False)
class Prefix:
    """What the pairs of one query have in common: what is known of it once the first is encoded; how many pairs there are.

    ids: of template and query. Where they meet a document they may be other tokens, so a pair's ids may follow them for a part
    only: those before the last seam, `sure` many. seam: the text behind it. tail: what ends a pair. query: of a pair of the
    tokenizer's own.
    """

    pairs: int
    ids: list[int] = field(default_factory=list)
    sure: int = 0
    seam: str = ""
    tail: list[int] = field(default_factory=list)
    query: Encoding | None = None


@dataclass(frozen=True)
class Encoded:
    """One text as token ids, special tokens included, cut to the model's limit.

    prefix: of a pair by a template. adapter: the number of its task's, -1 for none. spans: of a document's window (chunk,
    start, end) of the tokens that count, see `shim.late`. unattended: the last tokens, which attention does not see. kept: the
    places of the tokens with a ColBERT vector; None for all but the first.
    """

    ids: list[int]
    type_ids: list[int]
    truncated: bool
    prefix: Prefix | None = field(default=None, compare=False, repr=False)
    adapter: int = -1
    spans: tuple[tuple[int, int, int], ...] = ()
    unattended: int = 0
    kept: tuple[int, ...] | None = None


class TextEncoder:
    """The tokenizer of an artifact; its own padding and truncation are replaced by ours."""

    def __init__(
        self,
        directory: Path,
        max_tokens: int,
        lower_case: bool = False,
        plain: bool = False,
        markers: Sequence[str] = (),
    ):
        """Read `tokenizer.json` and the padding id of `config.json` in `directory`; max_tokens counts special tokens.

        lower_case: whether texts are lower-cased before anything else of the tokenizer's. plain: whether control tokens in a
        text, a query, a document or an instruction are text, too; by default they mean what they mean upstream. markers: words
        of the vocabulary that are control tokens, too.
        """
        self.directory, self.max_tokens = directory, max_tokens
        self.contents = Contents(directory / "tokenizer.json", lower_case, plain, markers)
        self.tokenizer = self.contents.tokenizer
        with self.contents.sound():
            added = self.tokenizer.num_special_tokens_to_add(False)
        self.room(added, "special tokens")
        config = read_object(directory / "config.json")
        pad_id = config.get("pad_token_id") or 0
        if not isinstance(pad_id, int) or not 0 <= pad_id < MAX_ID:
            raise IntegrityError(f"{directory / 'config.json'}: pad_token_id must be the id of a token, not {pad_id!r:.100}")
        self.pad_id = pad_id
        sizes = [config.get(name) for name in ("vocab_size", "type_vocab_size")]
        self.words, self.types = (size if size and isinstance(size, int) else MAX_ID for size in sizes)  # rows of two tables
        # transformers' classifiers over causal models score at the last token that is not the padding id, even a text's own.
        names = config.get("architectures")
        causal = config.get("model_type") in CAUSAL and config.get("pad_token_id") is not None
        self.unscored = pad_id if causal and "ForSequenceClassification" in str(names) else None

    def name(self, directory: Path) -> None:
        """Errors name this directory from now on, in place of the one that was read."""
        self.directory, self.contents.path = directory, directory / "tokenizer.json"

    def encode(self, texts: Sequence[str], prompt: str = "", side: str = "right", limit: int | None = None) -> list[Encoded]:
        """Token ids of prompt + text; each is cut on its right (or left: `side`) to max_tokens, special tokens kept.

        limit: in place of max_tokens. Raises UsageError for a prompt that leaves no room for a text; once `bound`, TooLongError
        as `shim.seams.parts` does.
        """
        return completed(self.encoding(texts, prompt, side, limit))

    def encoding(
        self, texts: Sequence[str], prompt: str = "", side: str = "right", limit: int | None = None
    ) -> Steps[list[Encoded]]:
        """`encode` in steps."""
        limit = limit or self.max_tokens
        if prompt:
            taken = yield from self.contents.of_one(prompt, limit)
            self.room(len(taken) + self.tokenizer.num_special_tokens_to_add(False), "tokens of the prompt", limit)
        whole = [prompt + self.contents.plain(text) for text in texts]

        def made(content: Encoding) -> Encoded:
            self.tokenizer.enable_truncation(limit, direction=side)
            with self.contents.sound():
                return _encoded(self.tokenizer.post_process(content))

        return (yield from self.contents.of_all(whole, limit, made, side))

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
        a query that leaves a template no room for a document, and for an instruction that has no place; once `bound`,
        TooLongError as `encode` does, and for a query of over FARTHEST characters.
        """
        return completed(self.pairing(query, documents, prompts, instruction, side, prefix or Prefix(len(documents))))

    def pairing(
        self,
        query: str,
        documents: Sequence[str],
        prompts: Mapping[str, str],
        instruction: str | None,
        side: str,
        prefix: Prefix,
    ) -> Steps[list[Encoded]]:
        """`pairs` in steps."""
        if self.contents.bounded and len(query) > FARTHEST:
            raise TooLongError(f"the query has over {FARTHEST} characters", "query")
        query, documents = self.contents.plain(query), [self.contents.plain(document) for document in documents]
        template = prompts.get(PAIR)
        if template is None:
            if instruction is not None:
                raise UsageError("this model takes no instruction; leave it out")
            return (yield from self._own_pairs(prompts.get(DEFAULT, "") + query, documents, side, prefix))
        if side != "right":
            raise UsageError(f"this model's documents are cut on the right, not on the {side}")
        if instruction is not None:
            check_text(instruction, "instruction", param="instruction")
            instruction = self.contents.plain(instruction)
        if not prefix.ids:
            values = {"{query}": query, SLOT: prompts.get(DEFAULT, "") if instruction is None else instruction}
            before, after = template.split("{document}")
            before = re.sub(r"\{query\}|\{instruction\}", lambda slot: values[slot[0]], before)
            yield from self._begin(before, after, prefix)
        sure, tail = prefix.ids[: prefix.sure], prefix.tail
        room = self.max_tokens - len(tail) - prefix.sure
        types = [0] * self.max_tokens

        def made(content: Encoding) -> Encoded:
            ids = [*sure, *content.ids[:room], *tail]
            return Encoded(ids, types[: len(ids)], len(content) > room, prefix)

        return (yield from self.contents.of_all([prefix.seam + document for document in documents], room, made))

    def _begin(self, before: str, after: str, prefix: Prefix) -> Steps[None]:
        """Note what all pairs of a template begin and end with."""
        seams = self.contents.seams
        cut = max((found.start() for found in seams.finditer(before)), default=0) if seams else 0
        sure = yield from self.contents.of_one(before[:cut], self.max_tokens)
        behind = yield from self.contents.of_one(before[cut:], self.max_tokens)
        tail = yield from self.contents.of_one(after, self.max_tokens)
        self.room(len(sure) + len(behind) + len(tail), "tokens of the query and its template")
        prefix.sure, prefix.seam, prefix.tail = len(sure), before[cut:], tail.ids
        prefix.ids = sure.ids + behind.ids

    def _own_pairs(self, query: str, documents: Sequence[str], side: str, prefix: Prefix) -> Steps[list[Encoded]]:
        self.room(self.tokenizer.num_special_tokens_to_add(True), "special tokens")
        if prefix.query is None:
            prefix.query = yield from self.contents.of_one(query, MAX_ID)  # whole: the longer of the two is cut
        first = prefix.query

        def made(content: Encoding) -> Encoded:
            self.tokenizer.enable_truncation(self.max_tokens, strategy="longest_first", direction=side)
            with self.contents.sound():
                return _encoded(self.tokenizer.post_process(first, content))

        return (yield from self.contents.of_all(documents, max(self.max_tokens, len(first)), made, side))

    def piecing(self, text: str, special: bool = True) -> Iterator[list[Piece]]:
        """Its tokens as a user may look at them, see `pieces_of`."""
        return pieces_of(text, self.contents, special)

    def bound(self) -> None:
        """From now on no step is long: a text that cannot be cut into short ones is refused, see `shim.seams.parts`."""
        self.contents.bounded = True

    def plain(self, text: str) -> str:
        """What a user says in a prompt, its control tokens split where they are to be text."""
        return self.contents.plain(text)

    def room(self, taken: int, what: str, limit: int | None = None) -> int:
        """Tokens that are left of the limit, or of max_tokens. Raises UsageError where none is."""
        limit = limit or self.max_tokens
        if taken >= limit:
            raise UsageError(f"max_tokens {limit} leaves no room beside {taken} {what}")
        return limit - taken

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
            scored = length - item.unattended
            while self.unscored is not None and scored > 1 and item.ids[scored - 1] == self.unscored:
                scored -= 1
            ids[row, :length], mask[row, :scored], types[row, :length] = item.ids, 1, item.type_ids
        if ids.max() >= self.words or types.max() >= self.types:
            raise IntegrityError(f"{self.directory / 'tokenizer.json'}: gives ids that config.json has no rows for")
        adapters = [item.adapter for item in encoded]
        return Tokens(ids, mask, types, np.array(adapters, np.int64) if max(adapters) >= 0 else None)


def adapted(encoded: list[Encoded], adapter: int) -> list[Encoded]:
    """The same texts through the adapter of this number."""
    return encoded if adapter < 0 else [replace(item, adapter=adapter) for item in encoded]


def _encoded(item: Encoding) -> Encoded:
    return Encoded(item.ids, item.type_ids, bool(item.overflowing))
