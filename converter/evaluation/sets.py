"""The data sets of an evaluation: sentence pairs with scores, retrieval in BEIR's layout, and NanoBEIR from the hub."""

import contextlib
import csv
import io
import json
import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from shim.checks import check_text
from shim.errors import SourceError, UsageError

HEADER = ("sentence1", "sentence2", "score")  # of pairs: the keys of a JSON object, or the first line, which may be left out
DELIMITERS = {".csv": ",", ".tsv": "\t"}
CANDIDATES = "top_ranked.jsonl"  # beside corpus.jsonl, as mteb's reranking tasks have it
MOST = 100  # documents of a set whose documents are all candidates


@dataclass(frozen=True)
class Pairs:
    """Sentence pairs, each with the similarity that people gave it, on any scale."""

    name: str
    pairs: list[tuple[str, str, float]]


@dataclass(frozen=True)
class Retrieval:
    """Queries and documents: the text of each id, and the documents that answer each query, one at least.

    candidates: the documents that a reranker orders for a query; empty where the set does not say.
    """

    name: str
    queries: dict[str, str]
    documents: dict[str, str]
    relevant: dict[str, list[str]]
    candidates: dict[str, list[str]] = field(default_factory=dict)


def gather(task: str, pairs: tuple[Path, ...], folders: tuple[Path, ...], nano: bool) -> list[Pairs | Retrieval]:
    """The sets of an evaluation, for a model of the task `embed` or `rerank`.

    Raises UsageError for what cannot be read or does not go with the task, SourceError for a hub that cannot be reached.
    """
    if pairs and task == "rerank":
        raise UsageError(f"--pairs {pairs[0]}: a reranker gives no vectors to compare; --retrieval has it order documents")
    found: list[Pairs | Retrieval] = [*map(read_pairs, pairs), *map(read_retrieval, folders)]
    for data in found if task == "rerank" else ():
        if isinstance(data, Retrieval) and not data.candidates and len(data.documents) > MOST:
            what = f"{data.name}: a reranker cannot order all {len(data.documents)} documents for each query"
            raise UsageError(f"{what}; give the candidates in {CANDIDATES}")
    found += nanobeir(task) if nano else []
    if not found:
        raise UsageError("there is nothing to evaluate on; give --pairs FILE, --retrieval DIR or --nanobeir")
    name, count = Counter(data.name for data in found).most_common(1)[0]
    if count > 1:
        raise UsageError(f"{count} sets are called {name}; rename the file or the folder of one")
    return found


def read_pairs(path: Path) -> Pairs:
    """The pairs of a .csv or .tsv file (sentence, sentence, score a line), or of a .jsonl one with the keys of HEADER.

    Raises UsageError naming file and line.
    """
    found: list[tuple[str, str, float]] = []
    if path.suffix not in (*DELIMITERS, ".jsonl"):
        raise UsageError(f"{path}: pairs are a file .csv, .tsv or .jsonl")
    for number, fields in _objects(path) if path.suffix == ".jsonl" else _rows(path):
        values: list[Any] = [fields.get(key) for key in HEADER] if isinstance(fields, dict) else fields
        if number == 1 and tuple(values) == HEADER:
            continue
        try:
            one, other, score = values
            found.append((check_text(one, HEADER[0]), check_text(other, HEADER[1]), float(score)))
            if not math.isfinite(found[-1][2]):
                raise UsageError(f"score {score} is not a number")
        except (TypeError, ValueError) as error:  # UsageError is one
            reason = error if isinstance(error, UsageError) else f"not {', '.join(HEADER)}"
            raise UsageError(f"{path}:{number}: {reason}") from None
    if len({score for *_, score in found}) < 2:
        raise UsageError(f"{path}: holds no pairs with different scores; there is nothing to correlate")
    return Pairs(path.stem, found)


def read_retrieval(folder: Path) -> Retrieval:
    """A set in BEIR's layout: corpus.jsonl (_id, title, text), queries.jsonl (_id, text), and qrels/test.tsv or the only one.

    A title goes before its text; a document without either is left out, as no model can be asked for it. A score over 0 makes
    a document relevant. Candidates are top_ranked.jsonl (query-id, corpus-ids), where that is there.
    Raises UsageError naming file and line.
    """
    documents = _texts(folder / "corpus.jsonl", ("title", "text"))
    queries = _texts(folder / "queries.jsonl", ("text",))
    qrels = sorted((folder / "qrels").glob("*.tsv"))
    qrels = [path for path in qrels if path.name == "test.tsv"] or qrels
    if len(qrels) != 1:
        there = ", ".join(path.name for path in qrels) or "nothing"
        raise UsageError(f"{folder / 'qrels'}: holds {there}; one of them must be test.tsv, or it the only one")
    relevant: dict[str, list[str]] = {}
    for number, row in _rows(qrels[0]):
        try:
            query, document, score = row[0], row[1], float(row[2])
        except (IndexError, ValueError):
            if number == 1:  # the header
                continue
            raise UsageError(f"{qrels[0]}:{number}: not query-id, corpus-id, score") from None
        _known(query, queries, f"{qrels[0]}:{number}", "queries.jsonl")
        _known(document, documents, f"{qrels[0]}:{number}", "corpus.jsonl")
        if score > 0 and document not in relevant.setdefault(query, []):
            relevant[query].append(document)
    asked = {query: text for query, text in queries.items() if relevant.get(query)}
    if not asked:
        raise UsageError(f"{qrels[0]}: names no relevant document")
    for query, text in asked.items():
        check_text(text, f"{folder / 'queries.jsonl'}: query {query}")
    candidates: dict[str, list[str]] = {}
    for number, entry in _objects(folder / CANDIDATES) if (folder / CANDIDATES).exists() else ():
        query, ids = str(entry.get("query-id")), entry.get("corpus-ids")
        if not isinstance(ids, list):
            raise UsageError(f"{folder / CANDIDATES}:{number}: not query-id, corpus-ids")
        _known(query, queries, f"{folder / CANDIDATES}:{number}", "queries.jsonl")
        for document in map(str, ids):
            _known(document, documents, f"{folder / CANDIDATES}:{number}", "corpus.jsonl")
        candidates[query] = [document for document in map(str, ids) if documents[document]]
    if candidates and (without := [query for query in asked if query not in candidates]):
        raise UsageError(f"{folder / CANDIDATES}: names no candidates of query {without[0]}")
    kept = {document: text for document, text in documents.items() if text}
    return Retrieval(folder.resolve().name, asked, kept, {query: relevant[query] for query in asked}, candidates)


def nanobeir(task: str) -> list[Retrieval]:
    """The sets of NanoBEIR, as sentence-transformers' evaluators fetch them; for rerankers the best 100 documents of BM25.

    Raises SourceError where they cannot be had.
    """
    import huggingface_hub
    from sentence_transformers.cross_encoder.evaluation import CrossEncoderNanoBEIREvaluator
    from sentence_transformers.sentence_transformer.evaluation import NanoBEIREvaluator

    huggingface_hub.logging.set_verbosity_error()  # of each try, a line
    try:
        with contextlib.redirect_stderr(io.StringIO()):  # a bar of their own
            if task == "rerank":
                return [_of_samples(one.name, one.samples) for one in CrossEncoderNanoBEIREvaluator().evaluators]
            return [_of_evaluator(one) for one in NanoBEIREvaluator().evaluators]
    except Exception as error:  # datasets raises its own, the hub client's, and OSError
        reason = str(error.__cause__ or error).strip().split("\n")[0]
        raise SourceError(f"NanoBEIR cannot be fetched from the hub ({reason}); --retrieval DIR takes a local copy") from None


def _of_evaluator(given: Any) -> Retrieval:
    """given: an InformationRetrievalEvaluator."""
    queries = dict(zip(given.queries_ids, given.queries, strict=True))
    relevant = {query: sorted(given.relevant_docs[query]) for query in queries}
    return Retrieval(given.name, queries, dict(zip(given.corpus_ids, given.corpus, strict=True)), relevant)


def _of_samples(name: str, samples: list[dict[str, Any]]) -> Retrieval:
    """samples: those of a CrossEncoderRerankingEvaluator, which have texts and no ids."""
    queries = {str(number): sample["query"] for number, sample in enumerate(samples)}
    relevant = {query: sample["positive"] for query, sample in zip(queries, samples, strict=True)}
    candidates = {query: sample["documents"] for query, sample in zip(queries, samples, strict=True)}
    texts = {text: text for given in (relevant, candidates) for own in given.values() for text in own}
    return Retrieval(name, queries, texts, relevant, candidates)


def _texts(path: Path, keys: tuple[str, ...]) -> dict[str, str]:
    found: dict[str, str] = {}
    for number, entry in _objects(path):
        parts = [entry.get(key) or "" for key in keys]
        if "_id" not in entry or not all(isinstance(part, str) for part in parts):
            raise UsageError(f"{path}:{number}: not _id, {', '.join(keys)}")
        if str(entry["_id"]) in found:
            raise UsageError(f"{path}:{number}: _id {entry['_id']} is there twice")
        found[str(entry["_id"])] = check_text(" ".join(parts).strip(), f"{path}:{number}: text", empty=True)
    return found


def _known(key: str, among: dict[str, str], where: str, file: str) -> None:
    if key not in among:
        raise UsageError(f"{where}: {key} is not in {file}")


def _objects(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Line numbers and the JSON objects in them."""
    for number, line in enumerate(_read(path).split("\n"), 1):
        if line.strip():
            try:
                value = json.loads(line)
            except (ValueError, RecursionError):
                value = None
            if not isinstance(value, dict):
                raise UsageError(f"{path}:{number}: not a JSON object")
            yield number, value


def _rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Line numbers and their fields; in .tsv files quotes mean nothing."""
    delimiter = DELIMITERS[path.suffix]
    text = io.StringIO(_read(path), newline="")  # str.splitlines would also split inside a field, at U+2028 and the like
    quoting: Any = csv.QUOTE_NONE if delimiter == "\t" else csv.QUOTE_MINIMAL
    reader = csv.reader(text, delimiter=delimiter, quoting=quoting, strict=True)
    try:
        yield from ((reader.line_num, row) for row in reader if row)
    except csv.Error as error:
        raise UsageError(f"{path}:{reader.line_num}: {error}") from None


def _read(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise UsageError(f"{path}: not UTF-8") from None
