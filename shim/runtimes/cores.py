"""How many threads a runtime may start, and how much memory there is, where the process has only a part of the machine."""

import contextlib
import os
from collections.abc import Collection, Iterator
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


@contextlib.contextmanager
def only(cores: Collection[int]) -> Iterator[None]:
    """Have what is loaded in the block start a thread for each of these cores, on them; macOS places threads itself."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def own() -> list[int]:
    """The cores that the process may use."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))


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


def _folders(root: Path, own: Path, controller: str = "cpu") -> Iterator[Path]:
    """Where quotas may be: of the process's own cgroup, and up to the mounted ones, which in a container are its own."""
    try:
        lines = own.read_text().splitlines()
    except OSError:  # not Linux
        lines = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        for base in (controller, controllers) if controllers else ("", "unified"):
            for part in (PurePosixPath(path), *PurePosixPath(path).parents):
                yield root / base / str(part).lstrip("/")


def memory(root: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> int:
    """Bytes that the process may still take: of the machine's, and of the limits of its cgroups and of those around them."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration):  # not Linux: half of all, as what is free there says little
        free = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    for folder in _folders(root, own, "memory"):
        for limit, used in (("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes")):
            try:
                left = int((folder / limit).read_text()) - int((folder / used).read_text())
                stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
                free = min(free, max(0, left + int(stat["inactive_file"])))  # files that were read count as used, and give way
            except (OSError, ValueError, KeyError):  # no such cgroup here; version 2 has "max" for none
                pass
    return free
