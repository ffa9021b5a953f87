"""The project's own texts are what the design says, and calibration has none of the verification's."""

import json
from collections import Counter
from pathlib import Path

import pytest
from support.checkpoints import minilm
from tokenizers import Tokenizer

from converter.corpus import CALIBRATION, DOCUMENTS, VERIFICATION, Text, rankings, read

ALIGNED = ("sentence", "paragraph", "query", "answer", "related")


@pytest.mark.parametrize("path", [VERIFICATION, CALIBRATION, DOCUMENTS], ids=lambda path: path.stem)
def test_every_line_has_its_four_keys_and_a_text_of_its_own(path: Path) -> None:
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]
    assert all(line.keys() == {"id", "lang", "kind", "text"} for line in lines)
    for key in ("id", "text"):
        assert max(Counter(line[key].strip() for line in lines).values()) == 1
    aligned = Counter(line["id"].rsplit(".", 1)[0] for line in lines if line["kind"] in ALIGNED)
    assert set(aligned.values()) == {3}


def test_verification_covers_what_it_must() -> None:
    texts = read(VERIFICATION)
    kinds, languages = Counter(text.kind for text in texts), Counter(text.lang for text in texts)
    assert len(texts) >= 200
    assert min(languages[lang] for lang in ("en", "ru", "zh")) >= 50
    assert min(kinds[kind] for kind in ("code", "query", "word", "number", "emoji")) >= 9
    tokenizer = Tokenizer.from_file(str(minilm() / "tokenizer.json"))
    tokenizer.no_truncation()
    assert sum(len(tokenizer.encode(text.text).ids) > 1000 for text in texts if text.kind == "long") >= 10


def test_calibration_and_verification_have_nothing_in_common() -> None:
    def pieces(texts: list[Text]) -> set[str]:
        """Runs of 40 characters, spaces and case aside: a shared sentence is found wherever it starts."""
        flat = ["".join(text.text.casefold().split()) for text in texts]
        return {text[start : start + 40] for text in flat for start in range(max(1, len(text) - 39))}

    shared = {piece for piece in pieces(read(CALIBRATION)) & pieces(read(VERIFICATION) + read(DOCUMENTS)) if len(piece) >= 12}
    assert shared == set()


def test_a_users_text_file_is_one_text_a_line(tmp_path: Path) -> None:
    path = tmp_path / "mine.txt"
    path.write_text("one\n\nзима\n", encoding="utf-8")
    assert [(text.id, text.text) for text in read(path)] == [("1", "one"), ("3", "зима")]


def test_every_query_has_its_answers_and_others_to_rank() -> None:
    found = rankings(read(VERIFICATION))
    assert len(found) == 30
    seen = set()
    for ranking in found:
        kinds = Counter(document.kind for document in ranking.documents)
        assert (kinds["answer"], kinds["related"], len(ranking.documents)) == (3, 3, 10)
        assert all(
            d.id.startswith(ranking.query.id.split(".")[0]) for d in ranking.documents if d.kind in ("answer", "related")
        )
        assert len({document.text for document in ranking.documents} | {ranking.query.text}) == 11
        seen |= {document.id for document in ranking.documents}
    assert len(seen) > 150
    few = [Text(str(number), "und", "text", f"text {number}") for number in range(4)]
    assert [len(ranking.documents) for ranking in rankings(few)] == [3, 3, 3, 3]
    assert len(rankings(few[:1])[0].documents) == 1
