"""Small tokenizers of the real models' kinds, trained on the project's own texts: Unigram for XLM-RoBERTa, BPE for Qwen3."""

import functools
import json
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from converter.corpus import CALIBRATION, read

UNIGRAM_SPECIALS = ("<s>", "<pad>", "</s>", "<unk>")  # ids 0 to 3; `<mask>` comes last of all, as in the real one
# The real tokenizer has 22 to 26 of them; these are the ones that prompts use. Only the first three are special.
BPE_SPECIALS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<think>", "</think>")
BPE_SPLIT = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
# sentencepiece's nmt_nfkc, which the real files hold as a compiled table.
NMT_NFKC = [{"type": "Nmt"}, {"type": "NFKC"}]
METASPACE = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}
SPLIT_METASPACE = {"type": "Sequence", "pretokenizers": [{"type": "WhitespaceSplit"}, METASPACE]}


def _two_spaces(content: str) -> dict[str, Any]:
    return {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": content}


# What differs between the repositories: normalisers, and how the text is cut at spaces.
UNIGRAM_KINDS: dict[str, tuple[list[dict[str, Any]], dict[str, Any]]] = {
    "bge-m3": ([*NMT_NFKC, _two_spaces(" ")], METASPACE),
    "bge-reranker": ([*NMT_NFKC, {"type": "Strip", "strip_left": False, "strip_right": True}, _two_spaces("▁")], METASPACE),
    "e5": (NMT_NFKC, SPLIT_METASPACE),
}


@functools.cache
def _corpus() -> tuple[str, ...]:
    return tuple(text.text for text in read(CALIBRATION))


@functools.cache
def _unigram() -> dict[str, Any]:
    """The `tokenizer.json` that all kinds share, as an object."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.Sequence([normalizers.Nmt(), normalizers.NFKC()])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=6000, special_tokens=list(UNIGRAM_SPECIALS), unk_token="<unk>", show_progress=False
    )
    tokenizer.train_from_iterator(_corpus(), trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B:0 </s>:0", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    found = json.loads(tokenizer.to_str())
    vocabulary = found["model"]["vocab"]
    vocabulary += [[f"<unused{row}>", -100.0] for row in range(-(len(vocabulary) + 1) % 64)] + [["<mask>", 0.0]]
    mask = found["added_tokens"][0] | {"id": len(vocabulary) - 1, "content": "<mask>", "lstrip": True}
    found["added_tokens"].append(mask)
    return found


def unigram(kind: str) -> Tokenizer:
    """XLM-RoBERTa's kind; `kind` is a key of UNIGRAM_KINDS. The vocabulary is the same for all."""
    normalizer, pre_tokenizer = UNIGRAM_KINDS[kind]
    changes = {"normalizer": {"type": "Sequence", "normalizers": normalizer}, "pre_tokenizer": pre_tokenizer}
    return Tokenizer.from_str(json.dumps(_unigram() | changes))


@functools.cache
def _bpe(prompts: tuple[str, ...]) -> str:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(BPE_SPLIT), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel(add_prefix_space=False, trim_offsets=False, use_regex=False)
    trainer = trainers.BpeTrainer(
        vocab_size=6016 - len(BPE_SPECIALS), initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator([*_corpus(), *prompts * 50, *["yes", "no"] * 50], trainer)
    tokenizer.add_tokens([AddedToken(name, normalized=False, special=not name.endswith("think>")) for name in BPE_SPECIALS])
    return tokenizer.to_str()


def bpe(prompts: tuple[str, ...], append: bool) -> Tokenizer:
    """Qwen3's kind, in which each word of `prompts` is about one token; with `append`, `<|endoftext|>` ends every text."""
    tokenizer = Tokenizer.from_str(_bpe(prompts))
    steps: list[Any] = [processors.ByteLevel(add_prefix_space=False, trim_offsets=False, use_regex=False)]
    if append:
        end = BPE_SPECIALS[0]
        special = [(end, tokenizer.token_to_id(end))]
        steps.append(processors.TemplateProcessing(single=f"$A {end}", pair=f"$A $B:0 {end}:0", special_tokens=special))
    tokenizer.post_processor = processors.Sequence(steps) if append else steps[0]
    return tokenizer
