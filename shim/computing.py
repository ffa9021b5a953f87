"""From token ids to what a model gives, whichever runtime computes it."""

import sys
from collections.abc import Sequence
from contextlib import nullcontext
from threading import Lock

import click
import numpy as np

from shim import late
from shim.artifact import Manifest
from shim.batches import batches
from shim.checks import check_count
from shim.errors import IntegrityError, NotFiniteError, UsageError
from shim.pooling import PER_TOKEN, VOCABULARY, check_dimensions, cut, lexical, output_of, pool, probability
from shim.prefixes import Prefixes
from shim.results import Embeddings, Output, Ranked
from shim.runtimes import Closed, Runtime
from shim.text import Encoded, TextEncoder


class Computing:
    """The part of a model that computes: `compute` for a server, which has threads and a queue of its own, else `compute_all`.

    lock: held by the thread that tokenizes, or that computes with a runtime that is not parallel; a server needs none.
    """

    def __init__(self, manifest: Manifest, encoder: TextEncoder, runtime: Runtime):
        self.manifest, self.encoder, self.runtime = manifest, encoder, runtime
        self.name, self.task = manifest.name, manifest.task
        self.dimensions, self.max_tokens = manifest.model.dimensions, manifest.model.max_tokens
        self.lock = Lock()
        self._prefixes = Prefixes(runtime, encoder)
        lexical_weights = "sparse" in manifest.model.heads and manifest.model.splade is None
        self._unused = encoder.unused() if lexical_weights else frozenset[int]()

    def close(self) -> None:
        """Give the memory of the weights back; to compute is UsageError from now on."""
        self.runtime = Closed(self.runtime, self.name)
        self._prefixes = Prefixes(self.runtime, self.encoder)

    def tokenized(self, texts: Sequence[str], prompt: str) -> list[Encoded]:
        """Token ids of prompt + text of each, in a thread's turn."""
        with self.lock:
            return self.encoder.encode(texts, prompt)

    @property
    def heads(self) -> tuple[str, ...]:
        """What an embedder gives where no heads are asked for: `dense`, or all of one that has no vector for a text."""
        return ("dense",) if "dense" in self.manifest.model.heads else tuple(self.manifest.model.heads)

    def check_embed(
        self,
        heads: Sequence[str] = ("dense",),
        late_chunking: bool = False,
        others: Sequence[str] = (),
        dimensions: int | None = None,
    ) -> None:
        """Raise UsageError for a reranker, for heads that the model has not, for late chunking that it does not, and for
        dimensions that it cannot cut its vectors to.

        others: the names of models here that do late chunking.
        """
        if self.task != "embed":
            raise UsageError(f"{self.name} is a reranker and cannot embed; give an embedding model")
        if isinstance(heads, str) or not heads or not set(heads) <= set(self.manifest.model.heads):
            given = heads if isinstance(heads, str) else ", ".join(map(str, heads)) or "()"
            raise UsageError(f"heads {given}: {self.name} has {', '.join(self.manifest.model.heads)}", "heads")
        if late_chunking and (why := late.fault(self.manifest.model)):
            who = f"here {' and '.join(others)} can" if others else late.OTHERS
            raise UsageError(f"{self.name} does no late chunking: {why}; {who}", "late_chunking")
        if late_chunking and tuple(heads) != ("dense",):
            raise UsageError("late chunking gives dense vectors; leave out the other heads", "heads")
        if dimensions is not None and "dense" not in self.manifest.model.heads:
            raise UsageError(f"{self.name} has no dense vectors that could be cut; leave out dimensions", "dimensions")
        check_dimensions(dimensions, self.dimensions)

    def check_rerank(self, top_n: int | None = None) -> None:
        """Raise UsageError for a model that cannot rerank, and for a `top_n` that is no count."""
        if self.task != "rerank":
            raise UsageError(f"{self.name} embeds texts and cannot rerank; give a reranker")
        if top_n is not None:
            check_count(top_n, "top_n")

    def compute(self, encoded: Sequence[Encoded], heads: Sequence[str]) -> list[Output]:
        """The outputs of one batch, in order. An output that is not finite is marked, not raised: the others are good."""
        arrays = self._prefixes.run(encoded, tuple(dict.fromkeys(map(self._named, heads))))
        return [self._output(item, row, arrays, heads) for row, item in enumerate(encoded)]

    def _named(self, head: str) -> str:
        """The runtime's output that a head is made from."""
        return output_of(self.manifest.model, head)

    def _output(self, item: Encoded, row: int, arrays: dict[str, np.ndarray], heads: Sequence[str]) -> Output:
        values: dict[str, np.ndarray] = {}
        sparse: dict[int, float] = {}
        broken = None
        for head in dict.fromkeys(heads):
            value = arrays[self._named(head)][row]
            if head == "sparse" and self._named(head) == VOCABULARY:
                words = np.flatnonzero(value)
                sparse, value = dict(zip(words.tolist(), value[words].tolist(), strict=True)), value[words]
            elif head == "chunks":
                value = late.sums(item, value)
            elif head in PER_TOKEN:
                value = value[: len(item.ids)]  # without padding
            elif head == "pooled" and not self.manifest.model.projected:
                value = pool(value[: len(item.ids)], self.manifest.model.pooling)
            if not np.isfinite(value).all():
                broken = head
            if head == "sparse" and self._named(head) != VOCABULARY:
                sparse = lexical(item.ids, value, self._unused)
            elif head == "colbert":
                value = value[1:] if item.kept is None else value[list(item.kept)]
            values[head] = value
        return Output(len(item.ids), item.truncated, values, broken, sparse)

    def compute_all(
        self, encoded: Sequence[Encoded], heads: Sequence[str], batch_size: int | None = None, progress: bool = False
    ) -> list[Output]:
        """The outputs of all, in order, batch by batch. Raises NotFiniteError for NaN or infinity in one.

        batch_size, progress: see `outputs`.
        """
        outputs = self.outputs(encoded, heads, batch_size, progress)
        broken = [row for row, output in enumerate(outputs) if output.broken]
        if broken:
            where = f"the {outputs[broken[0]].broken} output of text {broken[0]} ({len(broken)} in all)"
            raise NotFiniteError(f"{self.name}: NaN or infinity in {where}")
        return outputs

    def outputs(
        self, encoded: Sequence[Encoded], heads: Sequence[str], batch_size: int | None = None, progress: bool = False
    ) -> list[Output]:
        """The outputs of all, in order, batch by batch. One that is not finite is marked, not raised.

        batch_size: at most so many at once. progress: show on stderr how far it is, on a terminal as a bar.
        """
        if batch_size is not None:
            check_count(batch_size, "batch_size")
        found: dict[int, Output] = {}
        groups = batches(encoded, most=batch_size)
        with click.progressbar(groups, label=self.name, file=sys.stderr) if progress else nullcontext(groups) as shown:
            for rows in shown:
                with nullcontext() if self.runtime.parallel else self.lock:
                    found.update(zip(rows, self.compute([encoded[row] for row in rows], heads), strict=True))
        return [found[row] for row in range(len(encoded))]

    def embeddings(
        self, outputs: Sequence[Output], heads: Sequence[str], dimensions: int | None = None, normalize: bool | None = None
    ) -> Embeddings:
        """The texts' outputs together, dense cut to `dimensions`.

        normalize: whether dense vectors have length 1; None as the model gives them.
        """
        width = check_dimensions(dimensions, self.dimensions)
        if not self.vector():
            return self._embeddings(np.empty((len(outputs), 0), np.float32), outputs, heads)
        dense = np.stack([output.values[name] for output in outputs for name in self.vector(normalize)])
        if dense.shape[1] != self.dimensions:
            raise IntegrityError(f"{self.name}: {dense.shape[1]} dimensions, the manifest says {self.dimensions}")
        unit = self.manifest.model.normalized
        if not (unit if normalize is None else normalize):
            dense = dense[:, :width]
        elif width < self.dimensions or not unit:
            dense = cut(dense, width)
        return self._embeddings(dense, outputs, heads)

    def _embeddings(self, dense: np.ndarray, outputs: Sequence[Output], heads: Sequence[str]) -> Embeddings:
        return Embeddings(
            dense,
            [output.sparse for output in outputs] if "sparse" in heads else None,
            [output.values["colbert"] for output in outputs] if "colbert" in heads else None,
            [output.tokens for output in outputs],
            [output.truncated for output in outputs],
        )

    def vector(self, normalize: bool | None = None) -> tuple[str, ...]:
        """The head whose values `embeddings` wants for a text's one vector; none where the model has none."""
        if "dense" not in self.manifest.model.heads:
            return ()
        return ("pooled" if normalize is False and self.manifest.model.normalized else "dense",)

    def ranking(self, outputs: Sequence[Output], top_n: int | None = None) -> list[Ranked]:
        """The documents' outputs, best first."""
        logits = np.array([output.values["score"] for output in outputs])
        scores = probability(logits)
        order = np.argsort(-logits, kind="stable")[:top_n].tolist()
        facts = [(float(scores[row]), float(logits[row]), outputs[row].tokens, outputs[row].truncated) for row in order]
        return [Ranked(row, *fact) for row, fact in zip(order, facts, strict=True)]
