"""What the front matter of a checkpoint's model card says: the license, the languages, what the model is for."""

from pathlib import Path

from converter.licenses import IDS, OTHER
from converter.source.facts import Fact, Facts
from shim.jsons import JsonObject

CARD = "README.md"
LICENSES = ("LICENSE", "LICENSE.md", "LICENSE.txt")  # files with the text of a license
NOTICES = (*LICENSES, "NOTICE", "NOTICE.md", "NOTICE.txt")  # what a copy must bring along
PIPELINE_TAGS = ("feature-extraction", "sentence-similarity")  # the hub's tasks of an embedder


def front_matter(directory: Path) -> Facts:
    """What the checkpoint's card says, of values that are text: other people's YAML may hold anything.

    license: an id of the hub, or of another license its name; license_link: an address or a file of the checkpoint; language: a
    list of codes; pipeline_tag: one of PIPELINE_TAGS.
    """
    data = _read(directory / CARD)
    named = data.get("license_name") if data.get("license") == OTHER else data.get("license")
    found: dict[str, object] = {}
    if isinstance(named, str) and named:
        found["license"] = named.lower() if named.lower() in IDS else named
        texts = [name for name in LICENSES if (directory / name).is_file()]
        link = data.get("license_link") or (texts[0] if texts and found["license"] not in IDS else "")
        found |= {"license_link": link} if isinstance(link, str) and link else {}
    codes = data.get("language")
    languages = ["no" if code is False else code for code in (codes if isinstance(codes, list) else [codes])]  # YAML's `no`
    if languages and all(isinstance(code, str) and code for code in languages):
        found["language"] = languages
    if data.get("pipeline_tag") in PIPELINE_TAGS:
        found["pipeline_tag"] = data["pipeline_tag"]
    return {key: Fact(value, CARD) for key, value in found.items()}


def _read(path: Path) -> JsonObject:
    if not path.is_file():
        return {}
    from huggingface_hub import metadata_load

    try:
        return metadata_load(path) or {}
    except Exception:  # whatever a YAML parser raises: a card that cannot be read says nothing
        return {}
