"""How many threads a runtime may start where the process has only a part of the machine."""

import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath


def threads(root: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> int:
    """The cores of the process, where they are fewer than the machine's; else 0: the runtime decides.

    Left alone onnxruntime starts one per core of the machine and pins each, past taskset's or a container's CPU set and past a
    cgroup's quota, where they then wait for each other. root: where cgroups are mounted. own: those of the process.
    """
    all_of_them = os.cpu_count() or 1
    mine = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else all_of_them
    for quota in _quotas(root, own):
        mine = min(mine, max(1, round(quota)))
    return mine if mine < all_of_them else 0


def _quotas(root: Path, own: Path) -> Iterator[float]:
    """CPU quotas of the process's cgroups and of those around them, in cores."""
    for folder in _folders(root, own):
        for names in (("cpu.max",), ("cpu.cfs_quota_us", "cpu.cfs_period_us")):  # version 2, and version 1
            try:
                limit, period = (word for name in names for word in (folder / name).read_text().split())
                if int(limit) > 0:  # version 1 has -1 for none
                    yield int(limit) / int(period)
            except (OSError, ValueError, ZeroDivisionError):  # no such cgroup here; version 2 has "max" for none
                pass


def _folders(root: Path, own: Path) -> Iterator[Path]:
    """Where quotas may be: of the process's own cgroup, and up to the mounted ones, which in a container are its own."""
    try:
        lines = own.read_text().splitlines()
    except OSError:  # not Linux
        lines = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        for base in ("cpu", controllers) if controllers else ("", "unified"):
            for part in (PurePosixPath(path), *PurePosixPath(path).parents):
                yield root / base / str(part).lstrip("/")
