"""The seal of a manifest: a hash of all else that it says, so that no word of it is changed by hand and still believed.

Whoever changes it on purpose can compute the seal anew: who made an artifact, a signature says.
"""

import hashlib
import json
from pathlib import Path

from shim.errors import IntegrityError
from shim.jsons import JsonObject

KEY = "seal"


def sealed(manifest: JsonObject) -> JsonObject:
    """The manifest with its seal, the SHA-256 of all other keys, whatever their order and spacing in the file."""
    rest = unsealed(manifest)
    content = json.dumps(rest, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return rest | {KEY: hashlib.sha256(content.encode()).hexdigest()}


def unsealed(manifest: JsonObject) -> JsonObject:
    """The manifest without its seal."""
    return {key: value for key, value in manifest.items() if key != KEY}


def check(manifest: JsonObject, path: Path) -> None:
    """Raise IntegrityError unless the manifest, whose file is `path`, is what it was when it was sealed."""
    if KEY not in manifest:
        raise IntegrityError(f"{path}: has no {KEY}; convert or download the artifact again")
    if manifest[KEY] != sealed(manifest)[KEY]:
        raise IntegrityError(f"{path}: was changed after it was sealed; convert or download the artifact again")
