"""OpenVINO: runs the graph of an ONNX artifact on a CPU, in bfloat16 or float16 where the CPU has instructions for it."""

from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from shim.artifact import Manifest
from shim.errors import IntegrityError, UsageError
from shim.pooling import output_of
from shim.runtimes.cores import threads
from shim.text import Tokens

if TYPE_CHECKING:
    from openvino import Core, InferRequest
    from openvino import Model as Graph

# The precision of products -> what OpenVINO calls a CPU's instructions for it. Without them it takes another one, unasked.
NATIVE = {"bf16": "BF16", "f16": "FP16", "f32": "FP32"}
OTHERWISE = "take runtime onnx, or an artifact of --bits 16 or 32"


def open_runtime(directory: Path, manifest: Manifest, device: str = "auto", precision: str = "auto") -> "OpenVinoRuntime":
    """Compile the graph, the one `.onnx` file that the manifest lists; pooling and heads are in it.

    precision: `bf16`, `f16` or `f32`; `native` is OpenVINO's own choice, `auto` the one that was verified. It is f32, which
    rounds least, where none was verified, and where this CPU has no instructions for the one that was.
    Raises UsageError for a device that is not here, a graph with operators that OpenVINO has not, or when openvino is not
    installed, IntegrityError for a bad graph.
    """
    try:
        import openvino
    except ImportError:
        raise UsageError("openvino is not installed: pip install 'sealport[openvino]'") from None
    if device not in ("auto", "cpu"):
        raise UsageError(f"device {device!r} unknown for the openvino runtime (auto, cpu)")
    if manifest.model.adapters:
        raise UsageError(f"{manifest.name}: openvino cannot choose an adapter for each text; take runtime onnx")
    graphs = [name for name in manifest.files if name.endswith(".onnx")]
    if len(graphs) != 1:
        raise IntegrityError(f"{directory}: {len(graphs)} .onnx files in the manifest of {manifest.name}, not one graph")
    path, names = directory / graphs[0], (output_of(manifest.model, manifest.model.heads[0]),)
    core = openvino.Core()
    # 0: else the inputs of quantized products are rounded to 8 bits, which alone takes half of what parity allows.
    settings: dict[str, object] = {"PERFORMANCE_HINT": "LATENCY", "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0}
    if precision != "native":
        if precision == "auto":
            verified = manifest.parity.runtime == OpenVinoRuntime.name
            precision = manifest.parity.kernels or "f32" if verified else "f32"
        native = NATIVE.get(precision) in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        settings["INFERENCE_PRECISION_HINT"] = precision if native else "f32"
    if count := threads():
        settings |= {"INFERENCE_NUM_THREADS": count, "ENABLE_CPU_PINNING": False}
    try:
        graph = _unbranched(core.read_model(path))
        inputs = {name for value in graph.inputs for name in value.names}
        if not inputs <= {field.name for field in fields(Tokens)}:
            raise IntegrityError(f"{path}: the graph's inputs are {', '.join(inputs):.200}, not those of an encoder")
        outputs = {name for value in graph.outputs for name in value.names}
        if not all(output_of(manifest.model, head) in outputs for head in manifest.model.heads):
            raise IntegrityError(f"{path}: the graph's outputs are {', '.join(outputs):.200}, not the heads of the manifest")
        return OpenVinoRuntime(core, graph, settings, names)
    except RuntimeError as error:
        reason = _reason(error)
        if "wasn't fully converted" in reason:  # the file is as it should be
            raise UsageError(f"{manifest.name}: openvino lacks operators of it ({reason:.200}); {OTHERWISE}") from None
        raise IntegrityError(f"{path}: openvino cannot load it ({reason:.200})") from None


def _unbranched(graph: "Graph") -> "Graph":
    """The graph with the branch for short texts alone: it is right for any length, and here it holds no scores either.

    Where a batch is larger than all before it, the body of an If reads inputs from memory that is no longer theirs (2026.4).
    """
    from openvino import opset13

    conditions = {node.input_value(0).get_node() for node in graph.get_ops() if node.get_type_name() == "If"}
    for node in conditions:
        node.output(0).replace(opset13.constant(True, dtype=bool).output(0))
    graph.validate_nodes_and_infer_types()
    return graph


def _reason(error: Exception) -> str:
    """What an error of OpenVINO says, without the lines that say where in its sources."""
    lines = [line.strip() for line in str(error).splitlines()]
    noise = ("Exception from", "Check '", "FrontEnd API failed")
    return " ".join(line for line in lines if line and not line.startswith(noise)) or " ".join(lines)


class OpenVinoRuntime:
    """One graph, compiled for each set of outputs when it is first asked for: what nobody asks for is not computed."""

    name = "openvino"
    device = "cpu"
    takes_past = False  # inputs that have a default are constants for it
    parallel = False
    pause: Callable[[], object] | None = None

    def __init__(self, core: "Core", graph: "Graph", settings: dict[str, object], names: tuple[str, ...]):
        """names: the outputs to compile for now. kernels: the precision that products are computed in."""
        self.core, self.graph, self.settings = core, graph, settings
        self.inputs = [value.any_name for value in graph.inputs]
        self.requests: dict[tuple[str, ...], InferRequest] = {}
        compiled = self._request(names).get_compiled_model()
        self.kernels: str = compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()

    def run(self, tokens: Tokens, names: tuple[str, ...], past: np.ndarray | None = None) -> dict[str, np.ndarray]:
        """See shim.runtimes.Runtime."""
        given, request = {name: getattr(tokens, name) for name in self.inputs}, self._request(names)
        try:
            request.start_async(given, share_inputs=True)  # what goes wrong in `infer` is not raised where there is one thread
            request.wait()
        except RuntimeError as error:
            raise UsageError(f"openvino cannot compute the graph ({_reason(error):.200}); {OTHERWISE}") from None
        return {name: np.array(request.get_tensor(name).data, np.float32) for name in names}

    def _request(self, names: tuple[str, ...]) -> "InferRequest":
        if names not in self.requests:
            from openvino import Model

            chosen = [value for value in self.graph.outputs if not value.names.isdisjoint(names)]
            model = Model(chosen, self.graph.get_parameters())
            self.requests[names] = self.core.compile_model(model, "CPU", self.settings).create_infer_request()
            # Where the first text has one token, what a 16-bit graph computes after it is wrong (2026.4). Some graphs compile,
            # and cannot be computed: that is said now.
            few = np.ones((2, 3), np.int64)
            self.run(Tokens(few, few, np.zeros_like(few)), names)
        return self.requests[names]
