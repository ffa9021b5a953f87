"""What the processes of one run share: folders, and artifacts that are made once."""

import contextlib
import fcntl
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from support.commands import run


@contextlib.contextmanager
def shared_by_all(name: str) -> Iterator[Path]:
    """A folder of this run's processes, for one of them at a time."""
    folder = Path(os.environ["SEALPORT_TESTS"]) / name
    folder.mkdir(exist_ok=True)
    with folder.with_suffix(".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield folder


class MiniLM(Mapping[str, Path]):
    """all-MiniLM-L6-v2, real weights, converted and verified on the whole corpus; each artifact when it is first asked for."""

    def __getitem__(self, kind: str) -> Path:
        target, bits = kind.split("-")
        with shared_by_all(f"minilm-{kind}") as out:
            path = out / f"all-minilm-l6-v2-{target}-{bits}bit"
            if not path.exists():
                run("converter", "all-minilm-l6-v2", "--to", target, "--bits", bits, "--out", out)
        return path

    def __iter__(self) -> Iterator[str]:
        return iter(("mlx-8", "onnx-8", "onnx-16", "onnx-32"))

    def __len__(self) -> int:
        return len(list(self))
