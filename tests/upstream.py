"""The upstream library's own vectors, computed one text at a time, so that there is no padding to get wrong."""

from pathlib import Path

import numpy as np
import torch
from transformers import AutoModel, AutoTokenizer


def vectors(directory: Path, texts: list[str], pooling: str, max_tokens: int = 128) -> np.ndarray:
    """(n, d) float32 L2-normalised vectors of a local checkpoint in fp32."""
    tokenizer = AutoTokenizer.from_pretrained(directory)
    model = AutoModel.from_pretrained(directory, dtype=torch.float32).eval()
    rows = []
    for text in texts:
        with torch.inference_mode():
            batch = tokenizer(text, truncation=True, max_length=max_tokens, return_tensors="pt")
            hidden = model(**batch).last_hidden_state[0]
        pooled = {"cls": hidden[0], "mean": hidden.mean(0), "last": hidden[-1]}[pooling]
        rows.append((pooled / pooled.norm()).numpy())
    return np.array(rows)
