"""Bytes of memory: what a model will take, what the process has, and giving back what is free."""

import ctypes
import gc
import os
import sys
from pathlib import Path

from shim.artifact import Manifest

PAGES = Path("/proc/self/statm")  # where Linux says how many pages the process has
OWN = 48_000_000  # bytes beside the weights, at most: a tokenizer, and what a runtime keeps of a graph
LARGER = 1.3  # times the bytes of its files, a runtime holds of weights at most, as they are repacked
OPENVINO = 2.5  # and OpenVINO, which compiles them
FLOAT = 32  # bits of a weight in MLX on a CPU


def expected(manifest: Manifest) -> int:
    """Bytes that a model will take once it is loaded, at most; without its batches."""
    size = manifest.size * LARGER
    if manifest.target == "mlx" and sys.platform != "darwin":
        size = manifest.size * FLOAT / manifest.bits * LARGER
    elif manifest.parity.runtime == "openvino":
        size = manifest.size * OPENVINO
    return int(size) + OWN


def resident() -> int:
    """Bytes of the process in memory; 0 where the system does not say."""
    if not PAGES.exists():
        return 0
    return int(PAGES.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def release() -> None:
    """Give back to the system what is free."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # of glibc
    if trim is not None:
        trim(0)
