"""ONNX Runtime: runs `onnx/model.onnx` on CUDA where it is installed and asked for, else on the CPU."""

from pathlib import Path

import numpy as np

from shim.artifact import ModelSpec
from shim.errors import IntegrityError, UsageError
from shim.text import Tokens

PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
GRAPH = "onnx/model.onnx"


def open_runtime(directory: Path, spec: ModelSpec, device: str = "auto") -> "OnnxRuntime":
    """Open a session on the graph. Raises UsageError for a device that is not here or when onnxruntime is not installed."""
    del spec  # pooling and heads are in the graph
    try:
        import onnxruntime as ort
    except ImportError:
        raise UsageError("onnxruntime is not installed: pip install 'sealport[onnx]' (NVIDIA: 'sealport[cuda]')") from None
    if device not in ("auto", *PROVIDERS):
        raise UsageError(f"device {device!r} unknown for the onnx runtime (auto, {', '.join(PROVIDERS)})")
    available = ort.get_available_providers()
    if device == "auto":
        device = "cuda" if PROVIDERS["cuda"] in available else "cpu"
    if PROVIDERS[device] not in available:
        raise UsageError(f"device {device}: onnxruntime has no {PROVIDERS[device]} here ({', '.join(available)})")
    options = ort.SessionOptions()
    options.log_severity_level = 3
    path = directory / GRAPH
    try:
        session = ort.InferenceSession(str(path), options, providers=list(dict.fromkeys((PROVIDERS[device], PROVIDERS["cpu"]))))
    except Exception as error:  # onnxruntime's own exceptions have no common public base
        raise IntegrityError(f"{path}: onnxruntime cannot load it ({str(error).splitlines()[0]})") from None
    return OnnxRuntime(session)


class OnnxRuntime:
    """One session."""

    name = "onnx"
    kernels = "onnxruntime"

    def __init__(self, session):  # type: ignore[no-untyped-def]
        self.session = session
        self.inputs = [value.name for value in session.get_inputs()]
        self.device = "cuda" if PROVIDERS["cuda"] in session.get_providers() else "cpu"

    def run(self, tokens: Tokens, names: tuple[str, ...]) -> dict[str, np.ndarray]:
        """See shim.runtimes.Runtime."""
        arrays = self.session.run(list(names), {name: getattr(tokens, name) for name in self.inputs})
        return {name: np.asarray(array, np.float32) for name, array in zip(names, arrays, strict=True)}
