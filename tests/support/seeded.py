"""What the makers of small checkpoints share: seeded weights, and a small tokenizer of XLM-RoBERTa's kind."""

import functools
import json
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer

from converter.corpus import CALIBRATION, read
from support.standins.tokenizers import train_unigram

LIMIT = 48  # tokens; short, so that texts are cut


def seeded(model: Any) -> Any:
    """The model with weights that are drawn, wide enough that texts get different vectors."""
    generator = torch.Generator().manual_seed(0)
    for name, weight in model.named_parameters():
        if weight.ndim > 1:
            weight.data = torch.randn(weight.shape, generator=generator) * (
                0.1 if "embed" in name else 1.5 / weight.shape[-1] ** 0.5
            )
        elif name.endswith(("norm.weight", "Norm.weight")):
            weight.data = 1 + torch.randn(weight.shape, generator=generator) * 0.3
        elif name.endswith("bias"):
            weight.data = torch.randn(weight.shape, generator=generator) * 0.1
    return model.eval()


@functools.cache
def unigram() -> Tokenizer:
    """A small tokenizer of XLM-RoBERTa's kind; nobody changes it."""
    return train_unigram([text.text for text in read(CALIBRATION)][:300])


def write_xlm_tokenizer(
    folder: Path, limit: int, kind: str = "XLMRobertaTokenizer", tokenizer: Tokenizer | None = None
) -> None:
    """As transformers 4 saved XLM-RoBERTa's, or another of its kind."""
    (tokenizer or unigram()).save(str(folder / "tokenizer.json"))
    roles = {"bos": "<s>", "cls": "<s>", "eos": "</s>", "sep": "</s>", "pad": "<pad>", "unk": "<unk>", "mask": "<mask>"}
    settings = {f"{role}_token": token for role, token in roles.items()}
    settings |= {"model_max_length": limit, "tokenizer_class": kind}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
