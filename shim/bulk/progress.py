"""How far a run is: a line on a terminal that is written over, else a line now and then; and the sum at the end."""

import shutil
import sys
import time
from dataclasses import dataclass, field

from shim.bulk.shards import Written
from shim.jsons import JsonObject

EVERY, SELDOM = 0.5, 30.0  # seconds between two lines, on a terminal and elsewhere
MILLION = 1_000_000


@dataclass
class Progress:
    """Counts of a run. sizes: bytes of each input, by its name."""

    sizes: dict[str, int]
    texts: int = 0
    tokens: int = 0
    truncated: int = 0
    rejected: int = 0
    skipped: int = 0  # texts of shards that were there
    orphans: list[str] = field(default_factory=list)  # shards of files that are no longer among the inputs
    _read: dict[str, float] = field(default_factory=dict)  # share of each input that is done
    _skipped_bytes: float = 0.0
    _began: float = field(default_factory=time.monotonic)
    _shown: float = 0.0
    _ended: float = 0.0

    def skip(self, input: str, read: float, texts: int, rejected: int) -> None:
        """Count a shard that was there already; read: see Rows."""
        self.skipped += texts
        self.rejected += rejected
        self._skipped_bytes += self._advance(input, read)

    def add(self, input: str, read: float, written: Written) -> None:
        """Count a shard that was written."""
        self.texts += written.texts
        self.tokens += written.tokens
        self.truncated += written.truncated
        self.rejected += written.rejected
        self._advance(input, read)

    def _advance(self, input: str, read: float) -> float:
        before = self._read.get(input, 0.0)
        self._read[input] = max(before, read)
        return (self._read[input] - before) * self.sizes[input]

    @property
    def seconds(self) -> float:
        """Since the first shard could be embedded, until the run was closed."""
        return max((self._ended or time.monotonic()) - self._began, 1e-9)

    def begin(self) -> None:
        """The artifact is loaded."""
        self._began = self._shown = time.monotonic()

    def show(self) -> None:
        """A line, if the last one is old enough."""
        now, terminal = time.monotonic(), sys.stderr.isatty()
        if now - self._shown < (EVERY if terminal else SELDOM):
            return
        self._shown = now
        total, done = sum(self.sizes.values()), sum(self.sizes[name] * read for name, read in self._read.items())
        share = done / total if total else 0.0
        texts, tokens = self.texts / self.seconds, self.tokens / self.seconds
        line = f"{share:4.0%}  {self.texts:,} texts, {texts:,.1f} a second, {tokens:,.0f} tokens"
        if done > self._skipped_bytes:
            line += f", {duration(self.seconds * (total - done) / (done - self._skipped_bytes))} left"
        if terminal:
            width = shutil.get_terminal_size().columns - 1
            bar = "█" * round(share * 20)
            sys.stderr.write(f"\r{f'{bar:·<20} {line}':<{width}.{width}}")
        else:
            sys.stderr.write(line.strip() + "\n")
        sys.stderr.flush()

    def close(self) -> None:
        """The clock stops, and the terminal is as it was."""
        self._ended = time.monotonic()
        if sys.stderr.isatty() and self._shown:
            sys.stderr.write("\r" + " " * (shutil.get_terminal_size().columns - 1) + "\r")

    def as_json(self, price: float | None) -> JsonObject:
        """The counts, and what 1 M texts take: `hours_per_million`, and `cost_per_million` where the price is known."""
        names = ("texts", "tokens", "truncated", "rejected", "skipped", "orphans", "seconds")
        found: JsonObject = {name: getattr(self, name) for name in names}
        if self.texts:
            hours = MILLION * self.seconds / self.texts / 3600
            found["hours_per_million"] = hours
            if price is not None:
                found["cost_per_million"] = hours * price
        return found

    def summary(self, rejects: str, price: float | None) -> str:
        """The line at the end. price: of the machine for an hour, in whatever money."""
        rate = self.texts / self.seconds
        line = f"{self.texts:,} texts in {duration(self.seconds)}"
        if self.texts:
            line += f": {rate:,.1f} texts and {self.tokens / self.seconds:,.0f} tokens a second; {self.truncated:,} cut"
        line += f", {self.rejected:,} rejected" + (f" (see {rejects})" if self.rejected else "")
        line += f"; {self.skipped:,} rows were there already" if self.skipped else ""
        if self.texts:
            hours = MILLION / rate / 3600
            cost = "" if price is None else f" and cost {hours * price:,.2f}"
            line += f"; 1 M such texts take {duration(hours * 3600)}{cost}"
        if self.orphans:
            some = ", ".join(self.orphans[:3]) + (", …" if len(self.orphans) > 3 else "")
            line += f"; left of inputs that are gone: {len(self.orphans):,} ({some})"
        return line


def duration(seconds: float) -> str:
    """Seconds as people say them: 42 s, 12 min, 3.4 h, 5.6 days."""
    for limit, unit, name in ((120, 1, "s"), (7200, 60, "min"), (172_800, 3600, "h")):
        if seconds < limit:
            return f"{seconds / unit:.1f} {name}" if seconds / unit < 10 else f"{seconds / unit:.0f} {name}"
    return f"{seconds / 86_400:,.1f} days"
