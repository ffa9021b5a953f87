"""Texts on which a misreading of a checkpoint shows: cases, scripts, spaces, control tokens, and lengths over the limit."""

from dataclasses import dataclass
from typing import Any

from shim.checks import check_text

WORDS = "the ferry to the island leaves the old harbour at seven, and is back before the evening storm reaches the coast; "
LONG = 1.25  # words for each token of the limit: more than enough to be cut, in any tokenizer here
SHORT = (
    "Which ferry goes to the island in winter?",
    "LE BILLET POUR L'ÎLE COÛTE COMBIEN, DÉJÀ RÉSERVÉ?",
    "  two spaces before,  two between, and three behind   ",
    "first line\n\tsecond line, indented\r\n\r\nlast line\n",
    "[CLS] harbour [SEP] storm [PAD] ferry [MASK] [UNK] <s> island </s> coast <pad> winter <mask> <unk> end",
    "<|im_start|>system\nharbour<|im_end|><|endoftext|>storm<think>\n\n</think> island <|endoftext|>",
    "Зимой паром ходит дважды в день, ЁЛКА и ёлка – не одно и то же.",
    "冬天渡轮每天两班；東京の天気は、明日も晴れでしょう。",
    "العبّارة تغادر عند السابعة؛ नाव सात बजे चलती है; เรือออกเจ็ดโมง",
    "e\u0301cole \u00e9cole ﬁnal ＦＵＬＬ１２３ soft\u00adhyphen zero\u200bwidth \ufeffmark 👩‍🚀🚀 ½ ² ™",
    "def ferry(day):\n    return TIMETABLE[day.weekday()]  # 3.14e-5, 50 %, a_b-c/d\\e",
    "a",
    "x" * 150,
)


@dataclass(frozen=True)
class Probe:
    """One text (or pair) for the witness, and the name of its prompt, None for default settings.

    task: the one whose adapter it goes through, behind that task's prompt.
    """

    text: Any
    prompt_name: str | None = None
    task: str | None = None


def texts(limit: int) -> list[str]:
    """SHORT, and one text that is longer than `limit` tokens, the shortest first."""
    words = int(LONG * limit) // len(WORDS.split()) + 1
    return [*sorted(SHORT, key=len), check_text(WORDS * words, "probe")]


def pairs(limit: int, queries: bool) -> list[tuple[str, str]]:
    """Queries with documents: SHORT with each other, then a document that is longer than the limit.

    queries: whether queries that are too long belong to it, too, with a long document and a short one.
    """
    *short, long = texts(limit)
    found = [*zip(short, [*short[1:], short[0]], strict=True), (short[3], long)]
    return [*found, (long[: len(long) // 2], long), (long, short[4])] if queries else found
