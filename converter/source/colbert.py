"""ColBERT: what a checkpoint says of the tokens of queries and documents, in PyLate's, its authors' or the library's own words.

Source: sentence-transformers 6.2, MultiVectorEncoder, which reads all three; PyLate's `config_sentence_transformers.json`; the
`artifact.metadata` of ColBERT's authors.
"""

import dataclasses
import string
from pathlib import Path
from typing import NamedTuple

from tokenizers import Tokenizer

from converter.source.checkpoint import read_json
from converter.source.facts import Fact
from converter.source.layout import Layout
from converter.source.sentence_config import COLBERT, sentence_file
from shim.errors import SourceError, UsageError
from shim.jsons import Json, JsonObject, array
from shim.pooling import UNPOOLED
from shim.spec import MAXIMAL, ColBert

METADATA = "artifact.metadata"
LENGTH, WIDTH = 32, 128  # of a query's tokens and of a vector, where nothing says it
PREFIXES = {"query": "query_prefix", "document": "document_prefix"}
ATTENDS = ("attend_to_expansion_tokens", "attend_to_mask_tokens")
# Any of them is the sign of PyLate, which expands queries unless told otherwise.
MARKS = (*COLBERT, "do_query_expansion", *ATTENDS, *PREFIXES.values(), "skiplist_words")
EXPANSION = {"strategy", "attend", "token", "length"}


class _Said(NamedTuple):
    """prefixes: what goes before a text, a token of its own where there is such. words: those without a vector, in `tasks`."""

    file: str
    settings: JsonObject
    prefixes: dict[str, str]
    words: list[str]
    tasks: list[str]


def colbert_facts(
    directory: Path, layout: Layout, settings: JsonObject, file: str, prompts: dict[str, Fact], limit: Fact
) -> dict[str, Fact]:
    """pooling, colbert, prompt_names, default_prompt, similarity, and max_tokens, which a document has.

    settings: of `file`, the model's. limit: of tokens, where nothing else is said.
    """
    try:
        tokenizer = Tokenizer.from_file(str(directory / layout.file("tokenizer.json")))
    except Exception:  # tokenizers raises nothing more precise
        raise SourceError(f"{directory}: {layout.file('tokenizer.json')} is missing, or no tokenizer") from None
    said = _stanford(directory) if layout.stanford else _listed(directory, layout, settings, file)
    expanded, query_length = _expansion(directory, layout, said, tokenizer)
    document_length = _length(said, "document_length")
    names = dict(prompts["prompt_names"].value)
    for role, prefix in said.prefixes.items():
        names[role] = prefix + names.get(role, "").removeprefix(prefix)
    similarity = str(settings.get("similarity_fn_name")).lower()
    found = dataclasses.replace(
        expanded,
        query_length=max(query_length or limit.value, expanded.expansion),
        skipped=_ids(said.words, tokenizer, directory, layout),
        skipped_in=said.tasks,
        markers=_markers(said.prefixes, tokenizer),
    )
    return {
        "pooling": Fact(UNPOOLED, said.file),
        "colbert": Fact(found, said.file),
        "prompt_names": Fact(names, said.file),
        "default_prompt": Fact("document" if "document" in names else "", said.file),
        "similarity": Fact(similarity if similarity in MAXIMAL else MAXIMAL[0], file),
        "max_tokens": Fact(document_length, said.file) if document_length else limit,
    }


def stanford_width(directory: Path) -> int:
    """How wide the vectors are, as its metadata say it."""
    width = _metadata(directory).get("dim", WIDTH)
    if isinstance(width, bool) or not isinstance(width, int) or width < 1:
        raise SourceError(f"{METADATA}: dim must be a positive number, not {width!r}")
    return width


def _metadata(directory: Path) -> JsonObject:
    return read_json(directory / METADATA) if (directory / METADATA).is_file() else {}


def _stanford(directory: Path) -> _Said:
    data = _metadata(directory)
    prefixes = {"query": f"{data.get('query_token_id') or '[unused0]'} "}
    prefixes |= {"document": f"{data.get('doc_token_id') or '[unused1]'} "}
    settings: JsonObject = {"document_length": data.get("doc_maxlen")}
    length, attended = data.get("query_maxlen") or LENGTH, bool(data.get("attend_to_mask_tokens"))
    settings["query_expansion"] = {"strategy": "fixed", "attend": attended, "length": length}
    return _Said(
        METADATA, settings, prefixes, [*string.punctuation] if data.get("mask_punctuation", True) else [], ["document"]
    )


def _listed(directory: Path, layout: Layout, settings: JsonObject, file: str) -> _Said:
    found: JsonObject = {
        key: settings[key] for key in COLBERT if settings.get(key) is not None or key == COLBERT[2] in settings
    }
    if "query_expansion" not in found and any(key in settings for key in MARKS):
        found["query_expansion"] = None
        if settings.get("do_query_expansion") is not False:
            attended = settings.get(ATTENDS[0], settings.get(ATTENDS[1]))
            length = found.pop("query_length", None) or LENGTH
            found["query_expansion"] = {"strategy": "fixed", "attend": bool(attended), "length": length}
    own = sentence_file(directory, layout)
    if own is not None:
        found |= {key: value for key, value in read_json(directory / own).items() if key in COLBERT}
    prefixes = {role: str(settings[key] or "") for role, key in PREFIXES.items() if key in settings}
    if layout.mask is None:  # PyLate's own model, which skips punctuation unless told otherwise
        stated = settings.get("skiplist_words")
        words = [*string.punctuation] if stated is None else list(map(str, array(settings, "skiplist_words")))
        return _Said(file, found, prefixes, words, ["document"])
    mask = read_json(directory / layout.mask / "config.json")
    if mask.get("keep_only_token_ids"):
        raise UsageError(f"{layout.mask}/config.json: keep_only_token_ids is not supported, as it is for images")
    tasks = mask.get("skiplist_tasks") or ["document"]
    return _Said(
        file,
        found,
        prefixes,
        list(map(str, array(mask, "skiplist_words"))),
        [tasks] if isinstance(tasks, str) else list(map(str, array(mask, "skiplist_tasks"))) or ["document"],
    )


def _expansion(directory: Path, layout: Layout, said: _Said, tokenizer: Tokenizer) -> tuple[ColBert, int | None]:
    """What is said of masks, and a query's limit of tokens; None where it is the model's."""
    given, limit = said.settings.get("query_expansion"), _length(said, "query_length")
    if given is None:
        return ColBert(0), limit
    if not isinstance(given, dict) or not given.keys() <= EXPANSION or given.get("strategy") not in ("fixed", "min"):
        raise UsageError(f"{said.file}: query_expansion {given!r} is not supported (fixed or min, to a length)")
    length = given.get("length")
    if isinstance(length, bool) or not isinstance(length, int) or length < 1:
        raise UsageError(f"{said.file}: query_expansion to {length!r} tokens; its length must be a positive number")
    word = given.get("token") or _token(directory, layout, "mask") or _token(directory, layout, "eos")
    mask = None if word is None else tokenizer.token_to_id(str(word))
    if mask is None:
        raise UsageError(f"{said.file}: query_expansion with {word!r}, which the tokenizer does not have")
    if given["strategy"] == "fixed":
        limit = length
    return ColBert(0, length, mask, bool(given.get("attend", False))), limit and max(limit, length)


def _token(directory: Path, layout: Layout, role: str) -> str | None:
    """The tokenizer's token of a role; BERT's mask where no file names one."""
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        path = directory / layout.file(name)
        token = read_json(path).get(f"{role}_token") if path.is_file() else None
        if token is not None:
            return str(token["content"] if isinstance(token, dict) else token)
    return "[MASK]" if role == "mask" else None


def _length(said: _Said, key: str) -> int | None:
    length: Json = said.settings.get(key)
    if length is not None and (isinstance(length, bool) or not isinstance(length, int) or length < 1):
        raise UsageError(f"{said.file}: {key} must be a positive number, not {length!r}")
    return length


def _ids(words: list[str], tokenizer: Tokenizer, directory: Path, layout: Layout) -> list[int]:
    """The words' ids; those that are no tokens are left out, and never stand for the unknown one."""
    unknown = _token(directory, layout, "unk")
    ids = {word: tokenizer.token_to_id(word) for word in words}
    taken = None if unknown is None else tokenizer.token_to_id(unknown)
    return sorted({id for word, id in ids.items() if id is not None and (id != taken or word == unknown)})


def _markers(prefixes: dict[str, str], tokenizer: Tokenizer) -> list[str]:
    """The prefixes, or their first words, that the tokenizer has and would yet take apart."""
    found = []
    for value in prefixes.values():
        first = value.split(None, 1)[0] if value.split() else ""
        known = next((word for word in (value, first) if word and tokenizer.token_to_id(word) is not None), None)
        if known is not None and tokenizer.encode(known, add_special_tokens=False).tokens != [known]:
            found.append(known)
    return found
