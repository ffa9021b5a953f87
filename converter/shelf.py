"""The codes of a plan, which together are as large as an artifact: in the cache, and read from there one by one."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from converter import cache
from converter.quantize.grid import Codes, Scheme
from shim.errors import SourceError

Make = Callable[[], Codes]


class Shelf(Mapping[str, Codes]):
    """{module: Codes}. What the cache could not take, or was not given, is held."""

    def __init__(self) -> None:
        self.places: dict[str, Make] = {}

    def __getitem__(self, name: str) -> Codes:
        return self.places[name]()

    def __iter__(self) -> Iterator[str]:
        return iter(self.places)

    def __len__(self) -> int:
        return len(self.places)

    def add(self, name: str, scheme: Scheme, make: Make, kept: str | None) -> Codes:
        """The module's codes, from the part `kept` of the cache where they lie there, else made and put there."""
        codes = _codes(kept, name, scheme, lambda: make().arrays()) if kept else make()
        if kept and lies(kept, name, scheme):
            self.take(name, scheme, kept)
        else:
            self.places[name] = lambda: codes
        return codes

    def take(self, name: str, scheme: Scheme, kept: str) -> None:
        """The same of codes that lie there.

        Reading them raises SourceError where they do not, any more.
        """

        def gone() -> dict[str, np.ndarray]:
            raise SourceError(f"{cache.folder() / kept}: the codes of {name} are gone, or cannot be read")

        self.places[name] = lambda: _codes(kept, name, scheme, gone)


def lies(kept: str, name: str, scheme: Scheme) -> bool:
    """Whether codes of the module in this scheme are in the part `kept` of the cache."""
    return cache.has(kept, [name, str(scheme)])


def _codes(kept: str, name: str, scheme: Scheme, make: Callable[[], dict[str, Any]]) -> Codes:
    return Codes(**cache.arrays(kept, [name, str(scheme)], make), scheme=scheme)
