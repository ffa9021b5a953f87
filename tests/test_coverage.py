"""Texts made from a vocabulary: every tokenizer's words are found, and the texts are ours with some of them in it."""

from random import Random

import pytest
from support.checkpoints import few_words, minilm
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

from converter.corpus import CALIBRATION, Text, read
from converter.corpus.coverage import coverage, joined_words, whole_words

OWN = [Text(str(number), "en", "caption", "the small dog sleeps under the old tree") for number in range(3)]


def wordpiece() -> Tokenizer:
    tokenizer = Tokenizer.from_file(str(minilm() / "tokenizer.json"))
    tokenizer.no_padding()
    return tokenizer


def unigram() -> Tokenizer:
    pieces = [("<unk>", 0.0), ("▁", -5.0), ("▁river", -2.0), ("▁stone", -2.0), ("ing", -3.0), ("▁7", -3.0)]
    tokenizer = Tokenizer(models.Unigram(pieces, 0, byte_fallback=False))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    return tokenizer


def byte_level() -> Tokenizer:
    letters = sorted({*pre_tokenizers.ByteLevel.alphabet()})
    vocabulary = {letter: number for number, letter in enumerate([*letters, "sk", "sky", "Ġsk", "Ġsky"])}
    merges = [("s", "k"), ("sk", "y"), ("Ġ", "sk"), ("Ġsk", "y")]
    tokenizer = Tokenizer(models.BPE(vocabulary, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.post_processor = processors.ByteLevel()
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def test_words_of_each_kind_of_tokenizer_are_found() -> None:
    found = whole_words(wordpiece())
    assert len(found) > 20_000
    assert {"river", "sky"} < set(found)
    assert not [word for word in found if not word.isalpha()]  # no ##ing, no [CLS], no numbers
    assert set(whole_words(unigram())) == {"river", "stone"}
    assert {"sky", "sk"} < set(whole_words(byte_level()))


def test_entries_that_go_on_with_a_word_are_found_behind_one() -> None:
    tokenizer = wordpiece()
    found = joined_words(tokenizer, ["river", "sky"], Random(0))
    last = {tokenizer.encode(word, add_special_tokens=False).tokens[-1] for word in found}
    assert {"##ing", "##un", "##cing"} <= last
    assert len(last) == len(found) > 4000
    assert all(word.startswith(("river", "sky")) and word.isalpha() for word in found)
    assert joined_words(unigram(), ["river"], Random(0)) == ["rivering"]


def test_texts_depend_on_the_seed_alone() -> None:
    one, same, other = (coverage(OWN, few_words(), 50, seed) for seed in (0, 0, 1))
    assert one == same
    assert one != other
    assert len({text.id for text in one}) == len(one) == 50


def test_no_word_comes_twice_before_all_came_once() -> None:
    texts = coverage([Text("1", "en", "caption", "a a a a a a")], unigram(), 40)
    drawn = [word for text in texts for word in text.text.split() if word != "a"]
    assert abs(drawn.count("river") - drawn.count("stone")) <= 1
    assert {text.kind for text in texts} == {"caption", "word"}


def test_a_third_of_our_words_is_replaced() -> None:
    texts = [text for text in coverage(OWN, few_words(), 300) if text.kind != "word"]
    kept = [sum(a == b for a, b in zip(text.text.split(), OWN[0].text.split(), strict=False)) for text in texts]
    assert 0.6 < sum(kept) / (8 * len(texts)) < 0.8


def test_many_more_entries_are_seen_than_in_our_texts_alone() -> None:
    tokenizer, own = wordpiece(), read(CALIBRATION)
    made = coverage(own, tokenizer, 3000)
    seen = [{number for text in texts for number in tokenizer.encode(text.text).ids} for texts in (own, made)]
    assert len(seen[1]) > 2 * len(seen[0])


@pytest.mark.parametrize("texts", [[], [Text("1", "zh", "code", "x = 1")], [Text("1", "zh", "word", "河")]])
def test_nothing_to_put_words_into_gives_nothing(texts: list[Text]) -> None:
    assert coverage(texts, few_words(), 10) == []
