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
    data, found = _read(directory / CARD), Facts()
    named = data.get("license_name") if data.get("license") == OTHER else data.get("license")
    if isinstance(named, str) and named:
        license = named.lower() if named.lower() in IDS else named
        texts = [name for name in LICENSES if (directory / name).is_file()]
        link = data.get("license_link") or (texts[0] if texts and license not in IDS else "")
        found["license"] = Fact(license, CARD)
        found |= {"license_link": Fact(link, CARD)} if isinstance(link, str) and link else {}
    language = data.get("language")
    codes = [
        "no" if code is False else code for code in (language if isinstance(language, list) else [language])
    ]  # YAML's `no`
    if codes and all(isinstance(code, str) and code for code in codes):
        found["language"] = Fact(codes, CARD)
    if data.get("pipeline_tag") in PIPELINE_TAGS:
        found["pipeline_tag"] = Fact(data["pipeline_tag"], CARD)
    return found


def _read(path: Path) -> JsonObject:
    if not path.is_file():
        return {}
    from huggingface_hub import metadata_load

    try:
        return metadata_load(path) or {}
    except Exception:  # whatever a YAML parser raises: a card that cannot be read says nothing
        return {}
