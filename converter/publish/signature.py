"""A signature of `artifact.json`, whose hashes hold every other file; `shim.signature` checks it."""

import os
import shutil
import tempfile
from pathlib import Path

from shim import signature
from shim.errors import IntegrityError, SourceError, UsageError
from shim.listing import MANIFEST, SIGNATURE


def sign(directory: Path, private_key: str | os.PathLike[str], before: Path | None = None) -> None:
    """Write `artifact.json.sig` beside the manifest in `directory`.

    private_key: the PEM file of an elliptic key (P-256, P-384, P-521) without a password. before: a signature that stays if it
    is by this key and fits, as any two differ. Raises UsageError for another key, SourceError when the disk cannot be written.
    """
    public, path = public_key(private_key), directory / SIGNATURE
    from model_signing import signing

    try:
        if before is not None and _fits(directory, before, public):
            shutil.copyfile(before, path)
            return
        temporary = path.with_name(f".{SIGNATURE}.tmp")
        signing.Config().use_elliptic_key_signer(private_key=private_key).sign(directory / MANIFEST, temporary)
        temporary.replace(path)
    except OSError as error:
        raise SourceError(f"{path}: cannot be written ({error.strerror})") from None


def public_key(private_key: str | os.PathLike[str]) -> bytes:
    """The PEM of the public key that belongs to it. Raises UsageError for a file that holds no private key of ours."""
    try:
        from cryptography.hazmat.primitives import serialization
        from model_signing import signing
    except ImportError:
        raise UsageError("model-signing is not installed: pip install 'sealport[sign]'") from None
    try:
        signing.Config().use_elliptic_key_signer(private_key=private_key)  # refuses the curves that it does not know
        key = serialization.load_pem_private_key(Path(private_key).read_bytes(), None)
    except Exception as error:  # OSError, and whatever a PEM parser finds in a file of another kind
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise UsageError(f"{os.fspath(private_key)}: not the PEM file of a private elliptic key ({reason})") from None
    return key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


def _fits(directory: Path, before: Path, public: bytes) -> bool:
    with tempfile.TemporaryDirectory() as folder:
        for source, name in ((directory / MANIFEST, MANIFEST), (before, SIGNATURE)):
            shutil.copyfile(source, Path(folder, name))
        Path(folder, "key").write_bytes(public)
        try:
            signature.check(Path(folder), Path(folder, "key"))
        except IntegrityError:
            return False
    return True
