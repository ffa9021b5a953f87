"""Small made-up data sets of tasks, as files."""

import json
from pathlib import Path

PAIRS = [
    ("The ferry leaves at seven.", "The boat departs at 7.", 4.5),
    ("The ferry leaves at seven.", "The soup needs more salt.", 0.0),
    ("She repairs old clocks.", 'He said: "mend the watch"', 2.5),
    ("A dog sleeps under the table.", "A cat sleeps on the roof.", 2.0),
    ("Copper became cheaper in March.", "In March the price of copper fell.", 5.0),
    ("The harbour is closed.", "Ships cannot enter, the harbour is shut.", 4.0),
]
DOCUMENTS = {
    "d1": ("Ferries", "The ferry leaves at seven from the old harbour."),
    "d2": ("", "Soup wants salt, and an hour of patience."),
    "d3": ("Copper", "The price of copper fell in March."),
    "d4": ("Clocks", ""),
    "d5": ("", ""),
    "d6": ("", "Nobody sleeps under the table but the dog."),
}
QUERIES = {"q1": "when does the boat go", "q2": "what does the soup need", "q3": "who asks this", "q4": "price of copper"}
QRELS = "query-id\tcorpus-id\tscore\nq1\td1\t1\nq2\td2\t2\nq2\td6\t1\nq3\td3\t0\nq4\td3\t1\n"


def write_pairs(path: Path, pairs: list[tuple[str, str, float]] = PAIRS) -> Path:
    """The pairs as JSON Lines."""
    lines = [json.dumps(dict(zip(("sentence1", "sentence2", "score"), pair, strict=True))) for pair in pairs]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def write_retrieval(folder: Path) -> Path:
    """The made-up set in BEIR's layout."""
    (folder / "qrels").mkdir(parents=True)
    documents = [{"_id": id, "title": title, "text": text, "metadata": {}} for id, (title, text) in DOCUMENTS.items()]
    queries = [{"_id": id, "text": text} for id, text in QUERIES.items()]
    for name, entries in (("corpus", documents), ("queries", queries)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in entries), encoding="utf-8")
    (folder / "qrels/test.tsv").write_text(QRELS, encoding="utf-8")
    return folder


def write_xquad(shared: Path, folder: Path) -> Path:
    """XQuAD's English part in BEIR's layout: its paragraphs, under their articles' titles, and two questions on each."""
    (folder / "qrels").mkdir(parents=True)
    corpus, queries, qrels = [], [], ["query-id\tcorpus-id\tscore"]
    for article in json.loads((shared / "data/xquad/xquad.en.json").read_text(encoding="utf-8"))["data"]:
        for number, paragraph in enumerate(article["paragraphs"]):
            id = f"{article['title']}-{number}"
            corpus.append({"_id": id, "title": article["title"], "text": paragraph["context"]})
            for question in paragraph["qas"][:2]:
                queries.append({"_id": question["id"], "text": question["question"]})
                qrels.append(f"{question['id']}\t{id}\t1")
    for name, entries in (("corpus", corpus), ("queries", queries)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in entries), encoding="utf-8")
    (folder / "qrels/test.tsv").write_text("\n".join(qrels) + "\n", encoding="utf-8")
    return folder
