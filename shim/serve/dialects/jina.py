"""What Jina's `POST /v1/embeddings` has beyond OpenAI's: tasks, instructions, and vectors as small integers.

Source: the public API reference, https://api.jina.ai/docs.
"""

import base64
from typing import Literal

import numpy as np
from pydantic import BaseModel, Field, StrictStr

from shim.errors import UsageError
from shim.pooling import int8
from shim.prompts import TEMPLATE, knows_prompt
from shim.serve.dialects.lenient import Flag
from shim.serve.options import Options
from shim.spec import ModelSpec

EmbeddingType = Literal["float", "base64", "int8", "uint8", "binary", "ubinary"]


# The tasks of what others call input_type: Cohere, Voyage, NVIDIA.
INPUT_TYPES = {"search_query": "retrieval.query", "search_document": "retrieval.passage", "query": "retrieval.query",
               "document": "retrieval.passage", "passage": "retrieval.passage", "classification": "classification",
               "clustering": "clustering"}  # fmt: skip


def task_of(input_type: str | None) -> str | None:
    """The task of an `input_type`. Raises UsageError for one that is none."""
    if input_type is not None and input_type not in INPUT_TYPES:
        raise UsageError(f"input_type {input_type!r:.100} unknown ({', '.join(INPUT_TYPES)})", "input_type")
    return INPUT_TYPES[input_type] if input_type is not None else None


class JinaFields(BaseModel):
    """Fields of a request that OpenAI's has not, bge-m3's heads among them."""

    task: StrictStr | None = Field(None, description="The prompt to put before each text, such as retrieval.query.")
    input_type: StrictStr | None = Field(None, description="Cohere's, Voyage's and NVIDIA's word for the task.")
    prompt_name: StrictStr | None = Field(
        None, description="A prompt by its name, as in sentence-transformers; any other text is an instruction."
    )
    instruction: StrictStr | None = Field(None, description="In place of the task's own, for a model that takes instructions.")
    normalized: Flag | None = Field(None, description="Whether vectors have length 1; else as the model gives them.")
    embedding_type: EmbeddingType | None = Field(
        None,
        description="int8 and uint8: each vector times 127 over its greatest absolute value, uint8 with 128 added; compare by "
        "cosine. binary and ubinary: a bit a dimension, set where it is over 0; binary is ubinary less 128.",
    )
    truncate: Flag | None = Field(None, description="False refuses a text over the model's tokens instead of cutting it.")
    late_chunking: Flag | None = Field(
        None, description="The texts are consecutive chunks of one document, which is embedded whole."
    )
    return_multivector: Flag | None = Field(None, description="The same as `colbert` among the heads.")
    heads: list[Literal["dense", "sparse", "colbert"]] | None = Field(
        None, fail_fast=True, description="What a vector is given with."
    )

    def options(self, dimensions: int | None, spec: ModelSpec) -> Options:
        """What the fields ask of a model. Raises UsageError for two instructions."""
        if self.instruction is not None and self.prompt_name is not None:
            raise UsageError("prompt_name and instruction both say what goes before a text; give one")
        task = task_of(self.input_type) or self.task
        if self.task not in (None, task):
            raise UsageError(f"task {self.task!r:.100} and input_type {self.input_type!r:.100} differ; give one", "input_type")
        named = self.prompt_name is not None and (TEMPLATE not in spec.prompts or knows_prompt(spec, self.prompt_name))
        heads = [*(self.heads or ())] + (["colbert"] if self.return_multivector else [])
        if not heads or "dense" in spec.heads:
            heads = ["dense", *heads]
        return Options(
            task=task,
            prompt_name=self.prompt_name if named else None,
            instruction=self.prompt_name if self.instruction is None and not named else self.instruction,
            dimensions=dimensions,
            heads=tuple(dict.fromkeys(heads)),
            normalize=self.normalized,
            truncate=self.truncate is not False,
            late_chunking=bool(self.late_chunking),
        )


def pack(vector: np.ndarray, kind: str) -> np.ndarray | str:
    """A vector (d,) float32 as an EmbeddingType; `float` stays a numpy row, which the JSON encoder writes itself."""
    if kind == "float":
        return vector
    if kind == "base64":
        return base64.b64encode(np.ascontiguousarray(vector, "<f4").tobytes()).decode()
    if kind in ("int8", "uint8"):
        small = int8(vector)
        return small if kind == "int8" else (small.astype(np.int16) + 128).astype(np.uint8)
    bits = np.packbits(vector > 0)
    return bits if kind == "ubinary" else (bits.astype(np.int16) - 128).astype(np.int8)
