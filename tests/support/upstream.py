"""The upstream library's own vectors, computed one text at a time, so that there is no padding to get wrong."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedTokenizerFast,
)


def vectors(directory: Path, texts: list[str], pooling: str, max_tokens: int = 128) -> np.ndarray:
    """(n, d) float32 L2-normalised vectors of a local checkpoint in fp32."""
    encode = tokenizer(directory)
    model = AutoModel.from_pretrained(directory, dtype=torch.float32).eval()
    rows = []
    for text in texts:
        with torch.inference_mode():
            batch = encode(text, truncation=True, max_length=max_tokens, return_tensors="pt")
            hidden = model(**batch).last_hidden_state[0]
        places = torch.arange(1, len(hidden) + 1, dtype=torch.float32)[:, None]
        pooled = {
            "cls": hidden[0],
            "mean": hidden.mean(0),
            "last": hidden[-1],
            "max": hidden.amax(0),
            "mean_sqrt_len_tokens": hidden.sum(0) / len(hidden) ** 0.5,
            "weightedmean": (hidden * places).sum(0) / places.sum(),
        }[pooling]
        rows.append((pooled / pooled.norm()).numpy())
    return np.array(rows)


def yes_no(directory: Path, instruction: str, query: str, documents: list[str]) -> list[tuple[float, float]]:
    """(softmax's share of "yes", yes - no) of each document alone, as the card of Qwen3-Reranker computes it."""
    tokenizer = AutoTokenizer.from_pretrained(directory, padding_side="left")
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()
    prefix = (
        "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and the Instruct provided. "
        'Note that the answer can only be "yes" or "no".<|im_end|>\n<|im_start|>user\n'
    )
    suffix = "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
    before, after = (tokenizer.encode(part, add_special_tokens=False) for part in (prefix, suffix))
    found = []
    for document in documents:
        pair = f"<Instruct>: {instruction}\n<Query>: {query}\n<Document>: {document}"
        ids = before + tokenizer.encode(pair, add_special_tokens=False) + after
        with torch.inference_mode():
            logits = model(torch.tensor([ids])).logits[0, -1]
        both = logits[[tokenizer.convert_tokens_to_ids("no"), tokenizer.convert_tokens_to_ids("yes")]]
        found.append((float(both.softmax(0)[1]), float(both[1] - both[0])))
    return found


def logits(directory: Path, query: str, documents: list[str]) -> list[float]:
    """The relevance logit of each document alone, as the card of bge-reranker-v2-m3 computes it."""
    encode = tokenizer(directory)
    model = AutoModelForSequenceClassification.from_pretrained(directory, dtype=torch.float32).eval()
    with torch.inference_mode():
        batches = [encode([[query, document]], return_tensors="pt") for document in documents]
        return [float(model(**batch).logits[0, 0]) for batch in batches]


def tokenizer(directory: Path) -> Any:
    """The published tokenizer.json: of sentencepiece's kind, transformers 5 rebuilds its own, without that one's normalizer."""
    own = AutoConfig.from_pretrained(directory).model_type in ("xlm-roberta", "camembert", "jina_embeddings_v3", "gte")
    return (PreTrainedTokenizerFast if own else AutoTokenizer).from_pretrained(directory)
