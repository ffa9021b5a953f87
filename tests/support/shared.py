"""What the processes of one run share: folders, and artifacts that are made once."""

import contextlib
import fcntl
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from converter import corpus
from support.commands import run


@contextlib.contextmanager
def shared_by_all(name: str) -> Iterator[Path]:
    """A folder of this run's processes, for one of them at a time."""
    folder = Path(os.environ["SEALPORT_TESTS"]) / name
    folder.mkdir(exist_ok=True)
    with folder.with_name(f"{name}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield folder


def thinned(texts: Path, into: Path, step: int) -> Path:
    """Every so many lines of a file of texts."""
    into.write_text("\n".join(texts.read_text(encoding="utf-8").splitlines()[::step]), encoding="utf-8")
    return into


class MiniLM(Mapping[str, Path]):
    """all-MiniLM-L6-v2, real weights; each artifact is made when it is first asked for.

    Those for ONNX are what a user gets, calibrated and verified on all texts; MLX, which is slow on a CPU, on every 16th.
    """

    def __getitem__(self, kind: str) -> Path:
        target, bits = kind.split("-")
        with shared_by_all(f"minilm-{kind}") as out:
            path = out / f"all-minilm-l6-v2-{target}-{bits}bit"
            if not path.exists():
                some = thinned(corpus.VERIFICATION, out.with_name(f"{out.name}.jsonl"), 16)
                less = ("--corpus", some) if target == "mlx" else ()
                run("converter", "all-minilm-l6-v2", "--to", target, "--bits", bits, "--out", out, *less)
        return path

    def __iter__(self) -> Iterator[str]:
        return iter(("mlx-8", "onnx-8", "onnx-16", "onnx-32"))

    def __len__(self) -> int:
        return len(list(self))
