"""Codes in the cache, where the next plan and an interrupted run find them; read one module at a time."""

from collections.abc import Callable, Iterator

import numpy as np

from converter import cache
from converter.candidate import Plan, PlanCodes
from converter.quantize.grid import Codes, Scheme
from shim.errors import SourceError

Make = Callable[[], Codes]


class CodeStore(PlanCodes):
    """The codes of a plan: read from the cache, or held where it could not take them, or no folder was given."""

    def __init__(self, plan: Plan):
        self.plan = plan
        self.places: dict[str, Make] = {}

    def parts(self, name: str) -> Iterator[Codes]:
        """Raises SourceError for codes that are no longer in the cache."""
        return iter([self.places[name]()])

    def add(self, name: str, make: Make, folder: str | None) -> Codes:
        """The module's codes: from this folder of the cache if they are there, else made and put there."""
        scheme = self.plan[name]
        codes = _read(folder, name, scheme, lambda: make().arrays()) if folder else make()
        if folder and has(folder, name, scheme):
            self.open(name, folder)
        else:
            self.places[name] = lambda: codes
        return codes

    def open(self, name: str, folder: str) -> None:
        """Codes that are in this folder of the cache."""

        def gone() -> dict[str, np.ndarray]:
            raise SourceError(f"{cache.folder() / folder}: the codes of {name} are gone, or cannot be read")

        self.places[name] = lambda: _read(folder, name, self.plan[name], gone)


def has(folder: str, name: str, scheme: Scheme) -> bool:
    """Whether codes of the module in this scheme are in this folder of the cache."""
    return cache.has(folder, [name, str(scheme)])


def _read(folder: str, name: str, scheme: Scheme, make: Callable[[], dict[str, np.ndarray]]) -> Codes:
    return Codes(**cache.arrays(folder, [name, str(scheme)], make), scheme=scheme)
