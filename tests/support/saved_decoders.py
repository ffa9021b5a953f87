"""Small decoders as transformers saves them: causal or not, groups of heads, shapes that do not divide evenly among them."""

import functools
import json
from collections import Counter
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import (
    Gemma3TextConfig,
    Gemma3TextForSequenceClassification,
    Gemma3TextModel,
    GemmaTokenizer,
    LlamaForSequenceClassification,
    LlamaModel,
    MistralForSequenceClassification,
    MistralModel,
    Olmo3ForSequenceClassification,
    Olmo3Model,
    PreTrainedTokenizerFast,
    Qwen2ForSequenceClassification,
    Qwen2Model,
    Qwen3Model,
)

from converter.corpus import CALIBRATION, read
from support.seeded import LIMIT, seeded
from support.standins.tokenizers import bpe, train_bpe

# Two groups of two heads, which together are wider than the model.
SHAPE = {"hidden_size": 64, "intermediate_size": 160, "num_hidden_layers": 3, "num_attention_heads": 4}
SHAPE |= {"num_key_value_heads": 2, "head_dim": 24}
TYPES = ["sliding_attention", "full_attention", "sliding_attention"]
# Trained on few tokens, so that what stretches positions shows on short texts.
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "rope_theta": 1e4}
LLAMA3 |= {"original_max_position_embeddings": 32}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16, "rope_theta": 1e4}
SPECIALS = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"]


@functools.cache
def byte_level() -> Tokenizer:
    """A small tokenizer of Qwen's kind; nobody changes it."""
    return train_bpe([text.text for text in read(CALIBRATION)][:300], ["Instruct: Query:"])


def write_byte_level(folder: Path, append: bool, limit: int) -> dict[str, int]:
    """The byte-level tokenizer, and what config.json says of it. append: it ends each text with <|endoftext|>."""
    tokenizer = bpe(byte_level(), append)
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<|endoftext|>", eos_token="<|im_end|>")
    wrapped.model_max_length = limit
    wrapped.save_pretrained(folder)
    return {"vocab_size": tokenizer.get_vocab_size(), "pad_token_id": tokenizer.token_to_id("<|endoftext|>")}


@functools.cache
def _gemma() -> Tokenizer:
    """A small tokenizer of Gemma's kind: bytes stand for what it has no piece for; nobody changes it."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    pieces = [*SPECIALS, *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=900, special_tokens=pieces, show_progress=False)
    texts = [text.text[:40] for text in read(CALIBRATION)[:200]]
    counts = Counter("".join(texts))
    # The trainer's own limit drops any of the characters that come equally often, others in each process.
    rare = dict.fromkeys(sorted(counts, key=lambda sign: (-counts[sign], sign))[300:], " ")
    tokenizer.train_from_iterator([text.translate(str.maketrans(rare)) for text in texts], trainer)
    return tokenizer


def write_gemma(folder: Path, limit: int) -> dict[str, int]:
    """Gemma's tokenizer, which begins and ends each text, and pads on the left; and what config.json says of it."""
    found = json.loads(_gemma().to_str())["model"]
    merges = [tuple(pair) for pair in found["merges"]]
    tokenizer = GemmaTokenizer(
        vocab=found["vocab"], merges=merges, add_bos_token=True, add_eos_token=True, model_max_length=limit
    )
    tokenizer.save_pretrained(folder)
    return {"vocab_size": len(found["vocab"]), "pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 1}


def _decoder(folder: Path, model: Any, append: bool, limit: int, settings: dict[str, Any]) -> Path:
    own = write_byte_level(folder, append, limit)
    config = model.config_class(**(SHAPE | own | {"max_position_embeddings": 2 * limit} | settings))
    seeded(model(config)).save_pretrained(folder)
    return folder


def llama(folder: Path, kind: Any = LlamaModel, append: bool = False, limit: int = LIMIT, **more: Any) -> Path:
    """A Llama with biases, and positions stretched as Llama 3's."""
    settings = {"rope_parameters": LLAMA3, "attention_bias": True, "mlp_bias": True} | more
    return _decoder(folder, kind, append, limit, settings)


def qwen2(folder: Path, kind: Any = Qwen2Model, append: bool = False, limit: int = LIMIT, **more: Any) -> Path:
    """A Qwen2 whose last layer slides."""
    settings = {"use_sliding_window": True, "sliding_window": 5, "max_window_layers": 2} | more
    return _decoder(folder, kind, append, limit, settings)


def mistral(folder: Path, kind: Any = MistralModel, append: bool = False, limit: int = LIMIT, **more: Any) -> Path:
    """A Mistral all of whose layers slide."""
    return _decoder(folder, kind, append, limit, {"sliding_window": 9} | more)


def qwen3(folder: Path, kind: Any = Qwen3Model, append: bool = False, limit: int = LIMIT, **more: Any) -> Path:
    """A Qwen3 with biases."""
    return _decoder(folder, kind, append, limit, {"attention_bias": True} | more)


def olmo3(folder: Path, kind: Any = Olmo3Model, append: bool = False, limit: int = LIMIT, **more: Any) -> Path:
    """An OLMo 3 with positions that are stretched in the layer that attends to all."""
    ropes = {"full_attention": dict(YARN), "sliding_attention": {"rope_type": "default", "rope_theta": 1e4}}
    settings = {"layer_types": TYPES, "sliding_window": 5, "rope_parameters": ropes} | more
    return _decoder(folder, kind, append, limit, settings)


def gemma(folder: Path, kind: Any = Gemma3TextModel, limit: int = LIMIT, **more: Any) -> Path:
    """A Gemma 3 that sees both sides, in windows of 4 tokens on each but in one layer."""
    own = write_gemma(folder, limit) | {"max_position_embeddings": limit}
    settings = {"layer_types": TYPES, "sliding_window": 8, "query_pre_attn_scalar": 30, "use_bidirectional_attention": True}
    seeded(kind(Gemma3TextConfig(**(SHAPE | own | settings | more)))).save_pretrained(folder)
    return folder


DECODERS = {"llama": llama, "qwen2": qwen2, "qwen3": qwen3, "mistral": mistral, "olmo3": olmo3, "gemma3_text": gemma}
CLASSIFIERS = {
    "llama": LlamaForSequenceClassification,
    "qwen2": Qwen2ForSequenceClassification,
    "mistral": MistralForSequenceClassification,
    "olmo3": Olmo3ForSequenceClassification,
    "gemma3_text": Gemma3TextForSequenceClassification,
}
