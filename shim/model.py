"""Model: texts to vectors through a sealed artifact, whichever runtime it was made for."""

from collections.abc import Callable, Coroutine, Iterable, Sequence
from functools import wraps
from typing import Concatenate, ParamSpec, Self, TypeVar

from shim import late
from shim.artifact import Manifest
from shim.checks import check_text, check_texts
from shim.contents import completed
from shim.encoding import encoding
from shim.jsons import JsonObject
from shim.prompts import adapter_of, prompt_of
from shim.results import Embeddings, Ranked
from shim.runtimes import Runtime
from shim.sentences import Sentences
from shim.text import TextEncoder, adapted

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")
Owner = TypeVar("Owner")
Method = Callable[Concatenate[Owner, Arguments], Result]
AsyncMethod = Callable[Concatenate[Owner, Arguments], Coroutine[object, object, Result]]


def in_thread(method: Method[Owner, Arguments, Result]) -> AsyncMethod[Owner, Arguments, Result]:
    """The method for an event loop, which goes on meanwhile."""

    @wraps(method)
    async def asynchronous(self: Owner, *args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        import asyncio  # with it comes ssl, which nothing here needs that is not asked for by an event loop

        return await asyncio.to_thread(method, self, *args, **kwargs)

    asynchronous.__name__ = f"a{method.__name__}"
    asynchronous.__qualname__ = f"{method.__qualname__.rpartition('.')[0]}.{asynchronous.__name__}"
    return asynchronous


class Model(Sentences):
    """A loaded artifact. Several threads may embed and rerank: they take turns where its tokenizer and its runtime need it.

    `with shim.load(...) as model` gives its memory back at the end; so does `close`.
    """

    def __init__(self, manifest: Manifest, encoder: TextEncoder, runtime: Runtime):
        super().__init__(manifest, encoder, runtime)
        self.repository: str | None = None  # of the hub, that it is from, and the commit
        self.revision: str | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        does = f"{self.dimensions} dimensions" if self.task == "embed" else "reranker"
        worst = min(self.manifest.parity.worst.values(), default=None)
        verdict = self.manifest.verdict + ("" if worst is None else f" {worst:.5f}")
        where = f"{self.runtime.name} on {self.runtime.device}"
        return f"<shim.Model {self.name}: {does}, {self.max_tokens} tokens, {verdict}, {where}>"

    def embed(
        self,
        texts: Iterable[str],
        task: str | None = None,
        instruction: str | None = None,
        dimensions: int | None = None,
        heads: Sequence[str] | None = None,
        prompt_name: str | None = None,
        batch_size: int | None = None,
        progress: bool = False,
    ) -> Embeddings:
        """Vectors of the texts: a list, an array, a column of a table, a generator.

        task: the prompt to put before each text (`retrieval.query`, `retrieval.passage`, …), none where the model has none;
        the adapter, of a model that has one for each task; and for ColBERT whether a text is a query, else it is a document.
        instruction: in place of the task's own, for a model that takes instructions.
        prompt_name: the prompt by its name in the checkpoint, as in sentence-transformers; without any of the three, the
        checkpoint's default prompt, if it has one.
        dimensions: cut the dense vectors to this many, and normalise again where the model's are.
        heads: what to give, `sparse`, `colbert`; all come from one pass. `dense` is there always where the model has it, and
        for None; of a model without it, None is all that the model has.
        batch_size: at most so many texts at once; None as many as are computed well together.
        progress: show on stderr how far it is.
        Raises UsageError for texts or settings that cannot be meant, NotFiniteError for NaN or infinity in an output.
        """
        heads = self.heads if heads is None else heads
        self.check_embed(heads, dimensions=dimensions)
        encode = encoding(self.encoder, self.manifest.model, self.prompt(task, instruction, prompt_name), task, prompt_name)
        checked = check_texts(texts)
        with self.lock:
            encoded = completed(encode(checked))
        return self.embeddings(self.compute_all(encoded, (*self.vector(), *heads), batch_size, progress), heads, dimensions)

    def rerank(
        self,
        query: str,
        documents: Iterable[str],
        top_n: int | None = None,
        instruction: str | None = None,
        batch_size: int | None = None,
        progress: bool = False,
    ) -> list[Ranked]:
        """The documents by relevance to the query, best first; all of them, or the `top_n` best. An empty document is one, too.

        instruction: what relevance means, for a model that takes instructions. batch_size, progress: see `embed`.
        Raises UsageError for texts or settings that cannot be meant, NotFiniteError for NaN or infinity in a score.
        """
        self.check_rerank(top_n)
        query = check_text(query, "query")
        checked = check_texts(documents, "document", empty=True)
        with self.lock:
            encoded = self.encoder.pairs(query, checked, self.manifest.model.prompts, instruction)
        return self.ranking(self.compute_all(encoded, ("score",), batch_size, progress), top_n)

    aembed = in_thread(embed)
    arerank = in_thread(rerank)

    def prompt(self, task: str | None = None, instruction: str | None = None, name: str | None = None) -> str:
        """What goes before a text, see `prompt_of`."""
        given = instruction and self.encoder.plain(instruction)
        return prompt_of(self.manifest.model, task, given, name)

    def adapter(self, task: str | None = None, name: str | None = None) -> int:
        """The number of the adapter that a text goes through, see `adapter_of`."""
        return adapter_of(self.manifest.model, task, name)

    def info(self) -> JsonObject:
        """What a client may want to know of the model, as JSON values."""
        loaded: JsonObject = {"repository": self.repository, "revision": self.revision}
        return facts(self.manifest) | loaded | {"runtime": self.runtime.name, "device": self.runtime.device}


class LateChunking(Model):
    """A model whose tokens can be embedded whole and pooled chunk by chunk afterwards."""

    def embed(
        self,
        texts: Iterable[str],
        task: str | None = None,
        instruction: str | None = None,
        dimensions: int | None = None,
        heads: Sequence[str] | None = None,
        prompt_name: str | None = None,
        batch_size: int | None = None,
        progress: bool = False,
        late_chunking: bool = False,
    ) -> Embeddings:
        """See Model.embed.

        late_chunking: the texts are consecutive chunks of one document, which is embedded whole; see `shim.late`.
        """
        if not late_chunking:
            return super().embed(texts, task, instruction, dimensions, heads, prompt_name, batch_size, progress)
        heads = self.heads if heads is None else heads
        self.check_embed(heads, late_chunking, dimensions=dimensions)
        prompt, adapter = self.prompt(task, instruction, prompt_name), self.adapter(task, prompt_name)
        with self.lock:
            found = completed(late.document(self.encoder, check_texts(texts), prompt))
        outputs = self.compute_all(adapted(found.windows, adapter), ("chunks",), batch_size, progress)
        return self.embeddings(late.chunks_of(found, outputs, self.manifest.model.normalized), heads, dimensions)

    aembed = in_thread(embed)  # type: ignore[arg-type]  # its own first argument is narrower


def model_of(manifest: Manifest, encoder: TextEncoder, runtime: Runtime) -> Model:
    """The model, with `late_chunking` where it can do that."""
    able = manifest.task == "embed" and late.fault(manifest.model) is None
    return (LateChunking if able else Model)(manifest, encoder, runtime)


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
