"""Serve sealed embedding and reranking artifacts: `shim.load(path).embed(texts)`."""

from shim.errors import IntegrityError, NotFiniteError, SealportError, SourceError, UsageError
from shim.loading import load
from shim.model import Model
from shim.results import Embeddings, Ranked

__version__ = "0.1.0"

__all__ = [
    "Embeddings",
    "IntegrityError",
    "Model",
    "NotFiniteError",
    "Ranked",
    "SealportError",
    "SourceError",
    "UsageError",
    "load",
]
