"""The original's own outputs in fp32, from the upstream library: what every artifact is held to."""

import importlib.metadata
from collections.abc import Callable
from typing import Any

import numpy as np

from converter import cache
from converter.checkpoint import Checkpoint
from converter.corpus import Text
from shim.artifact import ModelSpec
from shim.errors import NotFiniteError, SourceError
from shim.text import prompt_for

BATCH = 8
REVISION = 1  # of this file's own arithmetic: cached vectors of another are not used


def embed(checkpoint: Checkpoint, spec: ModelSpec, texts: list[Text], progress: Callable[[int], None]) -> np.ndarray:
    """(n, d) float32 L2-normalised vectors of the texts, each behind its task's prompt, by transformers in fp32.

    Computed once per checkpoint, texts and library version, then read from the cache. `progress` gets the number done.
    Raises SourceError when transformers cannot load the checkpoint, NotFiniteError when the original itself is broken.
    """
    prompted = [prompt_for(spec.prompts, text.task) + text.text for text in texts]
    versions = [importlib.metadata.version(name) for name in ("torch", "transformers")]
    key = [REVISION, checkpoint.files, spec.architecture, spec.pooling, spec.max_tokens, prompted, versions]
    vectors = cache.arrays("reference", key, lambda: _compute(checkpoint, spec, prompted, progress))
    if not np.isfinite(vectors).all():
        raise NotFiniteError(f"{checkpoint.directory}: the original itself gives NaN or infinity")
    return vectors


def _compute(checkpoint: Checkpoint, spec: ModelSpec, texts: list[str], progress: Callable[[int], None]) -> np.ndarray:
    import torch
    from transformers import AutoModel, AutoTokenizer
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        tokenizer = AutoTokenizer.from_pretrained(checkpoint.directory, local_files_only=True)
        model: Any = AutoModel.from_pretrained(checkpoint.directory, dtype=torch.float32, local_files_only=True).eval()
    except Exception as error:  # transformers raises whatever its parsers do
        reason = str(error).strip().split("\n")[0]
        raise SourceError(f"{checkpoint.directory}: transformers cannot load it ({type(error).__name__}: {reason})") from None
    vectors = np.empty((len(texts), spec.dimensions), np.float32)
    order = sorted(range(len(texts)), key=lambda index: len(texts[index]))
    for start in range(0, len(order), BATCH):
        rows = order[start : start + BATCH]
        batch = tokenizer(
            [texts[row] for row in rows], padding=True, truncation=True, max_length=spec.max_tokens, return_tensors="pt"
        )
        with torch.inference_mode():
            hidden = model(**batch).last_hidden_state
            pooled = _pool(hidden, batch["attention_mask"], spec.pooling)
            vectors[rows] = torch.nn.functional.normalize(pooled, dim=1).numpy()
        progress(start + len(rows))
    return vectors


def _pool(hidden: Any, mask: Any, pooling: str) -> Any:
    """The pooling of sentence-transformers, written from its documentation: independent of shim.pooling on purpose."""
    if pooling == "cls":
        return hidden[:, 0]
    if pooling == "mean":
        weights = mask.unsqueeze(-1).float()
        return (hidden * weights).sum(1) / weights.sum(1)
    return hidden[range(len(hidden)), mask.shape[1] - 1 - mask.flip(1).argmax(1)]
