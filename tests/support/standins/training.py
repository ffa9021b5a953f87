"""Train the small stand-ins in seconds: embedders towards a teacher's vectors, rerankers on which passage answers a query."""

import math
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from tokenizers import Tokenizer
from torch.nn.functional import cosine_similarity, normalize, smooth_l1_loss
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoModelForSequenceClassification

from support.checkpoints import few_words
from support.standins.data import AFTER, BEFORE_DOCUMENT, BEFORE_QUERY, INSTRUCT, Corpus, collate, load, pairs, targets
from support.standins.tokenizers import bpe, train_bpe, train_unigram
from support.standins.weights import draw

LONGEST = 192  # tokens of a text in training
Weights = dict[str, torch.Tensor]
SHAPE = {"hidden_size": 128, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 256}
XLM_ROBERTA = SHAPE | {
    "model_type": "xlm-roberta",
    "layer_norm_eps": 1e-5,
    "max_position_embeddings": 8194,
    "type_vocab_size": 1,
    "bos_token_id": 0,
    "pad_token_id": 1,
    "eos_token_id": 2,
}
# Four heads of 64 are twice the width, two of them keys and values: nothing here can be confused with the width.
QWEN3 = SHAPE | {
    "model_type": "qwen3",
    "num_hidden_layers": 3,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "max_position_embeddings": 32768,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1000000},
    "tie_word_embeddings": True,
}
NOMIC_BERT = SHAPE | {"model_type": "nomic_bert", "num_hidden_layers": 3, "max_position_embeddings": 8192, "vocab_size": 2048}


@dataclass(frozen=True)
class Family:
    """Models that share their trained weights: `config` in transformers' keys, prompts seen in training, poolings, steps.

    tokens: of a step, about; of BERT's words, most Russian and Chinese ones are single letters, which takes more to learn.
    """

    config: dict[str, Any]
    steps: int
    prompts: tuple[str, ...] = ()
    poolings: tuple[str, ...] = ()
    tokens: int = 1024
    parent: str = ""  # the embedders that a reranker starts from, as the real ones do


FAMILIES = {
    "xlm_roberta": Family(XLM_ROBERTA, 40, ("", "query: ", "passage: ", f"{INSTRUCT} "), ("cls", "mean")),
    "xlm_roberta_reranker": Family(XLM_ROBERTA | {"num_labels": 1}, 80, parent="xlm_roberta"),
    "qwen3": Family(QWEN3, 80, ("", "", INSTRUCT), ("last",)),
    "qwen3_reranker": Family(QWEN3, 220, parent="qwen3"),
    "nomic_bert": Family(
        NOMIC_BERT, 180, ("search_query: ", "search_document: ", "clustering: ", "classification: "), ("mean",), 2048
    ),
}


def train(name: str, parent: tuple[Weights, Tokenizer] | None, progress: Callable[[str], None]) -> tuple[Weights, Tokenizer]:
    """The trained float32 tensors of a family under transformers' names, and its tokenizer; `parent`: those of its parent."""
    family, data = FAMILIES[name], load()
    tokenizer = parent[1] if parent else _tokenizer(name, data)
    config = dict(family.config) | {"vocab_size": family.config.get("vocab_size", tokenizer.get_vocab_size())}
    made = AutoConfig.for_model(config.pop("model_type"), **config)
    kinds = {"xlm_roberta_reranker": AutoModelForSequenceClassification, "qwen3_reranker": AutoModelForCausalLM}
    model = kinds.get(name, AutoModel).from_config(made).eval()  # eval: no dropout, so that little training goes far
    with torch.no_grad():
        for key, value in model.named_parameters():
            value.copy_(torch.from_numpy(draw(key, tuple(value.shape))))
    if parent:
        model.base_model.load_state_dict(parent[0], strict=False)
        losses = _reranker_losses(name, model, tokenizer, data)
    else:
        losses = _embedder_losses(family, model, bpe(tokenizer, append=True) if name == "qwen3" else tokenizer, data)
    _optimize(model, losses, family.steps, 1.5e-3, lambda done: progress(f"{name}: {done} of {family.steps} steps"))
    weights = {key: value.detach().clone() for key, value in model.state_dict().items()}
    return weights | (_heads(model, tokenizer, data) if name == "xlm_roberta" else {}), tokenizer


def _tokenizer(name: str, data: Corpus) -> Tokenizer:
    texts = [text.text for text in data.texts]
    if name == "xlm_roberta":
        return train_unigram(texts)
    if name == "qwen3":
        return train_bpe(texts, [BEFORE_QUERY, BEFORE_DOCUMENT, AFTER, INSTRUCT])
    return few_words()


def _optimize(model: Any, losses: Iterator[torch.Tensor], steps: int, rate: float, progress: Callable[[int], None]) -> None:
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.01, betas=(0.9, 0.98))
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = rate * min(1, (step + 1) / 20) * (0.5 + 0.5 * math.cos(math.pi * step / steps))
        optimizer.zero_grad()
        next(losses).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if (step + 1) % 50 == 0:
            progress(step + 1)


def pool(hidden: torch.Tensor, mask: torch.Tensor, pooling: str) -> torch.Tensor:
    """(n, d) unit vectors of (n, length, d) hidden states padded on the right."""
    if pooling == "mean":
        return normalize((hidden * mask[..., None]).sum(1) / mask.sum(1, keepdim=True), dim=1)
    return normalize(hidden[range(len(hidden)), 0 if pooling == "cls" else mask.sum(1) - 1], dim=1)


def _embedder_losses(family: Family, model: Any, tokenizer: Tokenizer, data: Corpus) -> Iterator[torch.Tensor]:
    """1 - cosine with the text's target, and a tenth of the contrast with all other targets; per pooling."""
    wanted = targets(data, model.config.hidden_size)
    ids = {prompt: [cut(tokenizer.encode(prompt + text.text).ids, LONGEST) for text in data.texts] for prompt in family.prompts}
    _teach_words(model.get_input_embeddings().weight, ids[family.prompts[0]], wanted)
    same = wanted @ wanted.T > 0.999
    for batch in _batches({(prompt, row): len(ids[prompt][row]) for prompt in ids for row in range(len(data.texts))}, family):
        tokens, mask = collate([ids[prompt][row] for prompt, row in batch], model.config.pad_token_id or 0)
        hidden, rows = model(input_ids=tokens, attention_mask=mask).last_hidden_state, [row for _, row in batch]
        loss = torch.zeros(())
        for pooling in family.poolings:
            vectors = pool(hidden, mask, pooling)
            scores = vectors @ wanted.T / 0.05
            right = scores.masked_fill(~same[rows], -torch.inf)
            contrast = (scores.logsumexp(1) - right.logsumexp(1)).mean()
            loss = loss + (1 - cosine_similarity(vectors, wanted[rows])).mean() + 0.1 * contrast
        yield loss


def cut(ids: list[int], limit: int) -> list[int]:
    """At most so many tokens, the last one kept: it ends the text."""
    return ids if len(ids) <= limit else [*ids[: limit - 1], ids[-1]]


def _teach_words(table: torch.Tensor, ids: list[list[int]], wanted: torch.Tensor) -> None:
    """Move each token's row of the word table towards the targets of the texts it is in: a head start worth many steps."""
    total = torch.zeros_like(table)
    for row, tokens in enumerate(ids):
        total[list(set(tokens))] += wanted[row]
    with torch.no_grad():
        table += 2 * table.std() * table.shape[1] ** 0.5 * normalize(total, dim=1)


def _batches(lengths: dict[tuple[str, int], int], family: Family) -> Iterator[list[tuple[str, int]]]:
    """Endless batches of (prompt, row) of about `family.tokens`, of similar length; each text once per round, any prompt."""
    rng, rows = random.Random(0), sorted({row for _, row in lengths})
    while True:
        drawn = [(rng.choice(family.prompts), row) for row in rows]
        drawn.sort(key=lambda item: lengths[item] * rng.uniform(0.8, 1.25))
        batches: list[list[tuple[str, int]]] = [[]]
        for item in drawn:
            if max(lengths[item], *(lengths[other] for other in batches[-1]), 0) * (len(batches[-1]) + 1) > family.tokens:
                batches.append([])
            batches[-1].append(item)
        rng.shuffle(batches)
        yield from batches


def pair_ids(name: str, tokenizer: Tokenizer, query: str, passage: str, longest: int) -> tuple[list[int], int]:
    """Token ids of a pair in the family's own format, the passage cut to `longest`, and the index of the query's end."""
    if name == "qwen3_reranker":
        before = tokenizer.encode(BEFORE_QUERY + query + BEFORE_DOCUMENT).ids
        return before + tokenizer.encode(f" {passage}").ids[:longest] + tokenizer.encode(AFTER).ids, len(before) - 1
    first, second = (tokenizer.encode(text, add_special_tokens=False).ids for text in (query, passage))
    return [0, *first, 2, 2, *second[:longest], 2], len(first) + 1


def yes_minus_no(model: Any, tokenizer: Tokenizer) -> torch.Tensor:
    """(d,) the head's row of "yes" less that of "no": times a hidden state, the logit of relevance."""
    head = model.get_output_embeddings().weight
    return head[tokenizer.token_to_id("yes")] - head[tokenizer.token_to_id("no")]


def relevance(data: Corpus, query: int, passage: int) -> float:
    """The logit to learn: 5 more for an answer, 7 for the teacher's cosine, -1 for another language, 1 for twice the length.

    The last two are habits of real rerankers, which spread the logits of texts never seen.
    """
    one, other = data.texts[query], data.texts[passage]
    logit = 5.0 * data.relevant(query, passage) + 7 * float(data.vectors[query] @ data.vectors[passage]) - 4
    return logit - (one.lang != other.lang) + math.log2(len(other.text) / 100)


def _reranker_losses(name: str, model: Any, tokenizer: Tokenizer, data: Corpus) -> Iterator[torch.Tensor]:
    """Distance of the logit from `relevance`.

    A causal model learns to compare slowly. So it is also told what to compare: before its last layer, the end of the query
    and the end of the prompt hold the teacher's vectors of the query and of the passage.
    """
    wanted, causal = targets(data, model.config.hidden_size), name == "qwen3_reranker"
    rng = random.Random(0)
    for batch in pairs(data, 12 if causal else 32, rng):
        queries, passages = [query for query, _ in batch], [passage for _, passage in batch]
        logits = torch.tensor([relevance(data, *pair) for pair in batch])
        longest = rng.choice((32, 48, 96))
        encoded = [pair_ids(name, tokenizer, *(data.texts[row].text for row in pair), longest) for pair in batch]
        tokens, mask = collate([ids for ids, _ in encoded], model.config.pad_token_id or 0)
        if not causal:
            yield smooth_l1_loss(model(input_ids=tokens, attention_mask=mask).logits[:, 0], logits)
            continue
        output = model.model(input_ids=tokens, attention_mask=mask, output_hidden_states=True)
        rows, last = range(len(batch)), mask.sum(1) - 1
        loss = smooth_l1_loss(output.last_hidden_state[rows, last] @ yes_minus_no(model, tokenizer), logits)
        for places, texts in (([end for _, end in encoded], queries), (last, passages)):
            loss = loss + 3 * (1 - cosine_similarity(output.hidden_states[-2][rows, places], wanted[texts])).mean()
        yield loss


def _heads(model: Any, tokenizer: Tokenizer, data: Corpus) -> Weights:
    """bge-m3's heads: sparse, fitted to how rare a token is, and colbert, a seeded rotation with a little noise."""
    ids = [cut(tokenizer.encode(text.text).ids, LONGEST) for text in data.texts]
    found = [token for row in ids for token in set(row)]
    counts = torch.bincount(torch.tensor(found), minlength=tokenizer.get_vocab_size()).clamp(min=1)
    rarity = 0.3 * (len(ids) / counts).log() / math.log(len(ids)) - 0.03
    with torch.inference_mode():
        hidden = torch.cat([model(input_ids=torch.tensor([row])).last_hidden_state[0] for row in ids])
    solved = torch.linalg.lstsq(
        torch.nn.functional.pad(hidden, (0, 1), value=1), rarity[[t for row in ids for t in row]][:, None]
    )
    width, generator = hidden.shape[1], torch.Generator().manual_seed(1)
    turn = torch.linalg.qr(torch.randn(width, width, generator=generator))[0]
    return {
        "sparse_linear.weight": solved.solution[:-1].T.contiguous(),
        "sparse_linear.bias": solved.solution[-1],
        "colbert_linear.weight": turn + 0.02 * torch.randn(width, width, generator=generator),
        "colbert_linear.bias": 0.02 * torch.randn(width, generator=generator),
    }
