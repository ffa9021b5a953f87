"""Who made an artifact: a signature of `artifact.json`, whose hashes hold every other file."""

import contextlib
import io
import os
from pathlib import Path

from shim.errors import IntegrityError, UsageError
from shim.held import private_folder
from shim.jsons import MAX_MANIFEST
from shim.listing import MANIFEST, SIGNATURE, open_file

MAX_SIGNATURE = 1 << 16  # bytes; of an elliptic key it is some 1,500


def check(directory: Path, public_key: str | os.PathLike[str]) -> bytes:
    """The content of `artifact.json`, of which `artifact.json.sig` is a signature by the owner of the key, else IntegrityError.

    public_key: the PEM file of an elliptic key (P-256, P-384, P-521); UsageError where it is none. Both files lie in
    `directory`. The signature is a Sigstore bundle: https://github.com/sigstore/model-transparency.
    """
    try:
        from model_signing import verifying
    except ImportError:
        raise UsageError("model-signing is not installed: pip install 'sealport[sign]'") from None
    try:
        verifier = verifying.Config().use_elliptic_key_verifier(public_key=public_key)
    except Exception as error:  # OSError, and whatever a PEM parser finds in a file of another kind
        raise UsageError(f"{os.fspath(public_key)}: not the PEM file of a public elliptic key ({_line(error)})") from None
    if not (directory / SIGNATURE).is_file():
        raise IntegrityError(f"{directory}: not signed (no {SIGNATURE}), and a signature is required")
    with private_folder() as folder:  # the library reads files, and what is used must be what it read
        for name, limit in ((MANIFEST, MAX_MANIFEST), (SIGNATURE, MAX_SIGNATURE)):
            if (directory / name).is_symlink():
                raise IntegrityError(f"{directory}: the signature does not fit {MANIFEST} and the key ({name} is a symlink)")
            with open_file(directory, name) as file:
                content = file.read(limit + 1)
            if len(content) > limit:
                raise IntegrityError(f"{directory / name}: over {limit} bytes, none of ours")
            (folder / name).write_bytes(content)
        try:
            with contextlib.redirect_stdout(io.StringIO()):  # the library prints that a signature does not name its key
                verifier.verify(folder / MANIFEST, folder / SIGNATURE)
        except Exception as error:  # its parsers, pydantic's and cryptography's errors have no common base
            raise IntegrityError(f"{directory}: the signature does not fit {MANIFEST} and the key ({_line(error)})") from None
        return (folder / MANIFEST).read_bytes()


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
