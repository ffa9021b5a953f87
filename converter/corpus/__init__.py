"""The texts that conversions are measured and calibrated on: ours beside this file, or a user's."""

import json
from dataclasses import dataclass, replace
from pathlib import Path

from shim.checks import check_texts
from shim.errors import UsageError

VERIFICATION = Path(__file__).parent / "verification.jsonl"
CALIBRATION = Path(__file__).parent / "calibration.jsonl"
DOCUMENTS = Path(__file__).parent / "documents.jsonl"


@dataclass(frozen=True)
class Text:
    """One text, its language (`code` and `und` where it has none), and its kind (`sentence`, `query`, `long`, …).

    under: the task under which it is embedded; "" for what its kind says.
    """

    id: str
    lang: str
    kind: str
    text: str
    under: str = ""

    @property
    def task(self) -> str:
        """The task under which the text is embedded, so that the prompts of a model are part of what is verified."""
        return self.under or ("retrieval.query" if self.kind == "query" else "retrieval.passage")


@dataclass(frozen=True)
class Ranking:
    """A query and the documents that a reranker orders for it."""

    query: Text
    documents: list[Text]


def under_each(texts: list[Text], tasks: list[str] | None) -> list[Text]:
    """The texts under one task after the other, so that each adapter of a model has its share; as they are without tasks."""
    return [replace(text, under=tasks[place % len(tasks)]) for place, text in enumerate(texts)] if tasks else texts


def rankings(texts: list[Text], documents: int = 10, queries: int = 30) -> list[Ranking]:
    """The queries among the texts, or where there are none the first texts, each with other texts as its documents.

    A query of ours has its answers in all languages, and texts of related matter, as a reranker must tell those apart; every
    fifth query has a text of kind `long`. The others are taken in turn, so that together the queries see all of them.
    """
    asked = [text for text in texts if text.kind == "query"][:queries] or texts[:queries]
    plain = [text for text in texts if text.kind not in ("query", "long")]
    long = [text for text in texts if text.kind == "long"]
    own = read(DOCUMENTS)
    found = []
    for number, query in enumerate(asked):
        stem = query.id.rsplit(".", 1)[0]
        chosen = [text for text in own if text.id.split(".")[0] == stem]  # verification's; calibration's have no -q
        chosen += [text for text in plain if f"{text.id.rsplit('.', 1)[0]}-q" == stem]
        if long and number % 5 == 0:
            chosen.append(long[number // 5 % len(long)])
        others = [text for text in plain if text is not query and text not in chosen] or [
            text for text in texts if text is not query
        ]
        count = min(documents - len(chosen), len(others))
        chosen += [others[(number * count + place) % len(others)] for place in range(count)]
        found.append(Ranking(query, chosen or [query]))
    return found


def judges(path: Path, task: str) -> list[Text]:
    """The texts of a file, enough to prove an artifact of the task with: see `read`.

    Raises UsageError where a ranking has fewer than three documents: of two scores the cosine is 1 or -1.
    """
    texts = read(path)
    if not path.is_file():
        raise UsageError(f"{path}: not a file that can be read again, as its hash is sealed, too")
    if task == "rerank" and min(len(ranking.documents) for ranking in rankings(texts)) < 3:
        few = f"{len(texts)} texts make rankings of under three documents"
        raise UsageError(f"{path}: {few}, which prove nothing; give 4 and more")
    return texts


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
