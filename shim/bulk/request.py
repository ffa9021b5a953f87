"""What a run is asked for: which files and columns, which artifact, how its vectors are made, and where they go."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from shim.errors import UsageError
from shim.jsons import JsonObject

COLUMN = re.compile(r"\{([^{}]+)\}")
REJECTS = "_rejects"  # of an output folder; readers of Parquet folders pass over a name with this first letter, or a dot
OWN = ("id", "embedding", "sparse_indices", "sparse_values", "colbert", "tokens", "truncated", "rejected")


@dataclass(frozen=True)
class Request:
    """One run.

    inputs: globs, of this machine or fsspec addresses. out: a folder, or an address of one. text: a column, or a template such
    as `{title}: {body}`. id: a column, or None for ids that are made. keep: further columns that are carried along.
    settings: keywords of Embedder; loading: those of `shim.load`. rows: of a shard, at most. strict: a text that cannot be
    embedded ends the run.
    """

    artifact: str
    inputs: tuple[str, ...]
    out: str
    text: str = "text"
    id: str | None = None
    keep: tuple[str, ...] = ()
    settings: Mapping[str, object] = field(default_factory=dict)
    loading: Mapping[str, str | bool | float | None] = field(default_factory=dict)
    rows: int = 4096
    strict: bool = False

    def __post_init__(self) -> None:
        if twice := {name for name in self.keep if self.keep.count(name) > 1}:
            raise UsageError(f"columns: {', '.join(sorted(twice))} is named twice")
        if taken := sorted(set(self.keep) & set(OWN)):
            raise UsageError(f"columns: {', '.join(taken)} is a column of ours; rename it in the input")

    @property
    def parts(self) -> list[str]:
        """The columns that a text is made of."""
        return list(dict.fromkeys(COLUMN.findall(self.text))) or [self.text]

    def text_of(self, values: Mapping[str, object]) -> object:
        """The text of a row, whose columns are given: what the one column holds, or the template filled in.

        In a template nothing stands for a null, and there is no text where all are null or empty.
        """
        if not COLUMN.search(self.text):
            return values.get(self.text)
        if all(values.get(name) in (None, "") for name in self.parts):
            return None
        return COLUMN.sub(lambda found: "" if values.get(found[1]) is None else str(values[found[1]]), self.text)

    def at(self, revision: str | None) -> "Request":
        """The same of a hub's repository at this commit, so that all processes load the same."""
        return self if revision is None else replace(self, artifact=f"{self.artifact.split('@')[0]}@{revision}")

    @property
    def identity(self) -> JsonObject:
        """What of it decides which rows there are."""
        return {"in": list(self.inputs), "text": self.text, "id": self.id, "columns": list(self.keep), "rows": self.rows}
