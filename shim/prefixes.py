"""What the pairs of a query begin with, its template and the query, is computed once; then its keys and values stand for it."""

import threading
from collections.abc import Sequence
from weakref import WeakKeyDictionary

import numpy as np

from shim.runtimes import PRESENT, Runtime
from shim.text import Encoded, Prefix, TextEncoder, Tokens

LEAST = 16  # tokens of a prefix: a pass over fewer costs more than it saves
HELD = 2048  # tokens whose keys and values are held at once, of a 0.6b model 0.5 GB; of a longer prefix, its first ones


class Prefixes:
    """A runtime behind the prefixes of its rows. Keys and values are held as long as their request is, and there is room."""

    def __init__(self, runtime: Runtime, encoder: TextEncoder):
        self.runtime, self.encoder = runtime, encoder
        self.held: WeakKeyDictionary[Prefix, np.ndarray] = WeakKeyDictionary()
        self._lock = threading.Lock()  # several threads may compute

    def run(self, encoded: Sequence[Encoded], names: tuple[str, ...]) -> dict[str, np.ndarray]:
        """`Runtime.run` of one batch. The rows of each prefix are computed by themselves, all others together."""
        groups: dict[Prefix | None, list[int]] = {}
        for row, item in enumerate(encoded):
            groups.setdefault(item.prefix if self._pays(item.prefix) else None, []).append(row)
        found = []
        for prefix, rows in groups.items():
            tokens = self.encoder.batch([encoded[row] for row in rows])
            found.append(self.runtime.run(tokens, names) if prefix is None else self._behind(prefix, tokens, names))
        if len(found) == 1:
            return found[0]
        order = np.argsort([row for rows in groups.values() for row in rows])
        return {name: np.concatenate([part[name] for part in found])[order] for name in names}  # scores: a row has one

    def _pays(self, prefix: Prefix | None) -> bool:
        return self.runtime.takes_past and prefix is not None and prefix.pairs > 1 and len(prefix.ids) >= LEAST

    def _behind(self, prefix: Prefix, tokens: Tokens, names: tuple[str, ...]) -> dict[str, np.ndarray]:
        # As many tokens as all rows have in common with the prefix, but each keeps the one that it is scored by.
        ids = np.array(prefix.ids[: min(HELD, tokens.input_ids.shape[1])])
        same = (tokens.input_ids[:, : len(ids)] == ids).all(axis=0)
        length = int(min(np.cumprod(same).sum(), tokens.attention_mask.sum(axis=1).min() - 1))
        if length < LEAST:
            return self.runtime.run(tokens, names)
        rest = Tokens(*(array[:, length:] for array in (tokens.input_ids, tokens.attention_mask, tokens.token_type_ids)))
        return self.runtime.run(rest, names, self._past(prefix)[:, :length])

    def _past(self, prefix: Prefix) -> np.ndarray:
        past = self.held.get(prefix)
        if past is None:
            ids = np.array([prefix.ids[:HELD]], np.int64)
            tokens = Tokens(ids, np.ones_like(ids), np.zeros_like(ids))
            past = self.runtime.run(tokens, (PRESENT,))[PRESENT]
            with self._lock:
                while self.held and sum(array.shape[1] for array in self.held.values()) + past.shape[1] > HELD:
                    del self.held[next(iter(self.held))]
                self.held[prefix] = past
        return past
