"""ONNX Runtime: runs the graph of an artifact on CUDA where it is installed and asked for, else on the CPU."""

import platform
import warnings
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

import numpy as np

from shim.artifact import Manifest
from shim.errors import IntegrityError, UsageError
from shim.pooling import PROJECTED, output_of
from shim.runtimes import PRESENT
from shim.runtimes.cores import threads
from shim.text import Tokens

# The optional inputs of a causal reranker's graph, see converter/targets/onnx/prefix.py.
PAST, PAST_LENGTH, PRESENT_LENGTH = "past_key_values", "past_length", "present_length"
ADAPTERS = "adapter_ids"  # the optional input of a graph with adapters, see converter/targets/onnx/adapters.py
LONG = 4096  # padded tokens, the default of --batch-tokens: a run of more is rare, and its memory is not kept
PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
CUDA_OPTIONS = {
    "arena_extend_strategy": "kSameAsRequested",  # not the next power of two: a card is shared with other processes
    "enable_skip_layer_norm_strict_mode": "1",  # norms add up in float32, also where the graph is in float16
    "use_tf32": "0",  # a graph of 32 bits multiplies in 32, not in the 19 of TF32
}


def open_runtime(directory: Path, manifest: Manifest, device: str = "auto") -> "OnnxRuntime":
    """Open a session on the graph, the one `.onnx` file that the manifest lists; pooling and heads are in it.

    Raises UsageError for a device that is not here or when onnxruntime is not installed, IntegrityError for a bad graph.
    """
    try:
        import onnxruntime as ort
    except ImportError:
        raise UsageError("onnxruntime is not installed: pip install 'sealport[onnx]' (NVIDIA: 'sealport[cuda]')") from None
    if device not in ("auto", *PROVIDERS):
        raise UsageError(f"device {device!r} unknown for the onnx runtime (auto, {', '.join(PROVIDERS)})")
    available, asked = ort.get_available_providers(), device
    if device == "auto":
        device = "cuda" if PROVIDERS["cuda"] in available else "cpu"
    if PROVIDERS[device] not in available:
        raise UsageError(f"device {device}: onnxruntime has no {PROVIDERS[device]} here ({', '.join(available)})")
    options = ort.SessionOptions()
    options.log_severity_level = 4  # what goes wrong is raised, and need not be printed, too
    options.intra_op_num_threads = threads()
    if overflows():  # then products are u8 x u8, which is slower and exact
        options.add_session_config_entry("session.x64quantprecision", "1")
    graphs = [name for name in manifest.files if name.endswith(".onnx")]
    if len(graphs) != 1:
        raise IntegrityError(f"{directory}: {len(graphs)} .onnx files in the manifest of {manifest.name}, not one graph")
    path = directory / graphs[0]
    providers: list[str | tuple[str, dict[str, str]]] = [PROVIDERS["cpu"]]
    if device == "cuda":
        # Weights are no part of the arena, which is rounded up and grows by what requests need.
        options.add_session_config_entry("session.use_device_allocator_for_initializers", "1")
        providers.insert(0, (PROVIDERS["cuda"], CUDA_OPTIONS))
    try:
        session = ort.InferenceSession(str(path), options, providers=providers)
    except Exception as error:  # onnxruntime's own exceptions have no common public base
        raise IntegrityError(f"{path}: onnxruntime cannot load it ({str(error).splitlines()[0]})") from None
    runtime, outputs = OnnxRuntime(session), [value.name for value in session.get_outputs()]
    if asked == "cuda" and runtime.device != "cuda":  # onnxruntime goes on without it
        raise UsageError("device cuda: onnxruntime cannot start it here; is there a GPU with its driver, CUDA and cuDNN?")
    if runtime.device == "cuda" and (advice := better_on_cuda(manifest)):
        warnings.warn(advice, stacklevel=2)
    if not set(runtime.inputs) <= {field.name for field in fields(Tokens)}:
        raise IntegrityError(f"{path}: the graph's inputs are {', '.join(runtime.inputs):.200}, not those of an encoder")
    heads = (*manifest.model.heads, *(["hidden"] if manifest.task == "embed" else []))
    wanted = {output_of(manifest.model, head) for head in heads}
    if manifest.model.projected and manifest.model.normalized and "dense" in heads:
        wanted.add(PROJECTED)
    if not wanted <= set(outputs):
        raise IntegrityError(f"{path}: the graph's outputs are {', '.join(outputs):.200}, not the heads of the manifest")
    return runtime


def better_on_cuda(manifest: Manifest) -> str | None:
    """Which artifact would be faster there, in one line; None where this is the one."""
    if manifest.bits >= 16:
        return None
    stored = manifest.quantization["tensors"].values()
    on_cpu = any(entry.get("input", "").startswith(("token", "tensor")) or entry["bits"] in (5, 6, 7) for entry in stored)
    why = "leaves a part of its work to the CPU" if on_cpu else "computes in float32"
    return f"{manifest.name} {why} on cuda, as {manifest.bits} bits are for CPUs; `convert ... --to onnx --bits 16` is faster"


def overflows(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether this CPU may add pairs of u8 x s8 products in 16 bits, too few for them: those of x86 do that without VNNI."""
    if platform.machine() not in ("x86_64", "AMD64"):
        return False
    try:
        return "vnni" not in cpuinfo.read_text()
    except OSError:  # not Linux
        return True


class OnnxRuntime:
    """One session."""

    name = "onnx"
    kernels = "onnxruntime"
    pause: Callable[[], object] | None = None

    def __init__(self, session):  # type: ignore[no-untyped-def]
        self.session = session
        self.inputs = [value.name for value in session.get_inputs()]
        self.options = {value.name: value.type for value in session.get_overridable_initializers()}
        self.takes_past = PAST_LENGTH in self.options
        self.device = "cuda" if PROVIDERS["cuda"] in session.get_providers() else "cpu"
        self.parallel = self.device == "cpu"
        self._giving_back = self._run_options()

    def _run_options(self):  # type: ignore[no-untyped-def]
        """Of a run that gives its memory back, which onnxruntime else keeps for the next one."""
        import onnxruntime as ort

        options = ort.RunOptions()
        if self.device == "cpu":
            options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
        return options

    def run(self, tokens: Tokens, names: tuple[str, ...], past: np.ndarray | None = None) -> dict[str, np.ndarray]:
        """See shim.runtimes.Runtime."""
        given = {name: getattr(tokens, name) for name in self.inputs}
        if tokens.adapters is not None:
            given[ADAPTERS] = tokens.adapters
        if PRESENT in names:
            given[PRESENT_LENGTH] = np.array(tokens.input_ids.shape[1:], np.int64)
        if past is not None:
            given[PAST_LENGTH] = np.array(past.shape[1:2], np.int64)
            given[PAST] = past.astype(np.float16 if self.options[PAST] == "tensor(float16)" else np.float32)
        try:
            arrays = self.session.run(list(names), given, self._giving_back if tokens.input_ids.size > LONG else None)
        except Exception as error:  # see open_runtime; others, as for want of memory, are no fault of a file
            if type(error).__name__ != "InvalidArgument":
                raise
            raise IntegrityError(f"the graph does not fit the tokenizer ({' '.join(str(error).split()):.200})") from None
        return {name: np.asarray(array, np.float32) for name, array in zip(names, arrays, strict=True)}
