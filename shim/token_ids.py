"""Texts that are token ids already: read, cut, and made texts again."""

from array import array
from collections.abc import Iterable, Sequence

from shim.contents import Steps
from shim.errors import UsageError
from shim.pieces import edges
from shim.text import Encoded, TextEncoder

FOREIGN = "token ids of text {} are not of this model's own tokenizer, whose texts are {} … {}, as /tokenize shows them"
UNCHECKED = "LangChain: check_embedding_ctx_length=False"  # what keeps its client from sending another tokenizer's


class TokenIds:
    """One text as its token ids, 4 bytes each. Raises OverflowError for an id that needs more."""

    def __init__(self, ids: Iterable[int]):
        self.ids = array("i", ids)

    def __len__(self) -> int:
        return len(self.ids)


def reading(encoder: TextEncoder, texts: Sequence[TokenIds], side: str = "right") -> Steps[list[Encoded]]:
    """Texts with the special tokens that this tokenizer puts around a text; cut as by `TextEncoder.encode`.

    By those it is seen that the ids are this tokenizer's: raises UsageError for others.
    """
    yield
    before, after = ([piece.id for piece in pieces] for pieces in edges(encoder.tokenizer))
    around, words = len(before) + len(after), min(encoder.words, encoder.tokenizer.get_vocab_size())
    room, found = encoder.max_tokens - around, []
    for index, text in enumerate(one.ids for one in texts):
        own = list(text[: len(before)]), list(text[len(text) - len(after) :])
        if not around or len(text) <= around or own != (before, after) or not 0 <= min(text) <= max(text) < words:
            raise UsageError(f"{FOREIGN.format(index, before, after)}; send strings ({UNCHECKED})", "texts")
        content = text[len(before) : len(text) - len(after)]
        kept = content[:room] if side == "right" else content[-room:]
        found.append(Encoded([*before, *kept, *after], [0] * (len(kept) + around), len(kept) < len(content)))
    return found


def decoding(encoder: TextEncoder, texts: Sequence[TokenIds], skip: bool = True) -> Steps[list[str]]:
    """The texts, as the tokenizer's own decoder puts them together; `skip` leaves out special tokens.

    Raises UsageError for ids that no token has.
    """
    found, words = [], encoder.tokenizer.get_vocab_size()
    for index, text in enumerate(one.ids for one in texts):
        if not 0 <= min(text) <= max(text) < words:
            raise UsageError(f"text {index} has an id that no token has", "ids")
        with encoder.contents.sound():
            found.append(encoder.tokenizer.decode(list(text), skip_special_tokens=skip))
        yield
    return found
