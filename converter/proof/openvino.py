"""The proof of an ONNX artifact through OpenVINO: in the precision that the CPU has instructions for, else in float32."""

import contextlib
from functools import partial
from pathlib import Path

from converter import corpus
from converter.proof.measure import Progress, measure
from converter.source.checkpoint import Checkpoint
from shim.artifact import Manifest
from shim.errors import NotFiniteError
from shim.model import Model
from shim.parity import Parity
from shim.runtimes.openvino import open_runtime
from shim.text import TextEncoder


def measure_openvino(
    directory: Path, manifest: Manifest, checkpoint: Checkpoint, texts: list[corpus.Text], progress: Progress
) -> Parity:
    """What `measure` finds through OpenVINO; in float32 where OpenVINO's own choice of a precision falls short.

    The manifest has the target's own parity, whose bar counts here, too. Raises what `measure` and the runtime do.
    """
    opener = partial(open_with_openvino, directory, manifest)
    with contextlib.suppress(NotFiniteError):
        parity, _ = measure(directory, manifest, checkpoint, texts, progress, opener)
        if parity.verdict == "pass" or parity.kernels == "f32":
            return parity
    return measure(directory, manifest, checkpoint, texts, progress, partial(opener, "f32"))[0]


def open_with_openvino(directory: Path, manifest: Manifest, precision: str = "native") -> Model:
    """The artifact as `shim.load` opens it, whether or not it was verified. precision: see `open_runtime`."""
    spec = manifest.model
    encoder = TextEncoder(directory, spec.max_tokens, spec.lower_case, markers=spec.markers)
    return Model(manifest, encoder, open_runtime(directory, manifest, precision=precision))
