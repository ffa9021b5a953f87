"""Texts to tokens: task prompts, special tokens, truncation and padding, whatever the tokenizer file itself has set."""

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


@dataclass(frozen=True)
class Tokens:
    """A batch for a runtime, padded on the right.

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


def check_texts(texts: object) -> list[str]:
    """The texts as a list. Raises UsageError for anything but a non-empty sequence of non-empty, encodable strings."""
    if isinstance(texts, str) or not isinstance(texts, Sequence):
        raise UsageError(f"texts must be a list of strings, not {type(texts).__name__}")
    if not texts:
        raise UsageError("texts is an empty list; give at least one text")
    for index, text in enumerate(texts):
        if not isinstance(text, str):
            raise UsageError(f"text {index} is {type(text).__name__}, not a string")
        if not text:
            raise UsageError(f"text {index} is an empty string")
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise UsageError(f"text {index} has a lone surrogate at character {error.start}; it is not valid Unicode") from None
    return list(texts)


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
        check_texts([instruction])
        return template.replace(SLOT, instruction)
    if task is None or task in prompts:
        return prompts.get(task or "", "")
    own = INSTRUCTIONS[task]
    return template.replace(SLOT, own) if template and own else ""


class TextEncoder:
    """The tokenizer of an artifact; its own padding and truncation are replaced by ours."""

    def __init__(self, directory: Path, max_tokens: int):
        """Read `tokenizer.json` and the padding id of `config.json` in `directory`; max_tokens counts special tokens."""
        path = directory / "tokenizer.json"
        try:
            self.tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # tokenizers raises bare Exception
            raise IntegrityError(f"{path}: not a readable tokenizer ({error})") from None
        specials = self.tokenizer.num_special_tokens_to_add(False)
        if max_tokens <= specials:
            raise UsageError(f"max_tokens {max_tokens} leaves no room beside {specials} special tokens")
        self.tokenizer.no_padding()
        self.tokenizer.enable_truncation(max_tokens)
        pad_id = read_object(directory / "config.json").get("pad_token_id") or 0
        if not isinstance(pad_id, int):
            raise IntegrityError(f"{directory / 'config.json'}: pad_token_id must be a whole number, not {pad_id!r}")
        self.pad_id = pad_id

    def encode(self, texts: Sequence[str], prompt: str = "") -> list[Encoded]:
        """Token ids of prompt + text; each is cut on its right to max_tokens, special tokens kept."""
        encodings = self.tokenizer.encode_batch([prompt + text for text in texts])
        return [Encoded(item.ids, item.type_ids, bool(item.overflowing)) for item in encodings]

    def batch(self, encoded: Sequence[Encoded]) -> Tokens:
        """Pad on the right to the longest of the batch."""
        shape = (len(encoded), max(len(item.ids) for item in encoded))
        ids, mask, types = np.full(shape, self.pad_id, np.int64), np.zeros(shape, np.int64), np.zeros(shape, np.int64)
        for row, item in enumerate(encoded):
            length = len(item.ids)
            ids[row, :length], mask[row, :length], types[row, :length] = item.ids, 1, item.type_ids
        return Tokens(ids, mask, types)
