"""What the requests and answers of text-embeddings-inference look like; the source is named in tei.py."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, RootModel, StrictBool, StrictInt, StrictStr

from shim.serve.dialects.lists import FIRST

TEXTS = {"anyOf": [
    {"type": "string", "minLength": 1},
    {"type": "array", "minItems": 1, "items": {"type": "string", "minLength": 1}},
]}  # fmt: skip


class Truncation(BaseModel):
    """Fields that every request has; unknown ones are ignored."""

    model_config = ConfigDict(extra="ignore")

    model: StrictStr | None = Field(None, description="Name of a served artifact; else the first of its kind.")
    truncate: StrictBool | None = Field(None, description="False refuses a text over the model's tokens instead of cutting it.")
    truncation_direction: Literal["Left", "Right", "left", "right"] | None = None

    @property
    def side(self) -> str:
        return (self.truncation_direction or "right").lower()


class Prompted(Truncation):
    """A request of texts, behind the prompt of a name."""

    inputs: Annotated[object, FIRST, Field(description="A string, or a list of strings.", json_schema_extra=TEXTS)]
    prompt_name: StrictStr | None = Field(
        None, description="A prompt of the checkpoint; query, passage, document; or a task such as retrieval.query."
    )


class EmbedRequest(Prompted):
    """Body of `POST /embed`."""

    model_config = ConfigDict(extra="ignore", json_schema_extra={"example": {"inputs": ["Hello"]}})

    normalize: StrictBool | None = Field(None, description="Whether vectors have length 1; else as the model gives them.")
    dimensions: StrictInt | None = Field(None, ge=1, description="Cut the vectors to this many dimensions.")


class TextsRequest(Prompted):
    """Body of `POST /embed_all` and `/embed_sparse`."""

    model_config = ConfigDict(extra="ignore", json_schema_extra={"example": {"inputs": ["Hello"]}})


class SimilarityInput(BaseModel):
    """One sentence, and those to compare it with."""

    source_sentence: StrictStr = Field(min_length=1)
    sentences: Annotated[list[Annotated[StrictStr, Field(min_length=1)]], FIRST] = Field(min_length=1, fail_fast=True)


class SimilarityParameters(Truncation):
    """How the sentences are embedded."""

    prompt_name: StrictStr | None = None


class SimilarityRequest(Truncation):
    """Body of `POST /similarity`. What `parameters` say goes before what stands beside them."""

    model_config = ConfigDict(
        extra="ignore",
        json_schema_extra={"example": {"inputs": {"source_sentence": "Hello", "sentences": ["Hi", "Soup"]}}},
    )
    inputs: SimilarityInput
    parameters: SimilarityParameters | None = None

    def settled(self) -> SimilarityParameters:
        """How to embed."""
        beside = self.model_dump(exclude_none=True, exclude={"inputs", "parameters"})
        given = self.parameters.model_dump(exclude_none=True) if self.parameters else {}
        return SimilarityParameters.model_validate(beside | given)


class TokenizeRequest(BaseModel):
    """Body of `POST /tokenize`."""

    model_config = ConfigDict(extra="ignore", json_schema_extra={"example": {"inputs": ["Hello"]}})

    model: StrictStr | None = Field(None, description="Name of a served artifact; else the first embedder, or the first.")
    inputs: Annotated[object, FIRST, Field(description="A string, or a list of strings.", json_schema_extra=TEXTS)]
    add_special_tokens: StrictBool | None = None
    prompt_name: StrictStr | None = None


class SparseValue(BaseModel):
    """A token's weight."""

    index: int
    value: float


class SimpleToken(BaseModel):
    """A token and where it lies in its text, in characters."""

    id: int
    text: str
    special: bool
    start: int | None
    stop: int | None


class Vectors(RootModel[list[list[float]]]):
    """A vector for each text."""


class TokenVectors(RootModel[list[list[list[float]]]]):
    """A vector for each token of each text."""


class SparseVectors(RootModel[list[list[SparseValue]]]):
    """The weighted tokens of each text."""


class Similarities(RootModel[list[float]]):
    """The cosine of each sentence with the source sentence."""


class Tokenized(RootModel[list[list[SimpleToken]]]):
    """The tokens of each text."""


class Info(BaseModel):
    """Answer of `GET /info`, of the first model."""

    model_id: str
    model_sha: str | None
    model_dtype: str
    model_type: dict[str, object]
    max_concurrent_requests: int
    max_input_length: int
    max_batch_tokens: int
    max_batch_requests: int | None
    max_client_batch_size: int
    auto_truncate: bool
    tokenization_workers: int
    version: str


class Error(BaseModel):
    """Every answer that is not a success."""

    error: str
    error_type: Literal["Unhealthy", "Backend", "Overloaded", "Validation", "Tokenizer", "Empty"]
