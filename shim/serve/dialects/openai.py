"""The OpenAI dialect of `POST /v1/embeddings` and its errors.

Source: the public API reference, https://platform.openai.com/docs/api-reference/embeddings.
"""

import base64
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, StrictInt, StrictStr

from shim.errors import UsageError
from shim.model import Embeddings


class EmbeddingsRequest(BaseModel):
    """Body of `POST /v1/embeddings`. Unknown fields are ignored."""

    model_config = ConfigDict(extra="ignore", json_schema_extra={"example": {"model": "all-minilm-l6-v2", "input": ["Hello"]}})

    model: StrictStr = Field(description="Name of a served artifact, or of its recipe.")
    input: Annotated[Any, Field(description="A string, or a list of strings.", json_schema_extra={"anyOf": [
        {"type": "string", "minLength": 1},
        {"type": "array", "minItems": 1, "items": {"type": "string", "minLength": 1}},
    ]})]  # fmt: skip
    dimensions: StrictInt | None = Field(None, ge=1, description="Cut the vectors to this many dimensions.")
    encoding_format: Literal["float", "base64"] | None = None
    task: StrictStr | None = Field(None, description="The prompt to put before each text, such as retrieval.query.")

    def texts(self) -> list[str]:
        """The input as a list. Raises UsageError for token ids, which another tokenizer made."""
        values = [self.input] if isinstance(self.input, str) else self.input
        if isinstance(values, list) and values and not isinstance(values[0], bool) and isinstance(values[0], int | list):
            raise UsageError("input holds token ids; send strings (LangChain: check_embedding_ctx_length=False)")
        return values


class Embedding(BaseModel):
    """One vector: numbers, or base64 of little-endian float32."""

    object: Literal["embedding"] = "embedding"
    index: int
    embedding: list[float] | str
    truncated: bool = Field(description="Whether the text was cut to the model's limit.")


class Usage(BaseModel):
    """Tokens of the request, prompts and special tokens included."""

    prompt_tokens: int
    total_tokens: int


class EmbeddingsResponse(BaseModel):
    """Answer of `POST /v1/embeddings`."""

    object: Literal["list"] = "list"
    model: str
    data: list[Embedding]
    usage: Usage


class ErrorDetail(BaseModel):
    """What went wrong, and in which parameter."""

    message: str
    type: str
    param: str | None = None
    code: str | None = None


class Error(BaseModel):
    """Every answer that is not a success."""

    error: ErrorDetail


def response(model: str, out: Embeddings, encoding_format: str | None) -> dict[str, Any]:
    """An EmbeddingsResponse as plain values; vectors stay numpy rows for `float`, which the JSON encoder writes itself."""
    rows: list[Any] = list(out.dense)
    if encoding_format == "base64":
        rows = [base64.b64encode(np.ascontiguousarray(row, "<f4").tobytes()).decode() for row in out.dense]
    data = [
        {"object": "embedding", "index": index, "embedding": row, "truncated": out.truncated[index]}
        for index, row in enumerate(rows)
    ]
    total = sum(out.tokens)
    return {"object": "list", "model": model, "data": data, "usage": {"prompt_tokens": total, "total_tokens": total}}


def error(
    message: str, kind: str = "invalid_request_error", param: str | None = None, code: str | None = None
) -> dict[str, Any]:
    """An Error as plain values."""
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}
