"""Texts to Arrow columns through an artifact; what people's own pipelines on Ray, Spark and Daft call, too."""

import os
import random
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from shim import seal
from shim.checks import check_text
from shim.contents import completed
from shim.encoding import encoding
from shim.errors import UsageError
from shim.jsons import JsonObject
from shim.loading import load
from shim.model import Model
from shim.pooling import check_dimensions, int8
from shim.prompts import is_query
from shim.results import Embeddings, Output
from shim.runtimes.cores import only, own

if TYPE_CHECKING:
    from shim.bulk.request import Request

TYPES = {"float32": pa.float32(), "float16": pa.float16(), "int8": pa.int8(), "ubinary": pa.uint8()}
# Characters that are in memory as tokens and vectors at once. A token of colbert is a vector of its own.
WINDOW, WINDOW_OF_COLBERT = 2_000_000, 100_000


class Embedder:
    """An artifact that gives Arrow columns: a callable class for `map_batches` and its like, loaded once where it is made.

    artifact: as `shim.load` takes it; so are further keywords (`runtime`, `device`, `precision`, `min_parity`, …).
    text: the column of a batch that holds the texts. task, instruction, prompt_name, dimensions, heads: as `Model.embed` has
    them. embedding_type: of dense vectors, `float32`, `float16`, `int8` (see `pooling.int8`) or `ubinary`, a bit a dimension,
    packed, set where it is over 0.
    cores: what a CPU's threads are on. None: where OMP_NUM_THREADS is set, as Ray and Spark do, so many, else all.
    Raises what `shim.load` raises, and UsageError for settings that the model cannot have.
    """

    def __init__(
        self,
        artifact: str,
        text: str = "text",
        *,
        task: str | None = None,
        instruction: str | None = None,
        prompt_name: str | None = None,
        dimensions: int | None = None,
        heads: Sequence[str] | None = None,
        embedding_type: str = "float32",
        cores: Collection[int] | None = None,
        **loading: "str | bool | float | None",
    ):
        if embedding_type not in TYPES:
            raise UsageError(f"embedding_type {embedding_type!r:.50} unknown ({', '.join(TYPES)})")
        cores = _asked_for() if cores is None else cores
        os.environ["RAYON_NUM_THREADS"] = str(len(cores))  # of the tokenizer, read when its first text comes
        with only(cores):
            self.model: Model = load(artifact, **loading)  # type: ignore[arg-type]  # whose keywords these are
        heads = self.model.heads if heads is None else heads
        self.model.check_embed(heads, dimensions=dimensions)
        self.text, self.heads, self.kind = text, tuple(dict.fromkeys((*self.model.vector(), *heads))), embedding_type
        self.dimensions = check_dimensions(dimensions, self.model.dimensions)
        if embedding_type != "float32" and "dense" not in self.heads:
            raise UsageError(f"embedding_type {embedding_type} is of dense vectors, and {self.model.name} has none")
        if embedding_type == "ubinary" and self.dimensions % 8:
            raise UsageError(f"embedding_type ubinary packs 8 dimensions to a byte; {self.dimensions} are no multiple of 8")
        self.prompt = self.model.prompt(task, instruction, prompt_name)
        self.adapter = self.model.adapter(task, prompt_name)
        self.query = is_query(task, prompt_name)
        self.encode = encoding(self.model.encoder, self.model.manifest.model, self.prompt, task, prompt_name)
        completed(self.encode(["a"]))  # a prompt that leaves no room is found before the first text

    @classmethod
    def of(cls, request: "Request", cores: Collection[int] | None = None) -> "Embedder":
        """The embedder that a run asks for."""
        return cls(request.artifact, cores=cores, **request.settings, **request.loading)  # type: ignore[arg-type]  # options by name

    @property
    def identity(self) -> JsonObject:
        """What the vectors depend on, as JSON values: vectors of two identities do not belong into one index."""
        manifest = self.model.manifest
        content: JsonObject = {name: entry["sha256"] for name, entry in manifest.files.items()}
        model = manifest.as_json()["model"]
        return {
            "artifact": manifest.name,
            "sha256": seal.sealed({"files": content, "model": model, "runtime": self.model.runtime.name})[seal.KEY],
            "prompt": self.prompt,
            "adapter": self.adapter,
            "dimensions": self.dimensions,
            "heads": list(self.heads),
            "embedding_type": self.kind,
            **({} if manifest.model.colbert is None else {"query": self.query}),  # its two sides differ beyond the prompt
        }

    @property
    def schema(self) -> pa.Schema:
        """The columns that `table` gives.

        embedding: a list of fixed size. sparse_indices, sparse_values: token ids and weights. colbert: a vector a token.
        tokens: prompt and special tokens included, after truncation. truncated: whether the text was cut.
        rejected: why a text has no vector; its other columns are null then.
        """
        width = self.dimensions // 8 if self.kind == "ubinary" else self.dimensions
        fields = [("embedding", pa.list_(TYPES[self.kind], width))] if "dense" in self.heads else []
        if "sparse" in self.heads:
            fields += [("sparse_indices", pa.list_(pa.uint32())), ("sparse_values", pa.list_(pa.float32()))]
        if "colbert" in self.heads:
            fields.append(("colbert", pa.list_(pa.list_(pa.float32(), self.model.dimensions))))
        return pa.schema([*fields, ("tokens", pa.int32()), ("truncated", pa.bool_()), ("rejected", pa.string())])

    def __call__(self, batch: "pa.Table | Mapping[str, np.ndarray]") -> pa.Table:
        """The batch with the columns of `schema` added, in the order of its rows."""
        table = batch if isinstance(batch, pa.Table) else pa.table(dict(batch))
        if self.text not in table.column_names:
            raise UsageError(f"the batch has no column {self.text!r} ({', '.join(table.column_names)})")
        for name, column in zip(self.schema.names, self.table(table[self.text].to_pylist()).columns, strict=True):
            table = table.append_column(name, column)
        return table

    def table(self, texts: Sequence[object]) -> pa.Table:
        """The columns of `schema` for each text. What is no text that can be embedded is `rejected`, and no error."""
        parts = [self._columns(texts[window]) for window in self.windows(texts)]
        return pa.concat_tables(parts) if parts else self.schema.empty_table()

    def windows(self, texts: Sequence[object]) -> Iterator[slice]:
        """The texts in runs of so many that their tokens and vectors fit into memory; within one they are sorted by length."""
        limit = WINDOW_OF_COLBERT if "colbert" in self.heads else WINDOW
        start = size = 0
        for row, text in enumerate(texts):
            length = len(text) if isinstance(text, str) else 0
            if size + length > limit and row > start:
                yield slice(start, row)
                start, size = row, 0
            size += length
        if start < len(texts):
            yield slice(start, len(texts))

    def _columns(self, texts: Sequence[object]) -> pa.Table:
        faults: list[str | None] = [_fault(text) for text in texts]
        good = [row for row, fault in enumerate(faults) if fault is None]
        encoded = completed(self.encode([str(texts[row]) for row in good]))
        outputs: dict[int, Output] = {}
        for row, output in zip(good, self.model.outputs(encoded, self.heads), strict=True):
            if output.broken:
                faults[row] = f"NaN or infinity in its {output.broken} output"
            else:
                outputs[row] = output
        if not outputs:
            nulls = [pa.nulls(len(texts), field.type) for field in self.schema][:-1]
            return pa.table([*nulls, pa.array(faults, pa.string())], self.schema)
        found = self.model.embeddings(list(outputs.values()), self.heads, self.dimensions)
        places = {row: place for place, row in enumerate(outputs)}
        index = pa.array([places.get(row) for row in range(len(texts))], pa.int64())
        columns = [column.take(index) for column in self._arrays(found)]
        return pa.table([*columns, pa.array(faults, pa.string())], self.schema)

    def _arrays(self, found: Embeddings) -> Iterator[pa.Array]:
        if "dense" in self.heads:
            yield self._dense(found.dense)
        if found.sparse is not None:
            yield pa.array([list(weights) for weights in found.sparse], pa.list_(pa.uint32()))
            yield pa.array([list(weights.values()) for weights in found.sparse], pa.list_(pa.float32()))
        if found.colbert is not None:
            ends = np.cumsum([0, *map(len, found.colbert)], dtype=np.int32)
            yield pa.ListArray.from_arrays(pa.array(ends), _fixed(np.concatenate(found.colbert)))
        yield pa.array(found.tokens, pa.int32())
        yield pa.array(found.truncated, pa.bool_())

    def _dense(self, dense: np.ndarray) -> pa.FixedSizeListArray:
        if self.kind == "int8":
            dense = int8(dense)
        elif self.kind == "ubinary":
            dense = np.packbits(dense > 0, axis=1)
        return _fixed(dense.astype("uint8" if self.kind == "ubinary" else self.kind, copy=False))


def _asked_for() -> list[int]:
    """Cores for as many threads as OMP_NUM_THREADS says: any, as other processes here take theirs."""
    cores, count = own(), os.environ.get("OMP_NUM_THREADS", "")
    return sorted(random.sample(cores, int(count))) if count.isdigit() and 0 < int(count) < len(cores) else cores


def _fixed(vectors: np.ndarray) -> pa.FixedSizeListArray:
    return pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), vectors.shape[1])


def _fault(text: object) -> str | None:
    """Why this is no text that can be embedded, else None."""
    if text is None:
        return "there is no text"
    try:
        check_text(text, "the text")
    except UsageError as error:
        return str(error)
    return None
