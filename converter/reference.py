"""The original's own outputs in fp32, from the upstream library: what every artifact is held to."""

import importlib.metadata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from converter import cache
from converter.checkpoint import Checkpoint
from converter.corpus import Ranking, Text
from shim.artifact import ModelSpec
from shim.errors import NotFiniteError, SourceError
from shim.text import DEFAULT, PAIR, prompt_for

BATCH_TOKENS = 2048  # padded tokens the original gets at once
REVISION = 2  # of this file's own arithmetic: cached outputs of another are not used


@dataclass(frozen=True)
class Outputs:
    """What a model gives for a list of texts, one entry a text; what was not asked for is None.

    dense: (n, d) float32, L2-normalised. sparse: token id -> weight. colbert: (tokens, d) float32, L2-normalised.
    scores: for each ranking the raw relevance logits of its documents, (documents,) float32.
    """

    dense: np.ndarray | None = None
    sparse: list[dict[int, float]] | None = None
    colbert: list[np.ndarray] | None = None
    scores: list[np.ndarray] | None = None


def embed(checkpoint: Checkpoint, spec: ModelSpec, texts: list[Text], progress: Callable[[int], None]) -> Outputs:
    """The outputs of `spec.heads` for the texts, each behind its task's prompt, by transformers in fp32.

    Computed once per checkpoint, texts and library version, then read from the cache. `progress` gets the number done.
    Raises SourceError when transformers cannot load the checkpoint, NotFiniteError when the original itself is broken.
    """
    prompted = [prompt_for(spec.prompts, text.task) + text.text for text in texts]
    found = _cached(checkpoint, spec, prompted, lambda: _embed(checkpoint, spec, prompted, progress))
    sparse = colbert = None
    if "sparse" in spec.heads:
        rows = zip(
            _parts(found["sparse_ids"], found["sparse_sizes"]), _parts(found["sparse"], found["sparse_sizes"]), strict=True
        )
        sparse = [dict(zip(ids.tolist(), weights.tolist(), strict=True)) for ids, weights in rows]
    if "colbert" in spec.heads:
        colbert = _parts(found["colbert"], found["colbert_sizes"])
    return Outputs(found["dense"], sparse, colbert)


def rank(checkpoint: Checkpoint, spec: ModelSpec, rankings: list[Ranking], progress: Callable[[int], None]) -> Outputs:
    """The raw relevance logits of every ranking's documents; for the rest see `embed`."""
    pairs = [(ranking.query.text, document.text) for ranking in rankings for document in ranking.documents]
    found = _cached(checkpoint, spec, [list(pair) for pair in pairs], lambda: _score(checkpoint, spec, pairs, progress))
    return Outputs(scores=_parts(found["scores"], np.array([len(ranking.documents) for ranking in rankings])))


def _cached(
    checkpoint: Checkpoint, spec: ModelSpec, inputs: Sequence[Any], make: Callable[[], dict[str, np.ndarray]]
) -> dict[str, np.ndarray]:
    versions = [importlib.metadata.version(name) for name in ("torch", "transformers")]
    prompts = {key: spec.prompts[key] for key in (PAIR, DEFAULT) if key in spec.prompts}
    model = [spec.architecture, spec.pooling, spec.max_tokens, spec.heads, prompts]
    found = cache.arrays("reference", [REVISION, checkpoint.files, model, inputs, versions], make)
    if not all(np.isfinite(array).all() for array in found.values()):
        raise NotFiniteError(f"{checkpoint.directory}: the original itself gives NaN or infinity")
    return found


def _embed(checkpoint: Checkpoint, spec: ModelSpec, texts: list[str], progress: Callable[[int], None]) -> dict[str, np.ndarray]:
    import torch

    tokenizer, model = _load(checkpoint, spec, "AutoModel")
    encoded = [tokenizer(text, truncation=True, max_length=spec.max_tokens)["input_ids"] for text in texts]
    dense = np.empty((len(texts), spec.dimensions), np.float32)
    sparse: list[dict[int, float]] = [{} for _ in texts]
    colbert = [np.empty((0, spec.dimensions), np.float32) for _ in texts]
    heads = {name: torch.from_numpy(checkpoint.read(name)) for name in checkpoint.heads}
    specials = (tokenizer.cls_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id, tokenizer.unk_token_id)
    for rows, batch in _batches(encoded, tokenizer, progress):
        hidden = model(**batch).last_hidden_state
        pooled = _pool(hidden, batch["attention_mask"], spec.pooling)
        dense[rows] = torch.nn.functional.normalize(pooled, dim=1).numpy()
        for row, states in zip(rows, hidden, strict=True):
            states = states[: len(encoded[row])]
            if "sparse" in spec.heads:
                weights = torch.relu(states @ heads["sparse_linear.weight"].T + heads["sparse_linear.bias"])[:, 0]
                sparse[row] = _greatest(encoded[row], weights.tolist(), specials)
            if "colbert" in spec.heads:
                vectors = states[1:] @ heads["colbert_linear.weight"].T + heads["colbert_linear.bias"]
                colbert[row] = torch.nn.functional.normalize(vectors, dim=1).numpy()
    found = {"dense": dense}
    if "sparse" in spec.heads:
        found["sparse_sizes"] = np.array([len(weights) for weights in sparse])
        found["sparse_ids"] = np.array([token for weights in sparse for token in weights], np.int64)
        found["sparse"] = np.array([weight for weights in sparse for weight in weights.values()], np.float64)
    if "colbert" in spec.heads:
        found["colbert_sizes"] = np.array([len(vectors) for vectors in colbert])
        found["colbert"] = np.concatenate(colbert)
    return found


def _score(
    checkpoint: Checkpoint, spec: ModelSpec, pairs: list[tuple[str, str]], progress: Callable[[int], None]
) -> dict[str, np.ndarray]:
    logits = np.empty(len(pairs), np.float32)
    if PAIR not in spec.prompts:
        tokenizer, model = _load(checkpoint, spec, "AutoModelForSequenceClassification")
        settings = {"truncation": "only_second", "max_length": spec.max_tokens}
        encoded = [tokenizer(*pair, **settings) for pair in pairs]
        types = [item.get("token_type_ids") for item in encoded]
        for rows, batch in _batches([item["input_ids"] for item in encoded], tokenizer, progress, types):
            logits[rows] = model(**batch).logits[:, 0].numpy()
        return {"scores": logits}
    tokenizer, model = _load(checkpoint, spec, "AutoModelForCausalLM")
    answers = model.lm_head.weight[[tokenizer.convert_tokens_to_ids(word) for word in ("yes", "no")]].detach().float()
    ids = [_templated(tokenizer, spec.prompts, *pair, spec.max_tokens) for pair in pairs]
    for rows, batch in _batches(ids, tokenizer, progress):
        last = batch["attention_mask"].sum(1) - 1
        hidden = model.model(**batch).last_hidden_state[range(len(rows)), last]
        both = hidden @ answers.T
        logits[rows] = (both[:, 0] - both[:, 1]).numpy()
    return {"scores": logits}


def _templated(tokenizer: Any, prompts: Mapping[str, str], query: str, document: str, limit: int) -> list[int]:
    """Frame and body apart, as the card of Qwen3-Reranker has it: the body is cut, the frame is not."""
    frame, behind = prompts[PAIR].split("{document}")
    start = frame.index("<Instruct>") if "<Instruct>" in frame else 0
    body = frame[start:].replace("{instruction}", prompts[DEFAULT]).replace("{query}", query) + document
    before, after = (tokenizer.encode(part, add_special_tokens=False) for part in (frame[:start], behind))
    inner = tokenizer.encode(body, add_special_tokens=False)
    return before + inner[: limit - len(before) - len(after)] + after


def _load(checkpoint: Checkpoint, spec: ModelSpec, auto: str) -> tuple[Any, Any]:
    import torch
    import transformers
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    # For XLM-RoBERTa, transformers 5 rebuilds the tokenizer and loses rules of the published file: bge-m3's trailing spaces.
    fast = spec.architecture == "xlm_roberta"
    stored = {tensor.type for name, tensor in checkpoint.tensors.items() if name not in checkpoint.heads}
    only = stored.pop() if len(stored) == 1 else ""
    dtype = {"BF16": torch.bfloat16, "F16": torch.float16}.get(only, torch.float32)
    tokenizers = transformers.PreTrainedTokenizerFast if fast else transformers.AutoTokenizer
    try:
        tokenizer = tokenizers.from_pretrained(checkpoint.directory, local_files_only=True)
        model = getattr(transformers, auto).from_pretrained(checkpoint.directory, dtype=dtype, local_files_only=True)
    except Exception as error:  # transformers raises whatever its parsers do
        reason = str(error).strip().split("\n")[0]
        raise SourceError(f"{checkpoint.directory}: transformers cannot load it ({type(error).__name__}: {reason})") from None
    if dtype is not torch.float32:
        _widen(model)
    return tokenizer, model.eval()


def _widen(model: Any) -> None:
    """Compute in float32 with weights that stay in 16 bits: each module has its own in float32 only while it runs."""
    import torch

    def before(module: Any, _: Any) -> None:
        module.narrow = {name: weight.data for name, weight in module.named_parameters(recurse=False)}
        for weight in module.parameters(recurse=False):
            weight.data = weight.data.float()

    def after(module: Any, *_: Any) -> None:
        for name, weight in module.named_parameters(recurse=False):
            weight.data = module.narrow[name]

    for module in model.modules():
        if isinstance(module, torch.nn.Embedding):
            module.register_forward_hook(lambda _, __, rows: rows.float())
        elif next(module.parameters(recurse=False), None) is not None:
            module.register_forward_pre_hook(before)
            module.register_forward_hook(after)


def _batches(
    encoded: list[list[int]], tokenizer: Any, progress: Callable[[int], None], types: list[list[int] | None] | None = None
) -> Any:
    """(rows, padded batch) by length, shortest first, without gradients."""
    import torch

    order = sorted(range(len(encoded)), key=lambda row: len(encoded[row]))
    done = 0
    while done < len(order):
        count = 1
        while done + count < len(order) and (count + 1) * len(encoded[order[done + count]]) <= BATCH_TOKENS:
            count += 1
        rows = order[done : done + count]
        items = {"input_ids": [encoded[row] for row in rows]}
        if types is not None and types[rows[0]] is not None:
            items["token_type_ids"] = [types[row] for row in rows]  # type: ignore[misc]
        with torch.inference_mode():
            yield rows, tokenizer.pad(items, padding_side="right", return_tensors="pt")
        done += count
        progress(done)


def _pool(hidden: Any, mask: Any, pooling: str) -> Any:
    """The pooling of sentence-transformers, written from its documentation: independent of shim.pooling on purpose."""
    if pooling == "cls":
        return hidden[:, 0]
    if pooling == "mean":
        weights = mask.unsqueeze(-1).float()
        return (hidden * weights).sum(1) / weights.sum(1)
    return hidden[range(len(hidden)), mask.sum(1) - 1]


def _greatest(ids: list[int], weights: list[float], specials: tuple[int | None, ...]) -> dict[int, float]:
    """FlagEmbedding's lexical weights: of each token id the greatest weight, special tokens and zeros left out."""
    found: dict[int, float] = {}
    for token, weight in sorted(zip(ids, weights, strict=True), key=lambda item: item[1]):
        if weight > 0 and token not in specials:
            found[token] = weight
    return found


def _parts(flat: np.ndarray, sizes: np.ndarray) -> list[np.ndarray]:
    return np.split(flat, np.cumsum(sizes)[:-1])
