"""What the front matter of a checkpoint's model card says: the license, the languages, what the model is for."""

from pathlib import Path
from typing import Any

from converter.licenses import IDS, OTHER
from converter.source.facts import Fact, Facts

CARD = "README.md"
LICENSES = ("LICENSE", "LICENSE.md", "LICENSE.txt")  # files with the text of a license
NOTICES = (*LICENSES, "NOTICE", "NOTICE.md", "NOTICE.txt")  # what a copy must bring along
PIPELINE_TAGS = ("feature-extraction", "sentence-similarity")  # the hub's tasks of an embedder


def front_matter(directory: Path) -> Facts:
    """license: an id of the hub, or of another license its name; license_link: an address or a file of the checkpoint;
    language: a list of codes; pipeline_tag: one of PIPELINE_TAGS."""
    data = _read(directory / CARD)
    named = data.get("license_name") if data.get("license") == OTHER else data.get("license")
    found: dict[str, Any] = {}
    if named:
        found["license"] = str(named).lower() if str(named).lower() in IDS else str(named)
        texts = [name for name in LICENSES if (directory / name).is_file()]
        link = data.get("license_link") or (texts[0] if texts and found["license"] not in IDS else "")
        found |= {"license_link": str(link)} if link else {}
    if data.get("language") not in (None, "", []):
        languages = data["language"] if isinstance(data["language"], list) else [data["language"]]
        found["language"] = ["no" if code is False else str(code) for code in languages]  # YAML's `no` is Norwegian here
    if data.get("pipeline_tag") in PIPELINE_TAGS:
        found["pipeline_tag"] = data["pipeline_tag"]
    return {key: Fact(value, CARD) for key, value in found.items()}


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    from huggingface_hub import metadata_load

    try:
        return metadata_load(path) or {}
    except Exception:  # whatever a YAML parser raises: a card that cannot be read says nothing
        return {}
