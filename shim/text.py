"""Texts to tokens: task prompts, pairs, special tokens, truncation and padding, whatever the tokenizer file itself has set."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from shim.artifact import read_object
from shim.errors import IntegrityError, UsageError

# What a task asks of a model that takes instructions; None where the text is given as it is.
INSTRUCTIONS = {
    "retrieval.query": (
        "Given a search query, retrieve relevant documents or passages that directly answer or address the query"
    ),
    "retrieval.passage": None,
    "text-matching": "Represent this text for finding semantically similar texts",
    "classification": "Represent this text for classification",
    "separation": "Represent this text for clustering",
    "clustering": "Represent this text for clustering",
    "code.query": "Given a natural language description, retrieve relevant code snippets or implementations",
    "code.passage": None,
    "scientific.query": "Given a scientific question, retrieve relevant research papers or scientific information",
    "qa.query": "Given a question, retrieve passages that contain the answer to the question",
    "bitext": "Represent this text for finding its translation in another language",
    "summarization.query": "Given a summary, retrieve the original document that matches this summary",
}
TASKS = tuple(INSTRUCTIONS)
TEMPLATE = "instruction"  # the key of a model's prompts whose value puts an instruction before a text
SLOT = "{instruction}"
PAIR = "pair"  # the key of a reranker's prompts that holds query and document; without it, the tokenizer's own pairs
PAIR_SLOTS = (SLOT, "{query}", "{document}")
DEFAULT = "default"  # the instruction of a pair for which none is given
PROMPTS = (*TASKS, TEMPLATE, PAIR, DEFAULT)


@dataclass(frozen=True)
class Tokens:
    """A batch for a runtime. Ours is padded on the right; runtimes take padding on the left, too, where positions are rotary.

    input_ids, attention_mask, token_type_ids: (n, length) int64; attention_mask is 1 on tokens and 0 on padding.
    """

    input_ids: np.ndarray
    attention_mask: np.ndarray
    token_type_ids: np.ndarray


@dataclass(frozen=True)
class Encoded:
    """One text as token ids, special tokens included, cut to the model's limit."""

    ids: list[int]
    type_ids: list[int]
    truncated: bool


@dataclass(frozen=True)
class Piece:
    """One token and where it lies in its text, in characters; a special token lies nowhere."""

    id: int
    text: str
    special: bool
    start: int | None
    stop: int | None


def check_texts(texts: object, noun: str = "text", empty: bool = False) -> list[str]:
    """The texts as a list; `noun` is what errors call one of them, `empty` allows empty strings.

    Raises UsageError for anything but a non-empty sequence of non-empty, encodable strings.
    """
    if isinstance(texts, str) or not isinstance(texts, Sequence):
        raise UsageError(f"{noun}s must be a list of strings, not {type(texts).__name__}")
    if not texts:
        raise UsageError(f"{noun}s is an empty list; give at least one {noun}")
    for index, text in enumerate(texts):
        check_text(text, f"{noun} {index}", empty)
    return list(texts)


def check_text(text: object, name: str, empty: bool = False) -> str:
    """The text itself. Raises UsageError, calling it `name`, unless it is an encodable string, and not empty but by `empty`."""
    if not isinstance(text, str):
        raise UsageError(f"{name} is {type(text).__name__}, not a string")
    if not text and not empty:
        raise UsageError(f"{name} is an empty string")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise UsageError(f"{name} has a lone surrogate at character {error.start}; it is not valid Unicode") from None
    return text


def prompt_for(prompts: Mapping[str, str], task: str | None, instruction: str | None = None) -> str:
    """What goes before a text: the model's own prompt for the task, or its template around the instruction.

    A custom instruction takes the place of the task's. Empty for a model without prompts, and for tasks that have none.
    Raises UsageError for an unknown task, and for an instruction given to a model that takes none.
    """
    if task is not None and task not in TASKS:
        raise UsageError(f"task {task!r} unknown ({', '.join(TASKS)})")
    template = prompts.get(TEMPLATE)
    if instruction is not None:
        if template is None:
            raise UsageError("this model takes no instruction; leave it out, or put it into the text")
        check_text(instruction, "instruction")
        return template.replace(SLOT, instruction)
    if task is None or task in prompts:
        return prompts.get(task or "", "")
    own = INSTRUCTIONS[task]
    return template.replace(SLOT, own) if template and own else ""


class TextEncoder:
    """The tokenizer of an artifact; its own padding and truncation are replaced by ours."""

    def __init__(self, directory: Path, max_tokens: int):
        """Read `tokenizer.json` and the padding id of `config.json` in `directory`; max_tokens counts special tokens."""
        self.directory, self.max_tokens = directory, max_tokens
        path = directory / "tokenizer.json"
        try:
            self.tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # tokenizers raises bare Exception
            raise IntegrityError(f"{path}: not a readable tokenizer ({error})") from None
        self.tokenizer.no_padding()
        self._room(self.tokenizer.num_special_tokens_to_add(False), "special tokens")
        pad_id = read_object(directory / "config.json").get("pad_token_id") or 0
        if not isinstance(pad_id, int):
            raise IntegrityError(f"{directory / 'config.json'}: pad_token_id must be a whole number, not {pad_id!r}")
        self.pad_id = pad_id

    def encode(self, texts: Sequence[str], prompt: str = "", side: str = "right") -> list[Encoded]:
        """Token ids of prompt + text; each is cut on its right (or left: `side`) to max_tokens, special tokens kept.

        Raises UsageError for a prompt that leaves no room for a text.
        """
        if prompt:
            self.tokenizer.no_truncation()
            self._room(len(self.tokenizer.encode(prompt).ids), "tokens of the prompt")
        self.tokenizer.enable_truncation(self.max_tokens, direction=side)
        encodings = self.tokenizer.encode_batch([prompt + text for text in texts])
        return [Encoded(item.ids, item.type_ids, bool(item.overflowing)) for item in encodings]

    def pairs(
        self,
        query: str,
        documents: Sequence[str],
        prompts: Mapping[str, str],
        instruction: str | None = None,
        side: str = "right",
    ) -> list[Encoded]:
        """Token ids of the query with each document; only the document is cut, on its right, never what comes behind it.

        `side` left cuts it on its left, in a pair of the tokenizer's own.

        The pair is the template `pair` of `prompts` where there is one, around `instruction` or its default, else the
        tokenizer's own. Raises UsageError for a query that leaves no room for a document, and for an instruction that has no
        place.
        """
        template = prompts.get(PAIR)
        if template is None:
            if instruction is not None:
                raise UsageError("this model takes no instruction; leave it out")
            return self._own_pairs(query, documents, side)
        if side != "right":
            raise UsageError(f"this model's documents are cut on the right, not on the {side}")
        if instruction is not None:
            check_text(instruction, "instruction")
        values = {"{query}": query, SLOT: prompts.get(DEFAULT, "") if instruction is None else instruction}
        before, after = template.split("{document}")
        before = re.sub(r"\{query\}|\{instruction\}", lambda slot: values[slot[0]], before)
        self.tokenizer.no_truncation()
        head, tail = (self.tokenizer.encode(part, add_special_tokens=False).ids for part in (before, after))
        self.tokenizer.enable_truncation(self._room(len(head) + len(tail), "tokens of the query and its template") + len(head))
        encodings = self.tokenizer.encode_batch([before + document for document in documents], add_special_tokens=False)
        return [Encoded(item.ids + tail, [*item.type_ids, *(0 for _ in tail)], bool(item.overflowing)) for item in encodings]

    def _own_pairs(self, query: str, documents: Sequence[str], side: str) -> list[Encoded]:
        self.tokenizer.no_truncation()
        length = len(self.tokenizer.encode(query, add_special_tokens=False).ids)
        self._room(length + self.tokenizer.num_special_tokens_to_add(True), "tokens of the query and its frame")
        self.tokenizer.enable_truncation(self.max_tokens, strategy="only_second", direction=side)
        encodings = self.tokenizer.encode_batch([(query, document) for document in documents])
        return [Encoded(item.ids, item.type_ids, bool(item.overflowing)) for item in encodings]

    def pieces(self, texts: Sequence[str], special: bool = True) -> list[list[Piece]]:
        """Each text's tokens, uncut; `special` puts the special tokens around them."""
        self.tokenizer.no_truncation()
        found = []
        for text, encoding in zip(texts, self.tokenizer.encode_batch(list(texts), add_special_tokens=special), strict=True):
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
        ids = [self.tokenizer.token_to_id(t["content"] if isinstance(t, dict) else t) for t in tokens if t is not None]
        return frozenset(id for id in ids if id is not None)

    def batch(self, encoded: Sequence[Encoded]) -> Tokens:
        """Pad on the right to the longest of the batch."""
        shape = (len(encoded), max(len(item.ids) for item in encoded))
        ids, mask, types = np.full(shape, self.pad_id, np.int64), np.zeros(shape, np.int64), np.zeros(shape, np.int64)
        for row, item in enumerate(encoded):
            length = len(item.ids)
            ids[row, :length], mask[row, :length], types[row, :length] = item.ids, 1, item.type_ids
        return Tokens(ids, mask, types)
