"""Model: texts to vectors through a sealed artifact, whichever runtime it was made for."""

from collections.abc import Sequence

import numpy as np

from shim import late
from shim.artifact import Manifest
from shim.batches import batches
from shim.checks import check_text, check_texts
from shim.contents import completed
from shim.errors import IntegrityError, NotFiniteError, UsageError
from shim.jsons import JsonObject
from shim.pooling import OUTPUTS, PER_TOKEN, PROJECTED, check_dimensions, cut, lexical, pool, probability
from shim.prefixes import Prefixes
from shim.prompts import adapter_of, prompt_of
from shim.results import Embeddings, Output, Ranked
from shim.runtimes import Runtime
from shim.text import Encoded, TextEncoder, adapted


class Model:
    """A loaded artifact. One thread at a time: the thread that called `load`.

    A server splits that: `encoder` belongs to a thread of its own, `compute` to the one that called `load`, the rest to any.
    """

    def __init__(self, manifest: Manifest, encoder: TextEncoder, runtime: Runtime):
        self.manifest, self.encoder, self.runtime = manifest, encoder, runtime
        self._prefixes = Prefixes(runtime, encoder)
        self.repository: str | None = None  # of the hub, that it is from, and the commit
        self.revision: str | None = None
        self.name, self.task = manifest.name, manifest.task
        self.dimensions, self.max_tokens = manifest.model.dimensions, manifest.model.max_tokens
        self._unused = encoder.unused() if "sparse" in manifest.model.heads else frozenset[int]()

    def embed(
        self,
        texts: Sequence[str],
        task: str | None = None,
        instruction: str | None = None,
        dimensions: int | None = None,
        heads: Sequence[str] = ("dense",),
        late_chunking: bool = False,
        prompt_name: str | None = None,
    ) -> Embeddings:
        """Vectors of the texts.

        task: the prompt to put before each text (`retrieval.query`, `retrieval.passage`, …), none where the model has none; and
        the adapter, of a model that has one for each task.
        instruction: in place of the task's own, for a model that takes instructions.
        prompt_name: the prompt by its name in the checkpoint, as in sentence-transformers; without any of the three, the
        checkpoint's default prompt, if it has one.
        dimensions: cut the dense vectors to this many, and normalise again where the model's are.
        heads: what to give beside `dense`, which there always is: `sparse`, `colbert`; all come from one pass.
        late_chunking: the texts are consecutive chunks of one document, which is embedded whole; see `shim.late`.
        Raises UsageError for texts or settings that cannot be meant, NotFiniteError for NaN or infinity in an output.
        """
        self.check_embed(heads, late_chunking)
        check_dimensions(dimensions, self.dimensions)
        prompt, adapter = self.prompt(task, instruction, prompt_name), self.adapter(task, prompt_name)
        if late_chunking:
            found = completed(late.document(self.encoder, check_texts(texts), prompt))
            outputs = self.compute_all(adapted(found.windows, adapter), ("chunks",))
            return self.embeddings(late.chunks_of(found, outputs, self.manifest.model.normalized), heads, dimensions)
        encoded = adapted(self.encoder.encode(check_texts(texts), prompt), adapter)
        return self.embeddings(self.compute_all(encoded, ("dense", *heads)), heads, dimensions)

    def rerank(
        self, query: str, documents: Sequence[str], top_n: int | None = None, instruction: str | None = None
    ) -> list[Ranked]:
        """The documents by relevance to the query, best first; all of them, or the `top_n` best. An empty document is one, too.

        instruction: what relevance means, for a model that takes instructions.
        Raises UsageError for texts or settings that cannot be meant, NotFiniteError for NaN or infinity in a score.
        """
        self.check_rerank(top_n)
        check_text(query, "query")
        documents = check_texts(documents, "document", empty=True)
        encoded = self.encoder.pairs(query, documents, self.manifest.model.prompts, instruction)
        return self.ranking(self.compute_all(encoded, ("score",)), top_n)

    def prompt(self, task: str | None = None, instruction: str | None = None, name: str | None = None) -> str:
        """What goes before a text, see `prompt_of`."""
        given = instruction and self.encoder.plain(instruction)
        return prompt_of(self.manifest.model, task, given, name)

    def adapter(self, task: str | None = None, name: str | None = None) -> int:
        """The number of the adapter that a text goes through, see `adapter_of`."""
        return adapter_of(self.manifest.model, task, name)

    def check_embed(self, heads: Sequence[str] = ("dense",), late_chunking: bool = False, others: Sequence[str] = ()) -> None:
        """Raise UsageError for a reranker, for heads that the model has not, and for late chunking that it does not.

        others: the names of models here that do late chunking.
        """
        if self.task != "embed":
            raise UsageError(f"{self.name} is a reranker and cannot embed; give an embedding model")
        if isinstance(heads, str) or not heads or not set(heads) <= set(self.manifest.model.heads):
            raise UsageError(f"heads {heads!r}: {self.name} has {', '.join(self.manifest.model.heads)}", "heads")
        if late_chunking and (why := late.fault(self.manifest.model)):
            who = f"here {' and '.join(others)} can" if others else late.OTHERS
            raise UsageError(f"{self.name} does no late chunking: {why}; {who}", "late_chunking")
        if late_chunking and tuple(heads) != ("dense",):
            raise UsageError("late chunking gives dense vectors; leave out the other heads", "heads")

    def check_rerank(self, top_n: int | None = None) -> None:
        """Raise UsageError for a model that cannot rerank, and for a `top_n` that is no count."""
        if self.task != "rerank":
            raise UsageError(f"{self.name} embeds texts and cannot rerank; give a reranker")
        if top_n is not None and (isinstance(top_n, bool) or not isinstance(top_n, int) or top_n < 1):
            raise UsageError(f"top_n must be a whole number over 0, not {top_n!r}", "top_n")

    def compute(self, encoded: Sequence[Encoded], heads: Sequence[str]) -> list[Output]:
        """The outputs of one batch, in order. An output that is not finite is marked, not raised: the others are good."""
        arrays = self._prefixes.run(encoded, tuple(dict.fromkeys(map(self._named, heads))))
        return [self._output(item, row, arrays, heads) for row, item in enumerate(encoded)]

    def _named(self, head: str) -> str:
        """The runtime's output that a head is made from."""
        if head != "pooled" or not self.manifest.model.projected:
            return OUTPUTS[head]
        return PROJECTED if self.manifest.model.normalized else OUTPUTS["dense"]

    def _output(self, item: Encoded, row: int, arrays: dict[str, np.ndarray], heads: Sequence[str]) -> Output:
        values: dict[str, np.ndarray] = {}
        broken = None
        for head in dict.fromkeys(heads):
            value = arrays[self._named(head)][row]
            if head == "chunks":
                value = late.sums(item, value)
            elif head in PER_TOKEN:
                value = value[: len(item.ids)]  # without padding
            elif head == "pooled" and not self.manifest.model.projected:
                value = pool(value[: len(item.ids)], self.manifest.model.pooling)
            if not np.isfinite(value).all():
                broken = head
            values[head] = value[1:] if head == "colbert" else value
        sparse = lexical(item.ids, values["sparse"], self._unused) if "sparse" in values else {}
        return Output(len(item.ids), item.truncated, values, broken, sparse)

    def compute_all(self, encoded: Sequence[Encoded], heads: Sequence[str]) -> list[Output]:
        """The outputs of all, in order, batch by batch. Raises NotFiniteError for NaN or infinity in one."""
        found: dict[int, Output] = {}
        for rows in batches(encoded):
            found.update(zip(rows, self.compute([encoded[row] for row in rows], heads), strict=True))
        outputs = [found[row] for row in range(len(encoded))]
        broken = [row for row, output in enumerate(outputs) if output.broken]
        if broken:
            where = f"the {outputs[broken[0]].broken} output of text {broken[0]} ({len(broken)} in all)"
            raise NotFiniteError(f"{self.name}: NaN or infinity in {where}")
        return outputs

    def embeddings(
        self, outputs: Sequence[Output], heads: Sequence[str], dimensions: int | None = None, normalize: bool | None = None
    ) -> Embeddings:
        """The texts' outputs together, dense cut to `dimensions`.

        normalize: whether dense vectors have length 1; None as the model gives them.
        """
        width = check_dimensions(dimensions, self.dimensions)
        dense = np.stack([output.values[self.vector(normalize)] for output in outputs])
        if dense.shape[1] != self.dimensions:
            raise IntegrityError(f"{self.name}: {dense.shape[1]} dimensions, the manifest says {self.dimensions}")
        unit = self.manifest.model.normalized
        if not (unit if normalize is None else normalize):
            dense = dense[:, :width]
        elif width < self.dimensions or not unit:
            dense = cut(dense, width)
        return Embeddings(
            dense,
            [output.sparse for output in outputs] if "sparse" in heads else None,
            [output.values["colbert"] for output in outputs] if "colbert" in heads else None,
            [output.tokens for output in outputs],
            [output.truncated for output in outputs],
        )

    def vector(self, normalize: bool | None) -> str:
        """The head whose values `embeddings` wants."""
        return "pooled" if normalize is False and self.manifest.model.normalized else "dense"

    def ranking(self, outputs: Sequence[Output], top_n: int | None = None) -> list[Ranked]:
        """The documents' outputs, best first."""
        logits = np.array([output.values["score"] for output in outputs])
        scores = probability(logits)
        order = np.argsort(-logits, kind="stable")[:top_n].tolist()
        facts = [(float(scores[row]), float(logits[row]), outputs[row].tokens, outputs[row].truncated) for row in order]
        return [Ranked(row, *fact) for row, fact in zip(order, facts, strict=True)]

    def info(self) -> JsonObject:
        """What a client may want to know of the model, as JSON values."""
        loaded: JsonObject = {"repository": self.repository, "revision": self.revision}
        return facts(self.manifest) | loaded | {"runtime": self.runtime.name, "device": self.runtime.device}


def facts(manifest: Manifest) -> JsonObject:
    """What of `Model.info` the manifest alone says."""
    spec, embeds = manifest.model, manifest.task == "embed"
    return {
        "name": manifest.name,
        "task": manifest.task,
        "dimensions": spec.dimensions,
        "max_tokens": spec.max_tokens,
        "heads": spec.heads,
        "similarity": spec.similarity if embeds else None,
        "normalized": spec.normalized if embeds else None,
        "activation": None if embeds else spec.activation,
        "prompts": spec.prompt_names,
        "default_prompt": spec.default_prompt or None,
        "adapters": spec.adapters or [],
        "target": manifest.target,
        "bits": manifest.bits,
        "verdict": manifest.verdict,
        "texts": manifest.parity.texts or 0,
        "parity": manifest.parity.worst,
        "license": manifest.license,
    }
