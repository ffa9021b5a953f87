"""ONNX graphs under the names that other loaders look for, with their external data beside them."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from shim.errors import IntegrityError

if TYPE_CHECKING:
    from onnx import GraphProto, TensorProto

ARTIFACT = "onnx/model.onnx"  # the graph of an artifact, and of the most exact precision of a repository
DATA = "_data"  # what the name of a file of external data adds to its graph's
# The graph of each precision: sentence-transformers' and text-embeddings-inference's name, then those of transformers.js.
GRAPHS = {32: ARTIFACT, 16: "onnx/model_fp16.onnx", 8: "onnx/model_quantized.onnx", 4: "onnx/model_q4.onnx"}


def renamed(graph: Path, name: str) -> bytes | None:
    """The graph as it is under another file name, where its external data is in `name` + `_data`; None where it has none.

    Raises IntegrityError where its data is anywhere but in `model.onnx_data` beside it.
    """
    import onnx
    from onnx.external_data_helper import uses_external_data

    model = onnx.load(graph, load_external_data=False)
    external = [tensor for tensor in _tensors(model.graph) if uses_external_data(tensor)]
    for tensor in external:
        for entry in tensor.external_data:
            if entry.key == "location":
                if entry.value != graph.name + DATA:
                    raise IntegrityError(f"{graph}: {tensor.name} lies in {entry.value}, not in {graph.name}{DATA}")
                entry.value = name + DATA
    return bytes(model.SerializeToString(deterministic=True)) if external else None


def weights(graph: Path, names: list[str]) -> dict[str, np.ndarray]:
    """The initializers of these names. Raises IntegrityError for one that is not there."""
    import onnx
    from onnx.numpy_helper import to_array

    model = onnx.load(graph, load_external_data=False)
    found = {tensor.name: tensor for tensor in model.graph.initializer if tensor.name in names}
    if absent := set(names) - found.keys():
        raise IntegrityError(f"{graph}: {min(absent)} is missing")
    return {name: to_array(found[name], str(graph.parent)) for name in names}


def _tensors(graph: "GraphProto") -> Iterator["TensorProto"]:
    """Every weight of a GraphProto, those in the bodies of loops, too."""
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            if attribute.HasField("g"):
                yield from _tensors(attribute.g)
