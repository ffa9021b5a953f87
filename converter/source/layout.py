"""Where the parts of a checkpoint lie: the modules of sentence-transformers, by the paths that modules.json gives them."""

import contextlib
import json
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from shim.errors import SourceError, UsageError
from shim.jsons import Json, JsonObject

MODULES = "modules.json"
MASK, SPLADE = "MultiVectorMask", "SpladePooling"
TRANSFORMERS = ("Transformer", "MLMTransformer")
SUPPORTED = (*TRANSFORMERS, "Pooling", "Dense", "Normalize", "Dropout", "LogitScore", SPLADE, MASK)
ALIASES = {"pylate.models.Dense.Dense": "sentence_transformers.models.Dense"}  # PyLate's own class of the same
STANFORD = "HF_ColBERT"  # of `architectures` in config.json: a ColBERT as its authors' code saves it, without modules.json
# What others are, for the line that refuses them.
KNOWN = {
    "Router": "sends queries and documents through modules of their own",
    "Asym": "sends queries and documents through modules of their own",
    "CLIPModel": "embeds images",
    "StaticEmbedding": "has a table of words and no transformer",
    "SparseStaticEmbedding": "weighs a text's own words without a model",
    "SparseAutoEncoder": "makes dense vectors sparse",
    "CSRSparsity": "makes dense vectors sparse",
    "HierarchicalTokenPooling": "joins a document's vectors",
}


@dataclass(frozen=True)
class Layout:
    """Folders relative to the checkpoint's directory; "" is that directory itself.

    transformer: of config.json, weights and tokenizer. pooling, logit_score: of these modules, None where there is none.
    steps: (type, folder) of what follows the pooling, Dense or Normalize; of `per_token`, the hidden states. listed: whether
    there is a modules.json. splade, mask: of a SpladePooling and a MultiVectorMask. per_token: whether each token has a vector.
    stanford: whether that is a ColBERT as its authors' code saves it.
    """

    transformer: str = ""
    pooling: str | None = None
    steps: tuple[tuple[str, str], ...] = ()
    logit_score: str | None = None
    listed: bool = False
    splade: str | None = None
    mask: str | None = None
    per_token: bool = False
    stanford: bool = False

    def file(self, name: str) -> str:
        """A file beside the transformer's config.json, relative to the checkpoint's directory."""
        return f"{self.transformer}/{name}" if self.transformer else name

    @property
    def folders(self) -> list[str]:
        """The folders of the modules behind the transformer."""
        found = [self.pooling, self.logit_score, self.splade, self.mask, *(folder for _, folder in self.steps)]
        return [folder for folder in found if folder]


# Of models whose config.json names code of their own: (a key and its value), and who has the weights for transformers' class.
PORTED = {
    ("model_type", "new"): "alibaba-nlp-community/gte-multilingual-base",
    ("architectures", "['XLMRobertaLoRA']"): "jinaai/jina-embeddings-v3-hf",
}


def check_code(directory: Path) -> None:
    """Raise UsageError for a model by code of its own of which there is one for transformers' own class, and name that."""
    config = _config(directory)
    for (key, value), port in PORTED.items():
        if "auto_map" in config and str(config.get(key)) == value:
            raise UsageError(
                f"{directory}: a model by code of its own, which is not run; {port} is one for transformers' class"
            )


def _config(directory: Path) -> JsonObject:
    """The config.json; nothing where it cannot be read, which is said where it is needed."""
    with contextlib.suppress(OSError, ValueError, RecursionError):
        config = json.loads((directory / "config.json").read_bytes())
        return config if isinstance(config, dict) else {}
    return {}


def read_layout(directory: Path) -> Layout:
    """The layout of the checkpoint in `directory`: by its modules.json, or everything at the top.

    Raises SourceError for a modules.json that is none, UsageError for modules that are not supported.
    """
    if not (directory / MODULES).is_file():
        stanford = STANFORD in str(_config(directory).get("architectures"))
        return Layout(per_token=stanford, stanford=stanford)
    entries = [_entry(entry) for entry in _entries(directory)]
    kinds = [kind for kind, _ in entries]
    if not kinds:
        raise SourceError(f"{directory}: modules.json is an empty list")
    for kind in kinds:
        if kind not in SUPPORTED:
            why = f", which {KNOWN[kind]}" if kind in KNOWN else ""
            known = ", ".join(SUPPORTED)
            raise UsageError(f"{directory}: modules.json has a {kind} module{why}, which is not supported ({known})")
    folders = dict(reversed(entries))
    behind = [entry for entry in entries[1:] if entry[0] != "Dropout"]  # it does nothing at inference
    order = [kind for kind, _ in behind]
    if kinds[:1] == ["Transformer"] and order in ([], ["LogitScore"]):
        return Layout(folders["Transformer"], logit_score=folders.get("LogitScore"), listed=True)
    if kinds[0] in TRANSFORMERS and order == [SPLADE]:
        return Layout(folders[kinds[0]], splade=folders[SPLADE], listed=True)
    if kinds[:1] == ["Transformer"] and order.count(MASK) <= 1 and {*order} <= {"Dense", "Normalize", MASK}:
        steps = tuple(entry for entry in behind if entry[0] != MASK)
        return Layout(folders["Transformer"], steps=steps, listed=True, mask=folders.get(MASK), per_token=True)
    if kinds[:1] != ["Transformer"] or order[:1] != ["Pooling"] or not set(order[1:]) <= {"Dense", "Normalize"}:
        raise UsageError(f"{directory}: modules.json has {', '.join(kinds)}, an order that is not supported")
    return Layout(folders["Transformer"], folders["Pooling"], tuple(behind[1:]), listed=True)


def _entries(directory: Path) -> list[Json]:
    try:
        entries = json.loads((directory / MODULES).read_bytes())
    except (OSError, ValueError, RecursionError):
        entries = None
    if not isinstance(entries, list):
        raise SourceError(f"{directory}: modules.json is not a list of modules")
    return entries


def _entry(entry: Json) -> tuple[str, str]:
    """(type, folder). Raises SourceError for an entry without them, or a folder outside the checkpoint."""
    folder = entry.get("path", "") if isinstance(entry, dict) else None
    if not isinstance(entry, dict) or not isinstance(folder, str) or "type" not in entry:
        raise SourceError("modules.json is not a list of modules")
    kind, path = ALIASES.get(str(entry["type"]), str(entry["type"])), PurePosixPath(folder)
    if path.is_absolute() or ".." in path.parts:
        raise SourceError(f"modules.json: folder {str(path)!r} lies outside the checkpoint")
    if not kind.startswith("sentence_transformers."):
        raise UsageError(f"modules.json: {kind} is a module of the repository's own code, which is not supported")
    return kind.rsplit(".", 1)[-1], "" if str(path) == "." else path.as_posix()
