"""Hold a small stand-in to what it is for: transformers loads it, texts differ, translations and answers are near."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from transformers import AutoModel, AutoModelForCausalLM, AutoModelForSequenceClassification

from support.standins.data import Corpus, collate, load
from support.standins.layouts import Standin
from support.standins.training import cut, pair_ids, pool, yes_minus_no

AT_ONCE = 16
MOST = {"mean cosine": 0.5}  # of the vectors of different English texts
LEAST = {"translations": 0.2, "answers": 0.2, "AUC": 0.9}  # cosine above that of what does not belong together


def check(standin: Standin, directory: Path, progress: Callable[[str], None]) -> None:
    """Report figures of the checkpoint as transformers loads it, in fp32. Raises RuntimeError where they are poor."""
    tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
    kinds = {"xlm_roberta_reranker": AutoModelForSequenceClassification, "qwen3_reranker": AutoModelForCausalLM}
    kind = kinds.get(standin.family, AutoModel)
    model, loading = kind.from_pretrained(directory, dtype=torch.float32, output_loading_info=True)
    wrong = {key: names for key, names in loading.items() if names and set(names) != {"embeddings.position_ids"}}
    if wrong:
        raise RuntimeError(f"{directory}: transformers finds {wrong}")
    measure = _vectors if standin.pooling else _scores
    with torch.inference_mode():
        found = measure(standin, model.eval(), tokenizer, load())
    progress(", ".join(f"{key} {value:.3f}" for key, value in found.items()))
    missed = [key for key in found if found[key] > MOST.get(key, found[key]) or found[key] < LEAST.get(key, found[key])]
    if missed:
        raise RuntimeError(f"{directory}: not good enough in {', '.join(missed)}")


def _vectors(standin: Standin, model: Any, tokenizer: Tokenizer, data: Corpus) -> dict[str, float]:
    queries = set(data.rows("query"))
    texts = [standin.prompts[0 if row in queries else 1] + text.text for row, text in enumerate(data.texts)]
    limit = min(model.config.max_position_embeddings - 2, 1024)
    ids = [cut(encoding.ids, limit) for encoding in tokenizer.encode_batch(texts)]
    vectors = torch.empty(len(ids), model.config.hidden_size)
    order = sorted(range(len(ids)), key=lambda row: len(ids[row]))
    for start in range(0, len(order), AT_ONCE):
        rows = order[start : start + AT_ONCE]
        tokens, mask = collate([ids[row] for row in rows], model.config.pad_token_id or 0)
        hidden = model(input_ids=tokens, attention_mask=mask).last_hidden_state
        vectors[rows] = pool(hidden, mask, standin.pooling)
    english = vectors[[row for row, text in enumerate(data.texts) if text.lang == "en"]]
    likeness = english @ english.T
    recall, translations = _matched(vectors, data.translations("en", "ru"))
    passages = {data.concept(row): row for row in data.rows("sentence", "paragraph", lang="en")}
    asked = [[row, passages[data.concept(row).removesuffix("-q")]] for row in data.rows("query", lang="en")]
    answered, answers = _matched(vectors, asked)
    return {
        "mean cosine": float((likeness.sum() - likeness.trace()) / (len(english) * (len(english) - 1))),
        "recall@1 en-ru": recall,
        "translations": translations,
        "recall@1 query-passage": answered,
        "answers": answers,
    }


def _matched(vectors: torch.Tensor, couples: list[list[int]]) -> tuple[float, float]:
    """Recall@1 of the second of each couple by its first, and the couples' mean cosine less that of all others."""
    first, second = (vectors[list(rows)] for rows in zip(*couples, strict=True))
    likeness = first @ second.T
    others = (likeness.sum() - likeness.trace()) / (len(couples) * (len(couples) - 1))
    recall = (likeness.argmax(1) == torch.arange(len(couples))).float().mean()
    return float(recall), float(likeness.trace() / len(couples) - others)


def _scores(standin: Standin, model: Any, tokenizer: Tokenizer, data: Corpus) -> dict[str, float]:
    """Every second query against its three passages and twelve others."""
    rng, passages = random.Random(1), data.rows("sentence", "paragraph")
    right, wrong, first = [], [], 0
    for query in data.rows("query")[::2]:
        relevant = [row for row in passages if data.relevant(query, row)]
        rows = relevant + rng.sample([row for row in passages if row not in relevant], 12)
        texts = [(data.texts[query].text, data.texts[row].text) for row in rows]
        ids = [pair_ids(standin.family, tokenizer, *pair, longest=256)[0] for pair in texts]
        tokens, mask = collate(ids, model.config.pad_token_id or 0)
        if standin.family == "qwen3_reranker":
            hidden = model.model(input_ids=tokens, attention_mask=mask).last_hidden_state
            logits = hidden[range(len(ids)), mask.sum(1) - 1] @ yes_minus_no(model, tokenizer)
        else:
            logits = model(input_ids=tokens, attention_mask=mask).logits[:, 0]
        right.append(logits[: len(relevant)])
        wrong.append(logits[len(relevant) :])
        first += int(logits.argmax()) < len(relevant)
    relevant, others = torch.cat(right), torch.cat(wrong)
    return {
        "AUC": float((relevant[:, None] > others).float().mean()),
        "top-1": first / len(right),
        "relevant": float(relevant.mean()),
        "others": float(others.mean()),
        "spread of the others": float(others.std()),
    }
