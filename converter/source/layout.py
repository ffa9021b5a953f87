"""Where the parts of a checkpoint lie: the modules of sentence-transformers, by the paths that modules.json gives them."""

import json
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from shim.errors import SourceError, UsageError
from shim.jsons import Json

MODULES = "modules.json"
SUPPORTED = ("Transformer", "Pooling", "Dense", "Normalize", "Dropout", "LogitScore")
# What others are, for the line that refuses them.
KNOWN = {
    "Router": "sends queries and documents through modules of their own",
    "Asym": "sends queries and documents through modules of their own",
    "CLIPModel": "embeds images",
    "StaticEmbedding": "has a table of words and no transformer",
    "SpladePooling": "gives sparse vectors of the vocabulary",
    "MLMTransformer": "gives sparse vectors of the vocabulary",
    "MultiVectorMask": "gives a vector for each token",
}


@dataclass(frozen=True)
class Layout:
    """Folders relative to the checkpoint's directory; "" is that directory itself.

    transformer: of config.json, weights and tokenizer. pooling, logit_score: of these modules, None where there is none.
    steps: (type, folder) of what follows the pooling, Dense or Normalize. listed: whether there is a modules.json.
    """

    transformer: str = ""
    pooling: str | None = None
    steps: tuple[tuple[str, str], ...] = ()
    logit_score: str | None = None
    listed: bool = False

    def file(self, name: str) -> str:
        """A file beside the transformer's config.json, relative to the checkpoint's directory."""
        return f"{self.transformer}/{name}" if self.transformer else name

    @property
    def folders(self) -> list[str]:
        """The folders of the modules behind the transformer."""
        found = [self.pooling, self.logit_score, *(folder for _, folder in self.steps)]
        return [folder for folder in found if folder]


# Of models whose config.json names code of their own: (a key and its value), and who has the weights for transformers' class.
PORTED = {
    ("model_type", "new"): "alibaba-nlp-community/gte-multilingual-base",
    ("architectures", "['XLMRobertaLoRA']"): "jinaai/jina-embeddings-v3-hf",
}


def check_code(directory: Path) -> None:
    """Raise UsageError for a model by code of its own of which there is one for transformers' own class, and name that."""
    try:
        config = json.loads((directory / "config.json").read_bytes())
    except (OSError, ValueError, RecursionError):
        return  # said where the file is needed
    for (key, value), port in PORTED.items():
        if isinstance(config, dict) and "auto_map" in config and str(config.get(key)) == value:
            raise UsageError(
                f"{directory}: a model by code of its own, which is not run; {port} is one for transformers' class"
            )


def read_layout(directory: Path) -> Layout:
    """The layout of the checkpoint in `directory`: by its modules.json, or everything at the top.

    Raises SourceError for a modules.json that is none, UsageError for modules that are not supported.
    """
    if not (directory / MODULES).is_file():
        return Layout()
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
    kind, path = str(entry["type"]), PurePosixPath(folder)
    if path.is_absolute() or ".." in path.parts:
        raise SourceError(f"modules.json: folder {str(path)!r} lies outside the checkpoint")
    if not kind.startswith("sentence_transformers."):
        raise UsageError(f"modules.json: {kind} is a module of the repository's own code, which is not supported")
    return kind.rsplit(".", 1)[-1], "" if str(path) == "." else path.as_posix()
