"""The rules of a tokenizer, part by part, so that two of them can be compared beyond the texts that were tried."""

import hashlib
import json

from shim.jsons import Json, array

UNSEEN = ("trim_offsets",)  # keys that change where a token lies, not which it is


def rules(tokenizer: str) -> dict[str, str]:
    """{part: digest} of a tokenizer's JSON: how texts are normalised and split, the tokens beside the vocabulary, the model."""
    whole = json.loads(tokenizer)
    parts = {
        "normalizer": _steps(whole.get("normalizer"), "normalizers"),
        "pre_tokenizer": _steps(whole.get("pre_tokenizer"), "pretokenizers"),
        "added_tokens": sorted(whole.get("added_tokens") or [], key=lambda token: int(token["id"])),
        "vocabulary": {key: value for key, value in whole["model"].items() if value},  # "" is as good as none
    }
    return {name: hashlib.sha256(json.dumps(part, sort_keys=True).encode()).hexdigest()[:16] for name, part in parts.items()}


def _steps(part: Json, key: str) -> list[Json]:
    """A step, or those of a sequence, one after the other."""
    if not isinstance(part, dict):
        return []
    if part.get("type") == "Sequence":
        return [step for inner in array(part, key) for step in _steps(inner, key)]
    return [{name: value for name, value in part.items() if name not in UNSEEN}]
