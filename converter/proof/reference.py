"""The original's own outputs in fp32, from the upstream library: what artifacts are held to, and what our reading is."""

import gc
import importlib.metadata
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from converter import cache
from converter.corpus import Ranking, Text
from converter.proof import probes
from converter.proof.outputs import Outputs, flat, parts, ragged, unflat
from converter.proof.upstream import Embedder, Tokens, batches, upstream_of
from converter.source.checkpoint import Checkpoint
from shim.errors import NotFiniteError, SealportError, SourceError
from shim.pooling import LINEAR
from shim.prompts import PAIR, prompt_of

Row = tuple[np.ndarray, dict[int, float], np.ndarray]  # a text's dense vector, sparse weights, ColBERT vectors
BATCH_TOKENS = 2048  # padded tokens the original gets at once
REVISION = 5  # of this folder's own arithmetic: cached outputs of another are not used
WORK = 6e11  # floating-point operations that the probes' outputs may take: seconds
LONGEST = 1024  # tokens; of a longer probe only the tokens are compared, as it would fill the memory
FEWEST = 4  # probes whose outputs are computed, whatever they cost
PER_PROMPT = 3  # probes behind each named prompt


@dataclass(frozen=True)
class Probe:
    """One text (or pair) for the witness, and the name of its prompt, None for default settings."""

    text: Any
    prompt_name: str | None = None


@dataclass(frozen=True)
class Testimony:
    """What the upstream library says of the probes.

    tokens: of every probe. measured: the probes whose outputs are in `outputs`, by number. library, version; given: what it was
    told of ours; view: what it read of the checkpoint's files, in our words.
    """

    probes: list[Probe]
    tokens: list[Tokens]
    measured: list[int]
    outputs: Outputs
    library: str
    version: str
    given: dict[str, Any]
    view: dict[str, Any]


@dataclass(frozen=True)
class Reference:
    """outputs: of the corpus, of rerankers one score a pair. testimony: of the probes."""

    outputs: Outputs
    testimony: Testimony


def embed(checkpoint: Checkpoint, texts: list[Text], progress: Callable[[int], None]) -> Reference:
    """The outputs of the checkpoint's heads for the texts, each behind its task's prompt, and for the probes.

    Computed once per checkpoint, texts and library version, then read from the cache. `progress` gets the number done.
    Raises SourceError when the library cannot load the checkpoint, NotFiniteError when the original itself is broken.
    """
    prompted = [(prompt_of(checkpoint.spec, text.task), text.text) for text in texts]
    names = [name for name, text in checkpoint.spec.prompt_names.items() if text]
    asked = [Probe(text) for text in probes.texts(checkpoint.spec.max_tokens)]
    asked += [Probe(probe.text, name) for name in names for probe in asked[:PER_PROMPT]]

    def make(upstream: Any) -> Outputs:
        return _embed(upstream, checkpoint, prompted, progress)

    return _kept(checkpoint, prompted, asked, make)


def rank(checkpoint: Checkpoint, rankings: list[Ranking], progress: Callable[[int], None]) -> Reference:
    """The raw relevance logits of every ranking's documents, one after the other; for the rest see `embed`."""
    pairs = [(ranking.query.text, document.text) for ranking in rankings for document in ranking.documents]

    def make(upstream: Any) -> Outputs:
        scores, done = np.empty(len(pairs), np.float32), 0
        for rows in batches([len(upstream.tokens(pair)[0]) for pair in pairs], BATCH_TOKENS):
            scores[rows] = upstream.logits([pairs[row] for row in rows])
            done += len(rows)
            progress(done)
        return Outputs(scores=scores)

    asked = probes.pairs(checkpoint.spec.max_tokens, queries=PAIR not in checkpoint.spec.prompts)
    return _kept(checkpoint, pairs, [Probe(pair) for pair in asked], make)


def _kept(checkpoint: Checkpoint, inputs: Sequence[Any], asked: list[Probe], outputs: Callable[[Any], Outputs]) -> Reference:
    def make() -> dict[str, np.ndarray]:
        try:
            return ask()
        except (SealportError, MemoryError):
            raise
        except Exception as error:  # whatever the libraries raise for files that they take and cannot use
            reason = str(error).strip().split("\n")[0]
            where = checkpoint.upstream
            raise SourceError(f"{where}: the upstream library fails on it ({type(error).__name__}: {reason})") from None

    def ask() -> dict[str, np.ndarray]:
        upstream = upstream_of(checkpoint)
        named = isinstance(upstream, Embedder)
        tokens = [upstream.tokens(probe.text, *([probe.prompt_name] if named else [])) for probe in asked]
        measured = _affordable(checkpoint, [len(ids) for ids, _ in tokens])
        said = _testify(upstream, checkpoint, [asked[row] for row in measured])
        about = {"library": upstream.library, "version": upstream.version, "given": upstream.given, "view": upstream.view}
        found = ragged("ids", [ids for ids, _ in tokens], np.int64) | ragged("types", [types for _, types in tokens], np.int64)
        found |= {"measured": np.array(measured), "about": np.array(json.dumps(about))}
        given = outputs(upstream)
        del upstream
        gc.collect()  # a model of sentence-transformers refers to itself, and would stay beside the artifact
        return found | flat(said, "probes.") | flat(given, "texts.")

    versions = [importlib.metadata.version(name) for name in ("torch", "transformers", "sentence-transformers")]
    key = [
        REVISION,
        checkpoint.files,
        str(checkpoint.spec),
        dict(checkpoint.overrides),
        list(map(list, inputs)),
        str(asked),
        versions,
    ]
    arrays = cache.arrays("reference", key, make)
    if not all(np.isfinite(array).all() for name, array in arrays.items() if name != "about"):
        raise NotFiniteError(f"{checkpoint.directory}: the original itself gives NaN or infinity")
    tokens = [(ids.tolist(), types.tolist()) for ids, types in zip(parts(arrays, "ids"), parts(arrays, "types"), strict=True)]
    about = json.loads(str(arrays["about"]))
    testimony = Testimony(asked, tokens, arrays["measured"].tolist(), unflat(arrays, "probes."), **about)
    return Reference(unflat(arrays, "texts."), testimony)


def _affordable(checkpoint: Checkpoint, lengths: list[int]) -> list[int]:
    """The probes whose outputs are computed: the shortest, as many as WORK allows, none over LONGEST."""
    matrices = [t.shape for name, t in checkpoint.tensors.items() if len(t.shape) == 2 and "embed" not in name]
    each, spent = sum(2 * rows * columns for rows, columns in matrices), 0
    found: list[int] = []
    for row in sorted((row for row, length in enumerate(lengths) if length <= LONGEST), key=lambda row: lengths[row]):
        spent += each * lengths[row]
        if len(found) >= FEWEST and spent > WORK:
            break
        found.append(row)
    return sorted(found)


def _testify(upstream: Any, checkpoint: Checkpoint, asked: list[Probe]) -> Outputs:
    """The outputs of the probes by default settings; of a reranker's, what `predict` gives where there is one."""
    if not isinstance(upstream, Embedder):
        predict = getattr(upstream, "predict", upstream.logits)
        return Outputs(scores=predict([probe.text for probe in asked]))
    found: dict[int, np.ndarray] = {}
    for name in {probe.prompt_name for probe in asked}:  # together: padding must not change a text's vector
        rows = [row for row, probe in enumerate(asked) if probe.prompt_name == name]
        found.update(zip(rows, upstream.encode([asked[row].text for row in rows], name), strict=True))
    dense = np.stack([found[row] for row in range(len(asked))])
    if checkpoint.spec.heads == ["dense"]:
        return Outputs(dense)
    prompts = checkpoint.spec.prompt_names
    behind = [prompts.get(probe.prompt_name or checkpoint.spec.default_prompt, "") for probe in asked]
    heads = [_forward(upstream, checkpoint, [probe.text], prompt)[0] for probe, prompt in zip(asked, behind, strict=True)]
    return _together(checkpoint, [(vector, *row[1:]) for vector, row in zip(dense, heads, strict=True)])


def _embed(
    upstream: Embedder, checkpoint: Checkpoint, texts: list[tuple[str, str]], progress: Callable[[int], None]
) -> Outputs:
    found: dict[int, Row] = {}
    for prompt in sorted({prompt for prompt, _ in texts}):
        own = [row for row, text in enumerate(texts) if text[0] == prompt]
        for group in batches([len(upstream.tokens(texts[row][1], prompt=prompt)[0]) for row in own], BATCH_TOKENS):
            rows = [own[place] for place in group]
            outputs = _forward(upstream, checkpoint, [texts[row][1] for row in rows], prompt)
            found.update(zip(rows, outputs, strict=True))
            progress(len(found))
    return _together(checkpoint, [found[row] for row in range(len(texts))])


def _together(checkpoint: Checkpoint, rows: list[Row]) -> Outputs:
    heads = checkpoint.spec.heads
    dense, sparse, colbert = (list(column) for column in zip(*rows, strict=True))
    return Outputs(np.stack(dense), sparse if "sparse" in heads else None, colbert if "colbert" in heads else None)


def _forward(upstream: Embedder, checkpoint: Checkpoint, texts: list[str], prompt: str) -> list[Row]:
    """Of each text the dense vector, and what bge-m3's further heads make of its hidden states.

    Source: Chen et al. 2024, section 3.2, as FlagEmbedding computes it: a sparse weight is relu(linear(state)), the greatest of
    each token id, special tokens left out; a ColBERT vector is L2(linear(state)), of all tokens but the first.
    """
    import torch

    dense, hidden, mask = upstream.forward(texts, prompt)
    heads = {name: torch.from_numpy(checkpoint.read(name)) for name in checkpoint.heads}
    tokenizer = upstream.model.tokenizer
    specials = (tokenizer.cls_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id, tokenizer.unk_token_id)
    rows: list[Row] = []
    for row, text in enumerate(texts):
        sparse: dict[int, float] = {}
        colbert = np.empty((0, 0), np.float32)
        states = hidden[row][mask[row].bool()].float() if set(checkpoint.spec.heads) & set(LINEAR) else hidden[:0]
        if "sparse" in checkpoint.spec.heads:
            weights = torch.relu(states @ heads["sparse_linear.weight"].T + heads["sparse_linear.bias"])[:, 0]
            sparse = _greatest(upstream.tokens(text, prompt=prompt)[0], weights.tolist(), specials)
        if "colbert" in checkpoint.spec.heads:
            vectors = states[1:] @ heads["colbert_linear.weight"].T + heads["colbert_linear.bias"]
            colbert = torch.nn.functional.normalize(vectors, dim=1).numpy()
        rows.append((dense[row], sparse, colbert))
    return rows


def _greatest(ids: list[int], weights: list[float], specials: tuple[int | None, ...]) -> dict[int, float]:
    found: dict[int, float] = {}
    for token, weight in sorted(zip(ids, weights, strict=True), key=lambda item: item[1]):
        if weight > 0 and token not in specials:
            found[token] = weight
    return found
