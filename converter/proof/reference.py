"""The original's own outputs in fp32, from the upstream library: what artifacts are held to, and what our reading is."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from converter import cache
from converter.corpus import Ranking, Text
from converter.packages import version
from converter.proof import probes
from converter.proof.apart import apart
from converter.proof.asking import ask
from converter.proof.outputs import Outputs, parts, unflat
from converter.proof.probes import Probe
from converter.proof.upstream import Tokens
from converter.source.checkpoint import Checkpoint
from shim.errors import NotFiniteError
from shim.prompts import PAIR, ROLES, prompt_of
from shim.spec import ModelSpec

REVISION = 6  # of this folder's own arithmetic: cached outputs of another are not used
PER_PROMPT = 3  # probes behind each named prompt


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
    given: dict[str, object]
    view: dict[str, object]


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
    prompted = asked_of(checkpoint.spec, [(text.task, text.text) for text in texts])
    names = [name for name, text in checkpoint.spec.prompt_names.items() if text]
    asked = [Probe(text) for text in probes.texts(checkpoint.spec.max_tokens)]
    if checkpoint.spec.colbert is not None:  # each text is a query, and a document
        asked = [Probe(probe.text, task=task) for task in ROLES for probe in asked]
    else:
        asked += [Probe(probe.text, name) for name in names for probe in asked[:PER_PROMPT]]
    asked += [Probe(probe.text, task=task) for task in checkpoint.spec.adapters or () for probe in asked[:PER_PROMPT]]
    return _kept(checkpoint, prompted, asked, progress)


def asked_of(spec: ModelSpec, texts: list[tuple[str, str]]) -> list[tuple[str, ...]]:
    """(prompt, text) of each (task, text); for a model with adapters and for ColBERT (prompt, text, task)."""
    asks = spec.adapters or spec.colbert
    return [(prompt_of(spec, task), text, *([task] if asks else [])) for task, text in texts]


def rank(checkpoint: Checkpoint, rankings: list[Ranking], progress: Callable[[int], None]) -> Reference:
    """The raw relevance logits of every ranking's documents, one after the other; for the rest see `embed`."""
    pairs = [(ranking.query.text, document.text) for ranking in rankings for document in ranking.documents]
    asked = probes.pairs(checkpoint.spec.max_tokens, queries=PAIR not in checkpoint.spec.prompts)
    return _kept(checkpoint, pairs, [Probe(pair) for pair in asked], progress)


def answers(checkpoint: Checkpoint, inputs: Sequence[tuple[str, ...]], progress: Callable[[int], None]) -> Outputs:
    """The dense vector of each (prompt, text) or (prompt, text, task), of a reranker the logit of each (query, document).

    For the rest see `embed`.
    """
    heads = [head for head in checkpoint.spec.heads if head in ("dense", "score")]  # a corpus' ColBERT vectors fill the memory
    alone = replace(checkpoint, spec=replace(checkpoint.spec, heads=heads))
    return _kept(alone, inputs, [], progress).outputs


def _kept(
    checkpoint: Checkpoint, inputs: Sequence[tuple[str, ...]], asked: list[Probe], progress: Callable[[int], None]
) -> Reference:
    versions = [version(name) for name in ("torch", "transformers", "sentence-transformers")]
    key = [
        REVISION,
        checkpoint.files,
        str(checkpoint.spec),
        dict(checkpoint.overrides),
        list(map(list, inputs)),
        str(asked),
        versions,
    ]
    arrays = cache.arrays("reference", key, lambda: apart(ask, checkpoint, inputs, asked, progress=progress))
    if not all(np.isfinite(array).all() for name, array in arrays.items() if name != "about"):
        raise NotFiniteError(f"{checkpoint.directory}: the original itself gives NaN or infinity")
    tokens = [(ids.tolist(), types.tolist()) for ids, types in zip(parts(arrays, "ids"), parts(arrays, "types"), strict=True)]
    about = json.loads(str(arrays["about"]))
    testimony = Testimony(asked, tokens, arrays["measured"].tolist(), unflat(arrays, "probes."), **about)
    return Reference(unflat(arrays, "texts."), testimony)
