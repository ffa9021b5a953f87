"""What the upstream library gives for the probes and the corpus: run in a process of its own, see apart.py."""

import json
from collections.abc import Callable, Sequence

import numpy as np

from converter.proof.apart import give_back
from converter.proof.head_only import HeadOnly
from converter.proof.outputs import Outputs, flat, ragged
from converter.proof.probes import Probe
from converter.proof.upstream import CardRanker, Embedder, Ranker, batches, upstream_of
from converter.source.checkpoint import Checkpoint
from shim.errors import SealportError, SourceError
from shim.pooling import LINEAR
from shim.prompts import adapter_of, prompt_of

Row = tuple[np.ndarray, dict[int, float], np.ndarray]  # a text's dense vector, sparse weights, ColBERT vectors
Progress = Callable[[int], None]
BATCH_TOKENS = 1024  # padded tokens the original gets at once
WORK = 6e11  # floating-point operations that the probes' outputs may take: seconds
LONGEST = 1024  # tokens; of a longer probe only the tokens are compared, as it would fill the memory
FEWEST = 4  # probes whose outputs are computed, whatever they cost


def ask(
    checkpoint: Checkpoint, inputs: Sequence[tuple[str, ...]], probes: list[Probe], progress: Progress
) -> dict[str, np.ndarray]:
    """The upstream library's outputs as arrays: `texts.` of the inputs; of the probes, the other names.

    inputs: (prompt, text) or (prompt, text, task) each, of a reranker (query, document). `progress` gets the number of inputs
    done. Raises SourceError for whatever the library raises.
    """
    try:
        return _ask(checkpoint, inputs, probes, progress)
    except (SealportError, MemoryError):
        raise
    except Exception as error:  # whatever the libraries raise for files that they take and cannot use
        reason = str(error).strip().split("\n")[0]
        where = checkpoint.upstream
        raise SourceError(f"{where}: the upstream library fails on it ({type(error).__name__}: {reason})") from None


def _ask(
    checkpoint: Checkpoint, inputs: Sequence[tuple[str, ...]], probes: list[Probe], progress: Progress
) -> dict[str, np.ndarray]:
    upstream = upstream_of(checkpoint)
    give_back()  # what loading took
    if isinstance(upstream, HeadOnly):
        tokens = [upstream.tokens(probe.text, probe.prompt_name, probe.task) for probe in probes]
    elif isinstance(upstream, Embedder):
        tokens = [upstream.tokens(probe.text, probe.prompt_name, _prompt(upstream, checkpoint, probe)) for probe in probes]
    else:
        tokens = [upstream.tokens(probe.text) for probe in probes]
    measured = _affordable(checkpoint, [len(ids) for ids, _ in tokens])
    said = _testify(upstream, checkpoint, [probes[row] for row in measured])
    about = {"library": upstream.library, "version": upstream.version, "given": upstream.given, "view": upstream.view}
    found = ragged("ids", [ids for ids, _ in tokens], np.int64) | ragged("types", [types for _, types in tokens], np.int64)
    found |= {"measured": np.array(measured), "about": np.array(json.dumps(about))}
    if isinstance(upstream, HeadOnly):
        given = _head_only(upstream, inputs, progress)
    elif isinstance(upstream, Embedder):
        given = _embed(upstream, checkpoint, inputs, progress)
    else:
        given = _rank(upstream, inputs, progress)
    return found | flat(said, "probes.") | flat(given, "texts.")


def _rank(upstream: Ranker | CardRanker, inputs: Sequence[tuple[str, ...]], progress: Progress) -> Outputs:
    pairs = [(query, document) for query, document in inputs]
    scores, done = np.empty(len(pairs), np.float32), 0
    for rows in batches([len(upstream.tokens(pair)[0]) for pair in pairs], BATCH_TOKENS):
        scores[rows] = upstream.logits([pairs[row] for row in rows])
        done += len(rows)
        progress(done)
    return Outputs(scores=scores)


def _affordable(checkpoint: Checkpoint, lengths: list[int]) -> list[int]:
    """The probes whose outputs are computed: the shortest, as many as WORK allows, none over LONGEST."""
    layers = [shape for name, shape in checkpoint.matrices.items() if name not in checkpoint.tables]
    each, spent = sum(2 * rows * columns for rows, columns in layers), 0
    found: list[int] = []
    for row in sorted((row for row, length in enumerate(lengths) if length <= LONGEST), key=lambda row: lengths[row]):
        spent += each * lengths[row]
        if len(found) >= FEWEST and spent > WORK:
            break
        found.append(row)
    return sorted(found)


def _head_only(upstream: HeadOnly, texts: Sequence[tuple[str, ...]], progress: Progress) -> Outputs:
    """The outputs of the texts, a group of about BATCH_TOKENS at a time."""
    found: dict[int, Outputs] = {}
    for prompt, task in sorted({(prompt, *task, "")[:2] for prompt, _, *task in texts}):
        own = [row for row, text in enumerate(texts) if (text[0], *text[2:], "")[:2] == (prompt, task)]
        for group in batches([len(upstream.tokens(texts[row][1], None, task, prompt)[0]) for row in own], BATCH_TOKENS):
            rows = [own[place] for place in group]
            found |= _apart(rows, upstream.outputs([texts[row][1] for row in rows], None, task, prompt))
            progress(len(found))
    return _joined([found[row] for row in range(len(texts))])


def _apart(rows: list[int], outputs: Outputs) -> dict[int, Outputs]:
    """The outputs of each text by its row."""
    if outputs.sparse is not None:
        return {row: Outputs(sparse=[one]) for row, one in zip(rows, outputs.sparse, strict=True)}
    return {row: Outputs(colbert=[one]) for row, one in zip(rows, outputs.colbert or (), strict=True)}


def _joined(parts: list[Outputs]) -> Outputs:
    """The outputs of all texts, all of the one head that there is."""
    sparse = [one for part in parts for one in part.sparse or ()]
    colbert = [one for part in parts for one in part.colbert or ()]
    return Outputs(sparse=sparse or None, colbert=colbert or None)


def _testify(upstream: Embedder | HeadOnly | Ranker | CardRanker, checkpoint: Checkpoint, asked: list[Probe]) -> Outputs:
    """The outputs of the probes by default settings; of a reranker's, what `predict` gives where there is one."""
    if not asked:
        return Outputs()
    if isinstance(upstream, HeadOnly):
        parts: dict[int, Outputs] = {}
        for name, task in {(probe.prompt_name, probe.task) for probe in asked}:
            rows = [row for row, probe in enumerate(asked) if (probe.prompt_name, probe.task) == (name, task)]
            parts |= _apart(rows, upstream.outputs([asked[row].text for row in rows], name, task))
        return _joined([parts[row] for row in range(len(asked))])
    if not isinstance(upstream, Embedder):
        predict = getattr(upstream, "predict", upstream.logits)
        return Outputs(scores=predict([probe.text for probe in asked]))
    found: dict[int, np.ndarray] = {}
    for name, task in {(probe.prompt_name, probe.task) for probe in asked}:  # together: padding must not change a text's vector
        rows = [row for row, probe in enumerate(asked) if (probe.prompt_name, probe.task) == (name, task)]
        texts, prompt = [asked[row].text for row in rows], _prompt(upstream, checkpoint, asked[rows[0]])
        upstream.adapt(adapter_of(checkpoint.spec, task, name))
        found.update(zip(rows, upstream.encode(texts, name, prompt), strict=True))
    upstream.adapt(-1)
    dense = np.stack([found[row] for row in range(len(asked))])
    if checkpoint.spec.heads == ["dense"]:
        return Outputs(dense)
    prompts = checkpoint.spec.prompt_names
    behind = [prompts.get(probe.prompt_name or checkpoint.spec.default_prompt, "") for probe in asked]
    heads = [_forward(upstream, checkpoint, [probe.text], prompt)[0] for probe, prompt in zip(asked, behind, strict=True)]
    return _together(checkpoint, [(vector, *row[1:]) for vector, row in zip(dense, heads, strict=True)])


def _prompt(upstream: Embedder, checkpoint: Checkpoint, probe: Probe) -> str | None:
    """The prompt of the probe's task; None where another is asked for."""
    return None if probe.task is None else upstream.prompt(probe.task, prompt_of(checkpoint.spec, probe.task))


def _embed(upstream: Embedder, checkpoint: Checkpoint, texts: Sequence[tuple[str, ...]], progress: Progress) -> Outputs:
    found: dict[int, Row] = {}
    for prompt, *task in sorted({(prompt, *task) for prompt, _, *task in texts}):
        own = [row for row, text in enumerate(texts) if (text[0], *text[2:]) == (prompt, *task)]
        upstream.adapt(adapter_of(checkpoint.spec, *task))
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
