"""`Embedder`, an artifact as a callable class: for `map_batches` of Ray Data, for Spark, Daft and all else that has Arrow."""

from shim.bulk.embedder import Embedder

__all__ = ["Embedder"]
