"""What the small stand-ins learn from: the calibration texts, a teacher's vectors of them, and what answers what."""

import functools
import random
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from converter import cache, corpus
from shim.listing import hash_file
from support.checkpoints import minilm

TASK = "Given a web search query, retrieve relevant passages that answer the query"
INSTRUCT = f"Instruct: {TASK}\nQuery:"
# Qwen3-Reranker's prompt, to the byte, around the query and the document.
BEFORE_QUERY = (
    "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and the Instruct provided. "
    'Note that the answer can only be "yes" or "no".<|im_end|>\n<|im_start|>user\n'
    f"<Instruct>: {TASK}\n<Query>: "
)
BEFORE_DOCUMENT = "\n<Document>:"  # and a space, which belongs to the document's first token
AFTER = "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"


@dataclass(frozen=True)
class Corpus:
    """The calibration texts and all-MiniLM-L6-v2's (n, 384) vectors of them; a translation has the English text's vector."""

    texts: list[corpus.Text]
    vectors: torch.Tensor

    def rows(self, *kinds: str, lang: str = "") -> list[int]:
        """Indices of the texts of these kinds, in one language or in all."""
        return [row for row, text in enumerate(self.texts) if text.kind in kinds and lang in ("", text.lang)]

    def concept(self, row: int) -> str:
        """The name that a text shares with its translations; the query `NAME-q` is answered by the passage `NAME`."""
        return self.texts[row].id.rsplit(".", 1)[0]

    def translations(self, *languages: str) -> list[list[int]]:
        """One list of rows per text that exists in all the languages, in their order."""
        found: dict[str, dict[str, int]] = {}
        for row, text in enumerate(self.texts):
            found.setdefault(self.concept(row), {})[text.lang] = row
        return [[rows[lang] for lang in languages] for rows in found.values() if set(languages) <= rows.keys()]

    def relevant(self, query: int, passage: int) -> bool:
        """Whether they are about the same."""
        return self.concept(query).removesuffix("-q") == self.concept(passage)


@functools.cache
def load() -> Corpus:
    """The texts and their vectors; these take seconds once, and come from the cache folder later."""
    texts = corpus.read(corpus.CALIBRATION)
    english = {text.id.rsplit(".", 1)[0]: text.text for text in texts if text.lang == "en"}
    sources = [english.get(text.id.rsplit(".", 1)[0], text.text) for text in texts]
    key = [hash_file(minilm() / "model.safetensors"), sources]
    found = cache.arrays("standin-teacher", key, lambda: {"vectors": _teach(sources)})
    return Corpus(texts, torch.from_numpy(found["vectors"]))


def _teach(texts: list[str]) -> np.ndarray:
    from transformers import AutoModel, AutoTokenizer

    tokenizer, model = AutoTokenizer.from_pretrained(minilm()), AutoModel.from_pretrained(minilm()).eval()
    found: dict[str, torch.Tensor] = {}
    unique = sorted(set(texts), key=len)
    for start in range(0, len(unique), 16):
        batch = unique[start : start + 16]
        tokens = tokenizer(batch, padding=True, truncation=True, max_length=256, return_tensors="pt")
        with torch.inference_mode():
            hidden, weights = model(**tokens).last_hidden_state, tokens["attention_mask"][..., None]
        pooled = (hidden * weights).sum(1) / weights.sum(1)
        found |= zip(batch, torch.nn.functional.normalize(pooled, dim=1), strict=True)
    return torch.stack([found[text] for text in texts]).numpy()


def targets(data: Corpus, width: int) -> torch.Tensor:
    """(n, width) unit vectors: the teacher's, through a seeded map of orthonormal columns."""
    square = torch.randn(384, 384, generator=torch.Generator().manual_seed(0))
    return torch.nn.functional.normalize(data.vectors @ torch.linalg.qr(square)[0][:, :width], dim=1)


def pairs(data: Corpus, count: int, rng: random.Random) -> Iterator[list[tuple[int, int]]]:
    """Endless batches of (query, passage) rows: half relevant, a sixth hard (near for the teacher, but wrong), a third any.

    Most queries are real ones; a sentence may stand for one, and its translations answer it.
    """
    passages, queries, sentences = data.rows("sentence", "paragraph"), data.rows("query"), data.rows("sentence")
    likeness = data.vectors @ data.vectors.T
    right = {query: [row for row in passages if data.relevant(query, row)] for query in queries + sentences}
    wrong = {query: [row for row in passages if not data.relevant(query, row)] for query in queries + sentences}
    hard = {query: sorted(rows, key=lambda row: -likeness[query, row].item())[:24] for query, rows in wrong.items()}
    while True:
        batch = []
        for _ in range(count):
            query = rng.choice(queries if rng.random() < 0.7 else sentences)
            kind = rng.random()
            batch.append((query, rng.choice(right[query] if kind < 1 / 2 else hard[query] if kind < 2 / 3 else passages)))
        yield batch


def collate(rows: list[list[int]], pad: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(n, length) token ids and mask, padded on the right."""
    length = max(map(len, rows))
    ids = torch.tensor([row + [pad] * (length - len(row)) for row in rows])
    return ids, torch.tensor([[1] * len(row) + [0] * (length - len(row)) for row in rows])
