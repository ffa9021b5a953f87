"""Codes on disk while a run goes on: one that is interrupted need not make them again."""

import contextlib
import zipfile
from pathlib import Path

import numpy as np

from converter.quantize.grid import Codes, Scheme


def save(folder: Path | None, name: str, codes: Codes, ratios: list[float]) -> None:
    """Keep what was made of the module `name`; a folder that cannot be written is done without."""
    if folder is None:
        return
    with contextlib.suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
        temporary = folder / f"{name}.tmp.npz"
        parts = {"codes": codes.codes, "scales": codes.scales, "offsets": codes.offsets, "ratios": np.array(ratios)}
        np.savez(temporary, **parts)  # type: ignore[arg-type]
        temporary.replace(folder / f"{name}.npz")


def load(folder: Path | None, name: str, scheme: Scheme) -> tuple[Codes, list[float]] | None:
    """What was kept of the module `name`; None where there is nothing, or nothing that can be read."""
    if folder is None:
        return None
    try:
        with np.load(folder / f"{name}.npz", allow_pickle=False) as stored:
            codes = Codes(stored["codes"], stored["scales"], stored["offsets"], scheme)
            return codes, stored["ratios"].tolist()
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile):
        return None
