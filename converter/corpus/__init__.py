"""The texts that conversions are measured and calibrated on: ours beside this file, or a user's."""

import json
from dataclasses import dataclass
from pathlib import Path

from shim.errors import UsageError
from shim.text import check_texts

VERIFICATION = Path(__file__).parent / "verification.jsonl"
CALIBRATION = Path(__file__).parent / "calibration.jsonl"


@dataclass(frozen=True)
class Text:
    """One text, its language (`code` and `und` where it has none), and its kind (`sentence`, `query`, `long`, …)."""

    id: str
    lang: str
    kind: str
    text: str

    @property
    def task(self) -> str:
        """The task under which the text is embedded, so that the prompts of a model are part of what is verified."""
        return "retrieval.query" if self.kind == "query" else "retrieval.passage"


def read(path: Path) -> list[Text]:
    """The texts of a JSON Lines file whose objects have `text` (and may have id, lang, kind), or of a text file, one a line.

    Raises UsageError naming file and line.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines() if path.suffix != ".jsonl" else _json_lines(path)
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise UsageError(f"{path}: not UTF-8") from None
    texts = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        entry = {"text": line}
        if path.suffix == ".jsonl":
            try:
                entry = json.loads(line)
                check_texts([entry["text"]])
            except (ValueError, KeyError, TypeError, RecursionError) as error:
                raise UsageError(f"{path}:{number}: not an object with a text ({error})") from None
        fields = {"id": str(number), "lang": "und", "kind": "text"} | {key: str(value) for key, value in entry.items()}
        texts.append(Text(fields["id"], fields["lang"], fields["kind"], fields["text"]))
    if not texts:
        raise UsageError(f"{path}: holds no texts")
    return texts


def _json_lines(path: Path) -> list[str]:
    # str.splitlines would also split at U+2028 and the like, which JSON allows inside a string.
    return path.read_text(encoding="utf-8-sig").split("\n")
