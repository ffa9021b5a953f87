"""Where a long text may be cut, so that the tokens of its parts, put together, are the tokens of the whole."""

import json
import re
from collections import deque
from collections.abc import Iterator
from typing import Any

from tokenizers import Tokenizer, models

from shim.errors import TooLongError

PART = 2048  # characters of a part, about: some 8 ms at most, of a word after another that no piece fits
FARTHEST = 65536  # characters of a part that has no seam; in one with more, none is found in time that others can wait
# A word's character, or punctuation, before which nothing waits for what follows: no space, no control, no character that is
# one grapheme with the next (U+0D4E, and those of scripts in U+11000 to U+11FFF), which sentencepiece's tables read as one.
BEFORE = r"(?<=[^\W\u0d4e\U00011000-\U00011fff]|[!-/:-@\[-`{-~\u3001-\u3011\uff01-\uff20])"
HAN = "ぁ-ゖァ-ヺ一-鿿"
# Qwen's expression begins anew at a space before a word, behind a line break, and at a mark between words without spaces.
QWEN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    rf"{BEFORE}(?= \w)|(?<=\n)(?=[!-~]|\w)|(?<=[{HAN}])(?=[。，、！？；：][{HAN}])",
)
# GPT-2's expression, of RoBERTa and ModernBERT: a word or a mark takes the one space before it, and one line break is apart.
GPT2 = rf"{BEFORE}(?= \w)|(?<=\S\n)(?=[!-~]|\w)|(?<=[{HAN}])(?=[。，、！？；：][{HAN}])"
LOCAL = {"BertNormalizer", "Lowercase", "NFC", "NFD", "NFKC", "NFKD", "Nmt", "Precompiled", "StripAccents"}


def seams(tokenizer: Tokenizer) -> re.Pattern[str] | None:
    """An expression that matches, with no width, where a text may be cut; None for a tokenizer of a kind that we do not know.

    Proof: the normaliser changes a character by itself or with those of its grapheme, and none reaches over a seam; what is
    split off before the model ends at a seam whatever follows, and begins there whatever comes before; no added token lies over
    one. Then each side has its tokens whatever the other holds.
    """
    added = tokenizer.get_added_tokens_decoder().values()
    if any(token.rstrip or token.single_word or _holds_a_seam(token.content) for token in added):
        return None
    normalizers = _steps(tokenizer.normalizer, "normalizers")
    if not all(step["type"] in LOCAL or _is_of_spaces(step) for step in normalizers):
        return None
    steps = _steps(tokenizer.pre_tokenizer, "pretokenizers")
    found = _by_kind(tokenizer, steps, any(step["type"] == "BertNormalizer" for step in normalizers))
    return re.compile(found) if found else None


def _by_kind(tokenizer: Tokenizer, steps: list[dict[str, Any]], bert: bool) -> str | None:
    kinds = [step["type"] for step in steps]
    if isinstance(tokenizer.model, models.WordPiece) and kinds == ["BertPreTokenizer"]:
        return r"(?<=\S)(?=[ \n\t])" + (r"|(?=[一-鿿])" if bert and _parts_han(tokenizer) else "")
    if isinstance(tokenizer.model, models.Unigram) and kinds[-1:] == ["Metaspace"] and kinds[:-1] in ([], ["WhitespaceSplit"]):
        if steps[-1].get("prepend_scheme", "always") != "always" or steps[-1].get("split") is False:
            return None
        breaks = len(kinds) == 2 or (tokenizer.normalizer and tokenizer.normalizer.normalize_str("a\nb") == "a b")
        return rf"{BEFORE}(?=[ \n]\w)" if breaks else rf"{BEFORE}(?= \w)"
    if isinstance(tokenizer.model, models.BPE) and kinds == ["ByteLevel"]:
        return GPT2 if steps[0]["use_regex"] else None
    if isinstance(tokenizer.model, models.BPE) and kinds == ["Split", "ByteLevel"]:
        split, byte_level = steps
        plain = not (byte_level["add_prefix_space"] or byte_level["use_regex"] or split["invert"])
        if plain and split["behavior"] == "Isolated" and split["pattern"] == {"Regex": QWEN[0]}:
            return QWEN[1]
    return None


def _holds_a_seam(token: str) -> bool:
    """Whether an added token could lie over a seam, which has one space or line break beside it: only runs of spaces cannot."""
    return bool(re.search(r"\s", token)) and not re.fullmatch(" {2,}", token)


def _steps(part: Any, name: str) -> list[dict[str, Any]]:
    """What a normaliser or a pre-tokenizer is made of, one after the other."""
    if part is None:
        return []
    state = json.loads(part.__getstate__())
    return list(state[name]) if state["type"] == "Sequence" else [state]


def _is_of_spaces(step: dict[str, Any]) -> bool:
    """Whether a step only joins spaces, or takes them from the end."""
    if step["type"] == "Strip":
        return True
    return step["type"] == "Replace" and step["pattern"] == {"Regex": " {2,}"} and step["content"] in (" ", "▁")


def _parts_han(tokenizer: Tokenizer) -> bool:
    """Whether each Chinese character is a word of its own."""
    return bool(tokenizer.normalizer.normalize_str("一二") == " 一  二 ")


def parts(text: str, pattern: re.Pattern[str] | None, side: str = "right", bounded: bool = False) -> Iterator[str]:
    """The text in parts, from its beginning (or end, where it is cut on the `left`).

    Where FARTHEST characters have no seam, the rest is one part; or, where parts are `bounded` and the rest is longer,
    TooLongError is raised when that part is asked for.
    """
    start, stop = 0, len(text)
    while stop - start > PART:
        cut = _seam(text, pattern, start, stop, side) if pattern else None
        if cut is None:
            if bounded and stop - start > FARTHEST:
                raise TooLongError(f"over {FARTHEST} characters without a place where they can be cut; send them in parts")
            break
        if side == "left":
            yield text[cut:stop]
            stop = cut
        else:
            yield text[start:cut]
            start = cut
    yield text[start:stop]


def _seam(text: str, pattern: re.Pattern[str], start: int, stop: int, side: str) -> int | None:
    """The nearest seam that leaves a part of PART characters, of FARTHEST at most."""
    if side == "right":
        first = pattern.search(text, start + PART, min(stop, start + FARTHEST))
        return first.start() if first else None
    for width in (PART // 4, FARTHEST):
        found = deque(pattern.finditer(text, max(start + 1, stop - PART - width), stop - PART), maxlen=1)
        if found:
            return found[0].start()
    return None
