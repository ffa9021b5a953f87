"""Texts as long as the models take, in three languages: 8,192 and 32,768 tokens, against transformers."""

from pathlib import Path

import numpy as np
import pytest
import upstream
from conftest import made, standin

from shim import load

BOOKS = {
    "en": "The ferryman counted his passengers twice and the barrels once, for barrels do not walk away. ",
    "ru": "Паромщик дважды пересчитал пассажиров и один раз бочки: бочки сами не уходят. ",
    "zh": "船夫把乘客数了两遍，把木桶数了一遍，因为木桶自己不会走开。",
}
MLX = "zh"  # takes minutes over 32,768 tokens on a Linux CPU: one language must do


def text_of(lang: str, tokens: int) -> str:
    """A text of more than `tokens` tokens in which no two sentences are the same."""
    return "".join(f"{number}. {BOOKS[lang]}" for number in range(tokens // 4))


@pytest.mark.slow
@pytest.mark.parametrize("lang", BOOKS)
@pytest.mark.parametrize(
    ("name", "pooling"), [("bge-m3", "cls"), ("nomic-embed-text-v1.5", "mean"), ("qwen3-embedding-0.6b", "last")]
)
def test_a_text_at_the_limit(name: str, pooling: str, lang: str) -> None:
    targets = [("onnx", 32), ("mlx", 16)] if lang == MLX else [("onnx", 32)]
    models = [load(made(name, *target)[0]) for target in targets]
    limit = models[0].max_tokens
    text = text_of(lang, limit)
    expected = upstream.vectors(standin(name), [text], pooling, limit)
    for model in models:
        out = model.embed([text, "short"])
        assert (out.tokens[0], out.truncated) == (limit, [True, False])
        assert out.dense[0] @ expected[0] > 0.9999
        assert abs(out.dense[0] @ out.dense[1]) < 0.999


def test_blocks_of_queries_give_what_one_block_gives(tmp_path: Path) -> None:
    """Around the length at which attention goes block by block, and well beyond it, a text's vector follows transformers'."""
    for name, pooling in (("bge-m3", "cls"), ("qwen3-embedding-0.6b", "last")):
        for target, bits in (("onnx", 32), ("mlx", 16)):
            model = load(made(name, target, bits)[0])
            words = text_of("en", 1000)
            texts = [words[: len(words) * part // 40].strip() for part in (1, 5, 6, 7, 20)]
            out = model.embed(texts)
            assert min(out.tokens) < 512 < max(out.tokens)
            expected = upstream.vectors(standin(name), texts, pooling, model.max_tokens)
            assert np.abs(out.dense - expected).max() < (1e-5 if bits == 32 else 2e-3)
