"""Late chunking: a document is embedded whole, and each of its chunks is the mean of its own tokens' states.

Source: Günther et al. 2024, Late Chunking, algorithms 1 and 2; their code gives the tokens before the text (special ones and a
prompt) to the first chunk and those behind it to the last, so that a document of one chunk has the vector that it has anyway.
"""

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from shim.contents import SPLIT, Steps
from shim.errors import UsageError
from shim.pieces import edges
from shim.results import Output
from shim.seams import parts
from shim.spec import ModelSpec
from shim.text import Encoded, TextEncoder

OVERLAP = 8  # of a window one part in so many is what the window before has, too, for what follows to be seen in its context
# Why a model's tokens cannot be embedded whole and pooled chunk by chunk afterwards, by its pooling.
REFUSED = {
    "cls": "its vector is that of the first token, and those of the others collapse: a chunk of a text has none of its own",
    "last": "its vector is that of the last token, which no token before it knows: a chunk inside a text has none",
    **dict.fromkeys(("max", "mean_sqrt_len_tokens", "weightedmean"), "its vector is not the mean of its tokens"),
}
DENSE = "a linear layer follows its mean, whose weights are for whole texts"
OTHERS = (
    "models that take the mean of their tokens do, such as jina-embeddings-v3, nomic-embed-text-v1.5, multilingual-e5-large"
)


@dataclass(frozen=True)
class Document:
    """A document as what is computed for it.

    windows: its tokens, and texts: its characters, window by window. counts: (chunks,) tokens of each chunk.
    """

    windows: list[Encoded]
    texts: list[str]
    counts: np.ndarray


def fault(spec: ModelSpec) -> str | None:
    """Why the model does no late chunking; None where it does."""
    if "dense" not in spec.heads:
        return "it has no vector for a text"
    return REFUSED.get(spec.pooling) or (DENSE if spec.projected else None)


def joined(chunks: Sequence[str]) -> list[str]:
    """The chunks as they follow each other in the document: where neither has a space, there is one, but not in Chinese."""
    found = list(chunks)
    for place, (one, other) in enumerate(pairwise(chunks)):
        ends = one[-1:], other[:1]
        if not any(map(str.isspace, ends)) and not all(unicodedata.east_asian_width(end) in "WF" for end in ends):
            found[place] += " "
    return found


def document(encoder: TextEncoder, chunks: Sequence[str], prompt: str) -> Steps[Document]:
    """The document of these chunks behind the prompt, in windows that overlap where it is longer than max_tokens.

    Every window begins with the special tokens and the prompt. What two windows have, the first one gives. A token is of the
    chunk that holds its last character. Raises UsageError for a chunk without a token, and what `TextEncoder.encode` raises.
    """
    contents = encoder.contents
    given = joined(list(map(encoder.plain, chunks)))
    text, head = prompt + "".join(given), len(prompt.replace(SPLIT, ""))
    ends = head + np.cumsum([len(chunk.replace(SPLIT, "")) for chunk in given])
    ids: list[int] = []
    last: list[int] = []  # character of each token
    start = 0
    for part in parts(text, contents.seams, bounded=contents.bounded):
        (encoding,) = yield from contents.of_short([part])
        ids += encoding.ids
        last += [start + max(right - 1, left) for left, right in encoding.offsets]
        start += len(part.replace(SPLIT, ""))
    before, after = ([piece.id for piece in pieces] for pieces in edges(encoder.tokenizer))
    behind = sum(place < head for place in last)  # tokens of the prompt
    before, ids = before + ids[:behind], ids[behind:]
    owner = np.minimum(np.maximum.accumulate(np.searchsorted(ends, last[behind:], "right")), len(chunks) - 1)
    counts = np.bincount(owner, minlength=len(chunks))
    if not counts.all():
        raise UsageError(f"chunk {int(np.argmin(counts))} has no token of its own; join it with the one beside it", "texts")
    room = encoder.room(len(before) + len(after), "tokens of the prompt and special tokens")
    step = room if len(ids) <= room else room - room // OVERLAP
    windows, texts = [], []
    starts = range(0, max(len(ids) - (room - step), 1), step)
    for first in starts:
        own = owner[first : first + room]
        skipped = room - step if first else 0
        spans = _spans(own[skipped:], len(before) + skipped)
        if not first:
            spans[0] = spans[0][0], 0, spans[0][2]
        if first == starts[-1]:
            spans[-1] = spans[-1][0], spans[-1][1], spans[-1][2] + len(after)
        places = last[behind + first : behind + first + room]
        texts.append(text[places[0] : places[-1] + 1])
        whole = [*before, *ids[first : first + room], *after]
        windows.append(Encoded(whole, [0] * len(whole), False, spans=tuple(spans)))
    counts[0] += len(before)
    counts[-1] += len(after)
    return Document(windows, texts, counts)


def _spans(owner: np.ndarray, first: int) -> list[tuple[int, int, int]]:
    """(chunk, start, end) of the tokens of each chunk; owner: of each token the chunk; first: where the first token stands."""
    cuts = [0, *(np.flatnonzero(np.diff(owner)) + 1).tolist(), len(owner)]
    return [(int(owner[one]), first + one, first + other) for one, other in pairwise(cuts)]


def sums(item: Encoded, hidden: np.ndarray) -> np.ndarray:
    """(spans, d) float32 sums of a window's hidden states (tokens, d) over its spans."""
    return np.stack([hidden[start:end].sum(axis=0, dtype=np.float64) for _, start, end in item.spans]).astype(np.float32)


def chunks_of(found: Document, outputs: Sequence[Output], unit: bool) -> list[Output]:
    """The chunks' own outputs, from those of the windows. unit: whether dense vectors have length 1."""
    total = np.zeros((len(found.counts), outputs[0].values["chunks"].shape[1]))
    for window, output in zip(found.windows, outputs, strict=True):
        np.add.at(total, [chunk for chunk, _, _ in window.spans], output.values["chunks"])
    means = total / found.counts[:, None]
    dense = means / np.maximum(np.linalg.norm(means, axis=1, keepdims=True), 1e-12) if unit else means
    return [
        Output(int(count), False, {"dense": row.astype(np.float32), "pooled": mean.astype(np.float32)}, None)
        for count, row, mean in zip(found.counts, dense, means, strict=True)
    ]
