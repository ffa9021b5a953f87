"""Texts made from ours and a tokenizer's own vocabulary: what no text of ours says, a user's may."""

import re
from random import Random

from tokenizers import Tokenizer

from converter.corpus import Text

REPLACED = 0.3  # of a text's words: enough to show many, few enough that the rest is still language
ALONE = 0.1  # of the texts are a single word
PLAIN = ("code", "snippet", "number", "emoji", "edge", "long")  # kinds whose words are not replaced: they have few, or too many
LONGEST = 200  # characters of a text whose words are replaced: many short texts show more than a few long ones


def whole_words(tokenizer: Tokenizer) -> list[str]:
    """Every word that is a single entry of the vocabulary, alone or behind a space, in the order of the entries' numbers.

    tokenizer: without padding, as shim.text.TextEncoder has it. WordPiece, Unigram and byte-level BPE mark pieces each in their
    own way, so an entry is decoded and encoded again.
    """
    numbers = sorted(tokenizer.get_vocab(with_added_tokens=False).values())
    words = [word.strip() for word in tokenizer.decode_batch([[number] for number in numbers])]
    candidates = [(number, word) for number, word in zip(numbers, words, strict=True) if word.isalpha()]
    found: dict[str, None] = {}
    for before in ("", " "):
        encodings = tokenizer.encode_batch([before + word for _, word in candidates], add_special_tokens=False)
        for (number, word), encoding in zip(candidates, encodings, strict=True):
            if encoding.ids == [number]:
                found[word] = None
    return list(found)


def joined_words(tokenizer: Tokenizer, words: list[str], random: Random) -> list[str]:
    """For each other entry of the vocabulary that goes on with a word, one that it ends, behind a random one of `words`."""
    numbers = sorted(tokenizer.get_vocab(with_added_tokens=False).values())
    before = tokenizer.encode_batch(random.choices(words, k=len(numbers)), add_special_tokens=False)
    joined = tokenizer.decode_batch([[*encoding.ids, number] for encoding, number in zip(before, numbers, strict=True)])
    found = tokenizer.encode_batch(joined, add_special_tokens=False)
    ends = [encoding.ids[-1:] == [number] for number, encoding in zip(numbers, found, strict=True)]
    return [word for word, good in zip(joined, ends, strict=True) if good and word.isalpha()]


def coverage(texts: list[Text], tokenizer: Tokenizer, count: int, seed: int = 0) -> list[Text]:
    """`count` texts: ours with words replaced by random ones, and such words alone; words of the vocabulary, and joined ones.

    Words are taken in a random order, and none twice before all were taken. The same arguments give the same texts.
    """
    random, words = Random(seed), whole_words(tokenizer)
    models = [text for text in texts if text.kind not in PLAIN and len(text.text) <= LONGEST and " " in text.text.strip()]
    if not words or not models:
        return []
    words += joined_words(tokenizer, words, random)
    deck: list[str] = []

    def draw() -> str:
        if not deck:
            deck.extend(random.sample(words, len(words)))
        return deck.pop()

    found = []
    for number in range(count):
        model = random.choice(models)
        parts = re.split(r"(\w+)", model.text)
        if random.random() < ALONE:
            parts, kind = [draw()], "word"
        else:
            parts = [draw() if place % 2 and random.random() < REPLACED else part for place, part in enumerate(parts)]
            kind = model.kind
        found.append(Text(f"coverage-{number}", model.lang, kind, "".join(parts)))
    return found
