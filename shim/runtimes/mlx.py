"""MLX: runs an architecture's operations on Apple GPUs, or on a CPU with the weights dequantized to float32 at load."""

import ctypes
import ctypes.util
import platform
import re
import sys
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from shim.architectures import architecture
from shim.artifact import Manifest
from shim.errors import IntegrityError, SealportError, SourceError, UsageError
from shim.jsons import JsonObject, read_object, table
from shim.pooling import head_tensors, layer_tensors, outputs
from shim.runtimes import PRESENT
from shim.runtimes.mlx_ops import MlxOps, Packed
from shim.spec import ModelSpec
from shim.text import Tokens

if TYPE_CHECKING:
    from mlx.core import array as Array

DEVICES = ("auto", "cpu", "gpu")
FASTER = "apt-get install libopenblas0-pthread (or pip install mkl, 1 GB)"


def open_runtime(directory: Path, manifest: Manifest, device: str = "auto", kernels: str = "auto") -> "MlxRuntime":
    """Load `*.safetensors` and `config.json` of an MLX artifact.

    kernels: `quantized` multiplies with the packed weights in float16; `packed` with the same in float32; `float32`
    dequantizes them once, at load. `auto` is quantized on a GPU, and on a CPU float32, as there packed is a hundred times and
    quantized thousands of times slower.
    Raises UsageError for a device that is not here or when mlx is not installed, IntegrityError for unreadable weights.
    """
    mx = _import_mlx()
    if device not in DEVICES:
        raise UsageError(f"device {device!r} unknown for the mlx runtime ({', '.join(DEVICES)})")
    on_gpu = mx.metal.is_available() and device != "cpu"
    if device == "gpu" and not on_gpu:
        raise UsageError("device gpu: no Metal GPU here; use device cpu")
    if kernels == "auto":
        kernels = "quantized" if on_gpu else "float32"
    if not on_gpu:
        mx.set_default_device(mx.cpu)
        if sys.platform != "darwin":
            advice = "" if blas() else f"; {FASTER} makes it 30 times faster"
            warnings.warn(f"the mlx runtime is on a CPU here, which is slow; an onnx artifact is faster{advice}", stacklevel=2)
    try:
        return MlxRuntime(mx, directory, manifest.model, kernels, "gpu" if on_gpu else "cpu")
    except SealportError:
        raise
    except (RuntimeError, TypeError, ValueError) as error:  # what MLX says of a file, or of tensors that do not go together
        raise IntegrityError(f"{directory}: MLX cannot load it ({' '.join(str(error).split()):.200})") from None


def blas() -> str | None:
    """The library that does MLX's products on Linux, where the wheel's own is 30 times slower: OpenBLAS, or that of pip's mkl.

    Other wheels that carry OpenBLAS give its functions names of their own, which MLX does not find.
    """
    return ctypes.util.find_library("openblas") or next(map(str, Path(sys.prefix, "lib").glob("libmkl_rt.so.*")), None)


def _import_mlx() -> ModuleType:
    """Import mlx.core, on Linux behind the library of `blas`."""
    if sys.platform == "linux" and "mlx.core" not in sys.modules and (library := blas()):
        ctypes.CDLL(library, mode=ctypes.RTLD_GLOBAL)
    try:
        import mlx.core as mx
    except ImportError:
        extra = "mlx" if platform.system() == "Darwin" else "mlx[cpu]"
        raise UsageError(f"the mlx runtime is not installed: pip install 'sealport[mlx]' (or {extra})") from None
    return mx


class MlxRuntime:
    """The weights of one artifact, and the forward pass over them."""

    name = "mlx"
    parallel = False
    pause: Callable[[], object] | None = None

    def __init__(self, mx: ModuleType, directory: Path, spec: ModelSpec, kernels: str, device: str):
        self.mx, self.spec, self.kernels, self.device = mx, spec, kernels, device
        raw = read_object(directory / "config.json")
        self.module = architecture(spec.architecture)
        try:
            self.config = self.module.Config.read(raw)
        except SourceError as error:
            raise IntegrityError(f"{directory}: {error}") from None
        self.takes_past = "score" in spec.heads and bool(self.module.ROWS) and self.module.continues(self.config)
        self.weights: dict[str, Array] = {}
        for path in sorted(directory.glob("*.safetensors")):
            self.weights |= mx.load(str(path))
        self.quantization = _quantization(raw, self.weights)
        heads = head_tensors(self.module, self.config, spec.heads, spec.modules)
        layers = layer_tensors(self.module, self.config, spec)
        known = {n: s for n, s in layers.items() if not _matches(n, self.module.OPTIONAL)} | heads
        self.weights = {n: w for n, w in self.weights.items() if n in heads or not _matches(n, self.module.OPTIONAL)}
        for name, shape in known.items():
            self._check_shape(directory, name, shape)
        if kernels == "float32":
            for name in list(self.weights):
                if name.endswith(".weight"):
                    self.weights[name] = self._dense(name.removesuffix(".weight")).astype(mx.float32)
                elif not name.endswith((".scales", ".biases")):
                    self.weights[name] = self.weights[name].astype(mx.float32)
            self.weights = {n: w for n, w in self.weights.items() if not n.endswith((".scales", ".biases"))}
            self.quantization = {}
        elif kernels == "packed":
            self.weights = {n: w if w.dtype == mx.uint32 else w.astype(mx.float32) for n, w in self.weights.items()}
        self.weights |= {name: self.weights[name].astype(mx.float32) for name in heads}
        mx.eval(self.weights)
        self._joints: dict[tuple[str, ...], tuple[str | None, list[int]]] = {}

    def _check_shape(self, directory: Path, name: str, shape: tuple[int, ...]) -> None:
        settings = self.quantization.get(name.removesuffix(".weight"))
        parts = {name: shape}
        if settings is not None:
            groups = (shape[0], shape[1] // settings["group_size"])
            module = name.removesuffix(".weight")
            parts = {
                name: (shape[0], shape[1] * settings["bits"] // 32),
                f"{module}.scales": groups,
                f"{module}.biases": groups,
            }
        for part, wanted in parts.items():
            if part not in self.weights or self.weights[part].shape != wanted:
                found = list(self.weights[part].shape) if part in self.weights else "missing"
                raise IntegrityError(f"{directory}: tensor {part} is {found}, config.json wants {list(wanted)}")

    def run(self, tokens: Tokens, names: tuple[str, ...], past: np.ndarray | None = None) -> dict[str, np.ndarray]:
        """See shim.runtimes.Runtime."""
        before = None if past is None else self.mx.array(past)
        ops = MlxOps(self.mx, self.weights, self.packed, self.joined, tokens, before, self.pause)
        spec = self.spec
        found = outputs(ops, self.module, self.config, spec.pooling, spec.heads, spec.modules, spec.splade)
        if PRESENT in names:
            found[PRESENT] = ops.present_key_values()
        arrays = [found[name].astype(self.mx.float32) for name in names]
        self.mx.eval(arrays)
        return {name: np.array(array) for name, array in zip(names, arrays, strict=True)}

    def packed(self, name: str) -> Packed | None:
        """The module `name`, where it is quantized."""
        settings = self.quantization.get(name)
        if settings is None:
            return None
        return tuple(self.weights[f"{name}.{part}"] for part in ("weight", "scales", "biases")), settings

    def joined(self, names: tuple[str, ...]) -> tuple[str | None, list[int]]:
        """The one module that layers of one input are, put in their place when first asked for, and where the parts of its
        output end, but the last; None where they are not stored alike.
        """
        if names not in self._joints:
            self._joints[names] = self._join(names)
        return self._joints[names]

    def _join(self, names: tuple[str, ...]) -> tuple[str | None, list[int]]:
        settings = [self.quantization.get(name) for name in names]
        if any(other != settings[0] for other in settings):
            return None, []
        joint = "+".join(names)
        parts = [part for part in ("weight", "scales", "biases", "bias") if f"{names[0]}.{part}" in self.weights]
        ends = np.cumsum([self.weights[f"{name}.weight"].shape[0] for name in names])[:-1].tolist()
        for part in parts:
            self.weights[f"{joint}.{part}"] = self.mx.concatenate([self.weights.pop(f"{name}.{part}") for name in names])
        if settings[0] is not None:
            self.quantization[joint] = settings[0]
        return joint, ends

    def _dense(self, name: str) -> "Array":
        packed = self.packed(name)
        return self.weights[f"{name}.weight"] if packed is None else self.mx.dequantize(*packed[0], **packed[1])


def _matches(name: str, patterns: tuple[str, ...]) -> bool:
    return any(re.search(pattern, name) for pattern in patterns)


def _quantization(raw: JsonObject, names: Iterable[str]) -> dict[str, dict[str, int]]:
    """{module: {"bits", "group_size"}} for every module with scales: the defaults of `config.json`, or its own entry there."""
    modules = [name.removesuffix(".scales") for name in names if name.endswith(".scales")]
    try:
        settings = table(raw, "quantization")
        chosen: dict[str, Any] = {name: settings.get(name, settings) for name in modules}
        found = {name: {"bits": int(entry["bits"]), "group_size": int(entry["group_size"])} for name, entry in chosen.items()}
        if not all(number > 0 for entry in found.values() for number in entry.values()):
            raise ValueError("bits and group_size must be positive")
        return found
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise IntegrityError(f"config.json: quantization is malformed ({type(error).__name__}: {error})") from None
