"""Small tokenizers of the real models' kinds, trained on the project's own texts: Unigram for XLM-RoBERTa, BPE for Qwen3."""

import json
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

UNIGRAM_SPECIALS = ("<s>", "<pad>", "</s>", "<unk>")  # ids 0 to 3; `<mask>` comes last of all, as in the real one
# The real tokenizers have 22 or 26; these are the ones that prompts use. The last two are added, but not special.
BPE_SPECIALS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
BPE_ADDED = ("<think>", "</think>")
BPE_SPLIT = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
VOCABULARY = 6000
# sentencepiece's nmt_nfkc, which the real files hold as a compiled table.
NMT_NFKC = [{"type": "Nmt"}, {"type": "NFKC"}]
METASPACE = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}


def _two_spaces(content: str) -> dict[str, Any]:
    return {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": content}


# What differs between the repositories: the normalisers, and how a text is cut at spaces.
UNIGRAM_KINDS: dict[str, tuple[list[dict[str, Any]], dict[str, Any]]] = {
    "bge-m3": ([*NMT_NFKC, _two_spaces(" ")], METASPACE),
    "bge-reranker": ([*NMT_NFKC, {"type": "Strip", "strip_left": False, "strip_right": True}, _two_spaces("▁")], METASPACE),
    "e5": (NMT_NFKC, {"type": "Sequence", "pretokenizers": [{"type": "WhitespaceSplit"}, METASPACE]}),
}


def train_unigram(texts: list[str]) -> Tokenizer:
    """XLM-RoBERTa's kind, with the pair template and the normaliser of bge-m3."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.Sequence([normalizers.Nmt(), normalizers.NFKC()])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    specials = list(UNIGRAM_SPECIALS)
    trainer = trainers.UnigramTrainer(vocab_size=VOCABULARY, special_tokens=specials, unk_token="<unk>", show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B:0 </s>:0", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    found = json.loads(tokenizer.to_str())
    first, pieces = found["model"]["vocab"][: len(specials)], found["model"]["vocab"][len(specials) :]
    # The trainer lists rare characters in another order each time, with scores that fall by a hair from one to the next.
    least = round(min(score for _, score in pieces), 3) + 0.05
    pieces = sorted(([piece, max(round(score, 6), least)] for piece, score in pieces), key=lambda item: (-item[1], item[0]))
    found["model"]["vocab"] = vocabulary = [*first, *pieces, ["<mask>", 0.0]]
    mask = found["added_tokens"][0] | {"id": len(vocabulary) - 1, "content": "<mask>", "lstrip": True}
    found["added_tokens"].append(mask)
    return unigram(Tokenizer.from_str(json.dumps(found)), "bge-m3")


def unigram(tokenizer: Tokenizer, kind: str) -> Tokenizer:
    """The same vocabulary with the normaliser and the cuts of another repository; `kind` is a key of UNIGRAM_KINDS."""
    steps, pre_tokenizer = UNIGRAM_KINDS[kind]
    changes = {"normalizer": {"type": "Sequence", "normalizers": steps}, "pre_tokenizer": pre_tokenizer}
    return Tokenizer.from_str(json.dumps(json.loads(tokenizer.to_str()) | changes))


def train_bpe(texts: list[str], prompts: list[str]) -> Tokenizer:
    """Qwen3's kind, in which each word of `prompts` is about one token, and nothing is appended to a text."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    byte_level: dict[str, Any] = {"add_prefix_space": False, "trim_offsets": False, "use_regex": False}
    split = pre_tokenizers.Split(Regex(BPE_SPLIT), "isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(**byte_level)])
    tokenizer.decoder = decoders.ByteLevel(**byte_level)
    tokenizer.post_processor = processors.ByteLevel(**byte_level)
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator([*texts, *[*prompts, "yes", "no"] * 50], trainer)
    tokenizer.add_special_tokens([AddedToken(token, normalized=False) for token in BPE_SPECIALS])
    tokenizer.add_tokens([AddedToken(token, normalized=False) for token in BPE_ADDED])
    return tokenizer


def bpe(tokenizer: Tokenizer, append: bool) -> Tokenizer:
    """The same vocabulary; with `append`, `<|endoftext|>` ends every text and every pair."""
    found = Tokenizer.from_str(tokenizer.to_str())
    end = BPE_SPECIALS[0]
    if append:
        template = processors.TemplateProcessing(
            single=f"$A {end}", pair=f"$A $B:0 {end}:0", special_tokens=[(end, found.token_to_id(end))]
        )
        found.post_processor = processors.Sequence([tokenizer.post_processor, template])
    return found
