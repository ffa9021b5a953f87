"""Our reading of a checkpoint: the way that an artifact goes through the shim, in fp32 and with the original's own weights."""

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from converter.proof.outputs import Outputs
from converter.proof.probes import Probe
from converter.proof.reference import Testimony
from converter.source.checkpoint import Checkpoint
from shim.architectures import architecture
from shim.artifact import SCHEMA, Manifest, Quantization, Source, Tool
from shim.contents import completed
from shim.encoding import encoding
from shim.model import Model
from shim.parity import Parity
from shim.pooling import outputs
from shim.prompts import prompt_of
from shim.results import Output
from shim.text import Encoded, TextEncoder, Tokens

HELD = 100_000_000  # weights that are kept between batches; those of a larger model are read again


class TorchRuntime:
    """shim.runtimes.Runtime over the checkpoint's tensors, layer by layer."""

    name, device, kernels = "torch", "cpu", "float32"
    takes_past = parallel = False
    pause: Callable[[], object] | None = None

    def __init__(self, checkpoint: Checkpoint):
        self.checkpoint, self.module = checkpoint, architecture(checkpoint.spec.architecture)
        self.config = self.module.Config.read(checkpoint.config)
        small = sum(int(np.prod(tensor.shape)) for tensor in checkpoint.tensors.values()) <= HELD
        self.read = functools.cache(checkpoint.read) if small else checkpoint.read

    def run(self, tokens: Tokens, names: tuple[str, ...], past: np.ndarray | None = None) -> dict[str, np.ndarray]:
        """See shim.runtimes.Runtime."""
        import torch

        from converter.quantize.layerwise import LayerwiseOps

        spec = self.checkpoint.spec
        with torch.inference_mode():
            ops: Any = LayerwiseOps(self.read, [tokens], lambda _, weight, __: weight)
            found = outputs(ops, self.module, self.config, spec.pooling, spec.heads, spec.modules, spec.splade)
            return {name: found[name][0].float().numpy() for name in names}


def read_probes(checkpoint: Checkpoint, testimony: Testimony) -> tuple[list[Encoded], Outputs]:
    """Our tokens of all probes, and our outputs of those that the witness measured."""
    spec = checkpoint.spec
    encoder = TextEncoder(checkpoint.directory, spec.max_tokens, spec.lower_case, markers=spec.markers)
    encoded = [_encode(encoder, checkpoint, probe) for probe in testimony.probes]
    model = Model(_manifest(checkpoint), encoder, TorchRuntime(checkpoint))
    found: list[Output] = model.compute_all([encoded[row] for row in testimony.measured], spec.heads)
    if spec.heads == ["score"]:
        return encoded, Outputs(scores=np.array([output.values["score"] for output in found], np.float32))
    together = model.embeddings(found, spec.heads)
    return encoded, Outputs(together.dense if "dense" in spec.heads else None, together.sparse, together.colbert)


def _encode(encoder: TextEncoder, checkpoint: Checkpoint, probe: Probe) -> Encoded:
    text, spec = probe.text, checkpoint.spec
    if isinstance(text, str):
        prompt = prompt_of(spec, probe.task, name=probe.prompt_name)
        return completed(encoding(encoder, spec, prompt, probe.task, probe.prompt_name)([text]))[0]
    return encoder.pairs(text[0], [text[1]], spec.prompts)[0]


def _manifest(checkpoint: Checkpoint) -> Manifest:
    task = "rerank" if checkpoint.spec.heads == ["score"] else "embed"
    return Manifest(
        schema=SCHEMA,
        name="the reading",
        recipe="",
        task=task,
        target="",
        bits=32,
        source=Source(repo="", revision="", files={}),
        model=checkpoint.spec,
        quantization=Quantization(bits_per_weight=32, tensors={}),
        files={},
        parity=Parity(verdict="unverified"),
        tool=Tool(version="", packages={}),
        license="",
        created="",
    )
