"""One file per client dialect: what its requests and answers look like."""

from typing import Protocol

from fastapi import APIRouter

from shim.jsons import JsonObject
from shim.serve.answers import Documented
from shim.serve.dialects import cohere, ollama, openai, rerank, score, tei
from shim.serve.faults import Refusal
from shim.serve.models import Models


class Dialect(Protocol):
    """What the file of a dialect gives."""

    PATHS: frozenset[str]  # where its clients read errors

    def error(self, refusal: Refusal) -> JsonObject:
        """The body of an answer that is no success."""

    def router(self, models: Models, documented: Documented) -> APIRouter:
        """Its routes; `documented(success, failure)` gives the OpenAPI entries of their answers."""


DIALECTS: tuple[Dialect, ...] = (openai, tei, rerank, cohere, score, ollama)
BY_PATH = {path: dialect for dialect in DIALECTS for path in dialect.PATHS}
ELSEWHERE: Dialect = openai  # whose errors the clients of all other routes get
