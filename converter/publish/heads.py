"""bge-m3's further heads in the layout of its own repository: `sparse_linear.pt` and `colbert_linear.pt`, in float16."""

from collections import OrderedDict
from pathlib import Path

import numpy as np

from converter.publish import graph
from shim.artifact import Manifest
from shim.pooling import LINEAR


def write(artifact: Path, manifest: Manifest, into: Path) -> None:
    """Write a pickled state dict for each of these heads that the artifact has: weight (rows, d) and bias (rows,), float16.

    They are what FlagEmbedding loads beside a checkpoint; the artifact's own files hold the same values for `shim`.
    """
    if "dense" not in manifest.model.heads:  # SPLADE's or ColBERT's, which is no such layer
        return
    for module in (LINEAR[head] for head in manifest.model.heads if head in LINEAR):
        import torch

        names = [f"{module}.weight", f"{module}.bias"]
        if manifest.target == "onnx":
            weight, bias = graph.weights(artifact / graph.ARTIFACT, names).values()
            weight = weight.T  # a MatMul of the graph takes (d, rows)
        else:
            from safetensors.numpy import load_file

            weight, bias = map(load_file(artifact / f"{module}.safetensors").__getitem__, names)
        state = {"weight": weight, "bias": bias}
        halves = ((key, torch.from_numpy(np.ascontiguousarray(array, np.float16))) for key, array in state.items())
        torch.save(OrderedDict(halves), into / f"{module}.pt")
