"""What the requests and answers of text-embeddings-inference look like; the source is named in tei.py."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, RootModel, StrictStr
from pydantic.config import JsonDict

from shim.checks import check_text
from shim.errors import UsageError
from shim.serve.dialects.lenient import Count, Flag
from shim.serve.dialects.lists import FIRST, Ids, Strings, Texts

PAIR: JsonDict = {"type": "array", "minItems": 2, "maxItems": 2, "items": {"type": "string", "minLength": 1}}
PAIRS: JsonDict = {"anyOf": [PAIR, {"type": "array", "minItems": 1, "items": PAIR}]}


class Truncation(BaseModel):
    """Fields that every request has; unknown ones are ignored."""

    model_config = ConfigDict(extra="ignore")

    model: StrictStr | None = Field(None, description="Name of a served artifact; else the first of its kind.")
    truncate: Flag | None = Field(None, description="False refuses a text over the model's tokens instead of cutting it.")
    truncation_direction: Literal["Left", "Right", "left", "right"] | None = None

    @property
    def side(self) -> str:
        return (self.truncation_direction or "right").lower()


class Prompted(Truncation):
    """A request of texts, behind the prompt of a name."""

    inputs: Texts
    prompt_name: StrictStr | None = Field(
        None, description="A prompt of the checkpoint; query, passage, document; or a task such as retrieval.query."
    )


class EmbedRequest(Prompted):
    """Body of `POST /embed`."""

    model_config = ConfigDict(extra="ignore", json_schema_extra={"example": {"inputs": ["Hello"]}})

    normalize: Flag | None = Field(None, description="Whether vectors have length 1; else as the model gives them.")
    dimensions: Count | None = Field(None, ge=1, description="Cut the vectors to this many dimensions.")


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
    inputs: Strings
    add_special_tokens: Flag | None = None
    prompt_name: StrictStr | None = None


class EmbedParameters(Truncation):
    """How texts are embedded."""

    prompt_name: StrictStr | None = None
    normalize: Flag | None = None
    dimensions: Count | None = Field(None, ge=1)


class RootRequest(EmbedRequest):
    """Body of `POST /` for texts. What `parameters` say goes before what stands beside them."""

    parameters: EmbedParameters | None = None

    def settled(self) -> EmbedRequest:
        """The body of `POST /embed`."""
        given = self.parameters.model_dump(exclude_none=True) if self.parameters else {}
        return self.model_copy(update=given)


class PredictRequest(Truncation):
    """Body of `POST /predict`: a pair of texts, or a list of pairs."""

    model_config = ConfigDict(extra="ignore", json_schema_extra={"example": {"inputs": [["When?", "At nine."]]}})

    inputs: Annotated[object, FIRST, Field(json_schema_extra=PAIRS)]
    raw_scores: Flag | None = Field(None, description="Logits in place of probabilities.")

    @property
    def single(self) -> bool:
        """Whether it is one pair, not in a list."""
        return isinstance(self.inputs, list) and bool(self.inputs) and isinstance(self.inputs[0], str)

    def pairs(self) -> list[tuple[str, str]]:
        """The pairs. Raises UsageError for anything else."""
        pairs = [self.inputs] if self.single else self.inputs
        if not isinstance(pairs, list) or not pairs or any(not isinstance(pair, list) or len(pair) != 2 for pair in pairs):
            raise UsageError("a reranker scores pairs of texts; send [query, document], or a list of such pairs", "inputs")
        return [(check_text(query, "query"), check_text(document, "document", empty=True)) for query, document in pairs]


class DecodeRequest(BaseModel):
    """Body of `POST /decode`."""

    model_config = ConfigDict(extra="ignore", json_schema_extra={"example": {"ids": [101, 102]}})

    model: StrictStr | None = Field(None, description="Name of a served artifact; else the first embedder, or the first.")
    ids: Ids
    skip_special_tokens: Flag | None = None


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


class Answered(RootModel[list[list[float]] | list[float]]):
    """Of `POST /`: a vector for each text, or the cosine of each sentence."""


class Tokenized(RootModel[list[list[SimpleToken]]]):
    """The tokens of each text."""


class Prediction(BaseModel):
    """The score of a pair."""

    label: str
    score: float


class Predictions(RootModel[list[Prediction] | list[list[Prediction]]]):
    """Of a pair, or of each pair."""


class Decoded(RootModel[list[str]]):
    """The text of each list of ids."""


class Memory(BaseModel):
    """What a model takes of memory."""

    id: str
    loaded: bool
    memory: int | None


class Info(BaseModel):
    """Answer of `GET /info`, of the first model, and the memory of all."""

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
    models: list[Memory]
    memory: int
    max_memory: int | None


class Error(BaseModel):
    """Every answer that is not a success."""

    error: str
    error_type: Literal["Unhealthy", "Backend", "Overloaded", "Validation", "Tokenizer", "Empty"]
