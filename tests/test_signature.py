"""Who made an artifact: what is signed loads with the owner's key, and nothing that was changed since does."""

import base64
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from model_signing import signing
from support.commands import one_line, run
from support.hub import Hub
from support.published import edit, entry_of, key, publish

import shim
from converter.publish.signature import sign
from shim.errors import IntegrityError, UsageError

REPO = "acme/tiny-onnx"


@pytest.fixture
def keys(tmp_path: Path) -> tuple[Path, Path]:
    """An owner's private and public key."""
    return key(tmp_path)


@pytest.fixture
def signed(repository: Path, keys: tuple[Path, Path]) -> Path:
    sign(repository, keys[0])
    return repository


def test_what_is_signed_loads_from_a_folder_and_from_the_hub(
    reached: Hub, signed: Path, keys: tuple[Path, Path], tmp_path: Path
) -> None:
    """The card and dotfiles are the hub's and a user's: they may change."""
    (signed / "README.md").write_text("Another card.")
    (signed / ".gitattributes").write_text("*.onnx filter=lfs")
    reached.put(REPO, signed)
    folder = run("shim", "pull", REPO, "--require-signature", keys[1]).stdout.strip()
    for where in (signed, REPO, folder):
        assert shim.load(where, require_signature=keys[1]).name == "tiny-onnx-8bit"
        assert shim.load(where).name == "tiny-onnx-8bit"
    command = ("embed", REPO, "--require-signature", keys[1])
    assert len(json.loads(run("shim", *command, input='"hello"\n').stdout)["embedding"]) == 64


def test_the_librarys_own_command_takes_the_signature_too(signed: Path, keys: tuple[Path, Path]) -> None:
    command = [sys.executable, "-m", "model_signing", "verify", "key", str(signed / "artifact.json")]
    options = ["--signature", str(signed / "artifact.json.sig"), "--public_key", str(keys[1])]
    done = subprocess.run([*command, *options], capture_output=True, text=True, check=True)
    assert "succeeded" in done.stdout + done.stderr


@pytest.mark.parametrize("curve", [ec.SECP384R1(), ec.SECP521R1()])
def test_other_curves_sign_as_well(signed: Path, tmp_path: Path, curve: ec.EllipticCurve) -> None:
    private, public = key(tmp_path, "other", ec.generate_private_key(curve))
    sign(signed, private)
    assert shim.load(signed, require_signature=public).name == "tiny-onnx-8bit"


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def another_payload(folder: Path) -> None:
    """The signature's own list of hashes says what the changed manifest is; its signature is the old one."""
    edit(folder, lambda m: m.update(default="32bit"))
    bundle = json.loads((folder / "artifact.json.sig").read_text())
    payload = json.loads(base64.b64decode(bundle["dsseEnvelope"]["payload"]))
    payload["predicate"]["resources"][0]["digest"] = entry_of(folder / "artifact.json")["sha256"]
    bundle["dsseEnvelope"]["payload"] = base64.b64encode(json.dumps(payload).encode()).decode()
    (folder / "artifact.json.sig").write_text(json.dumps(bundle))


def sign_by_another(folder: Path) -> None:
    sign(folder, key(folder.parent, "another")[0])


def without_hint(folder: Path) -> None:
    """By another's key, and nothing says whose."""
    sign_by_another(folder)
    bundle = json.loads((folder / "artifact.json.sig").read_text())
    del bundle["verificationMaterial"]["publicKey"]["hint"]
    (folder / "artifact.json.sig").write_text(json.dumps(bundle))


def replace_by_symlink(folder: Path, name: str) -> None:
    shutil.move(folder / name, folder.parent / "moved")
    (folder / name).symlink_to(folder.parent / "moved")


CHANGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "a file changed": (lambda f: flip(f / "onnx/model_quantized.onnx"), "model_quantized.onnx differs"),
    "a tokenizer changed": (lambda f: flip(f / "tokenizer.json"), "tokenizer.json differs"),
    "another precision changed": (lambda f: flip(f / "onnx/model.onnx"), "onnx/model.onnx differs"),
    "a picture changed": (lambda f: flip(f / "assets/parity.svg"), "parity.svg differs"),
    "a file added": (lambda f: (f / "model.safetensors").write_bytes(b"x"), "model.safetensors is not listed"),
    "a file removed": (lambda f: (f / "vocab.txt").unlink(), "vocab.txt is missing"),
    "a file renamed": (lambda f: (f / "vocab.txt").rename(f / "words.txt"), "words.txt is not listed"),
    "two files exchanged": (lambda f: shutil.copy(f / "config.json", f / "modules.json"), "modules.json differs"),
    "the manifest changed": (lambda f: edit(f, lambda m: m.update(default="32bit")), "signature does not fit"),
    "the manifest spaced otherwise": (lambda f: (f / "artifact.json").open("a").write(" "), "signature does not fit"),
    "changed and listed": (
        lambda f: (
            flip(f / "vocab.txt"),
            edit(f, lambda m: [p["files"].update({"vocab.txt": entry_of(f / "vocab.txt")}) for p in m["precisions"].values()]),
        ),
        "signature does not fit",
    ),
    "the signature's list changed": (another_payload, "signature does not fit"),
    "no signature": (lambda f: (f / "artifact.json.sig").unlink(), "not signed"),
    "an empty signature": (lambda f: (f / "artifact.json.sig").write_text(""), "signature does not fit"),
    "a signature of nothing": (lambda f: (f / "artifact.json.sig").write_text("{}"), "signature does not fit"),
    "a deep signature": (lambda f: (f / "artifact.json.sig").write_text("[" * 60_000), "signature does not fit"),
    "a huge signature": (lambda f: (f / "artifact.json.sig").write_text("[" * 70_000), "over 65536 bytes"),
    "another's signature": (sign_by_another, "signature does not fit"),
    "another's, unnamed": (without_hint, "signature does not fit"),
    "a symlink to the manifest": (lambda f: replace_by_symlink(f, "artifact.json"), "signature does not fit"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_was_changed_after_signing_is_refused(signed: Path, keys: tuple[Path, Path], change: str) -> None:
    alter, message = CHANGES[change]
    alter(signed)
    line = one_line(run("shim", "embed", signed, "--require-signature", keys[1], check=4), "shim")
    assert message in line
    with pytest.raises(IntegrityError, match=message):
        shim.load(signed, require_signature=keys[1], allow_unverified=True)


HUB = {
    "a file added": "",  # it is not listed, so it is not fetched
    "a file renamed": "vocab.txt is missing",
    "another precision changed": "",
    "a picture changed": "",
    "a symlink to the manifest": "",  # the hub gives its content
    "a huge signature": "is larger than the 65536 bytes",
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_was_changed_on_the_hub_is_refused(
    reached: Hub, signed: Path, keys: tuple[Path, Path], tmp_path: Path, change: str
) -> None:
    """What no list names, or what is of another precision, does not come along at all."""
    alter, message = CHANGES[change]
    alter(signed)
    reached.put(REPO, signed)
    message = HUB.get(change, message)
    command = ("pull", REPO, "--require-signature", keys[1])
    if not message:
        folder = Path(run("shim", *command).stdout.strip())
        assert shim.load(str(folder), require_signature=keys[1]).name == "tiny-onnx-8bit"
        assert not [path for path in folder.rglob("*") if path.name in ("model.safetensors", "parity.svg", "model.onnx")]
        return
    line = one_line(run("shim", *command, check=4), "shim")
    assert message in line
    assert str(tmp_path) not in line.replace(str(tmp_path / "cache"), "")
    assert not (tmp_path / "sealport").exists()


def test_a_manifest_that_was_signed_for_another_repository_is_refused(
    reached: Hub, signed: Path, keys: tuple[Path, Path]
) -> None:
    """Whoever may write to a repository but has no key could put an owner's other model there."""
    reached.put("acme/large-onnx", signed)
    line = one_line(run("shim", "pull", "acme/large-onnx", "--require-signature", keys[1], check=4), "shim")
    assert "the manifest signed is that of 'tiny-onnx'" in line


def test_a_folder_pulled_before_it_was_asked_for_gets_the_signature(
    reached: Hub, repository: Path, keys: tuple[Path, Path]
) -> None:
    unsigned = reached.put(REPO, repository)
    shim.load(REPO)
    with pytest.raises(IntegrityError, match="not signed"):
        shim.load(REPO, require_signature=keys[1])
    sign(repository, keys[0])
    reached.put(REPO, repository)
    assert shim.load(REPO, require_signature=keys[1]).revision != unsigned
    with pytest.raises(IntegrityError, match="not signed"):
        shim.load(f"{REPO}@{unsigned}", require_signature=keys[1])


def test_a_signature_of_another_kind_by_the_same_owner_is_refused(
    signed: Path, keys: tuple[Path, Path], tmp_path: Path
) -> None:
    """The owner signed a folder with the library's own command, and an older manifest."""
    (tmp_path / "other").mkdir()
    shutil.copy(signed / "artifact.json", tmp_path / "other")
    config = signing.Config().use_elliptic_key_signer(private_key=keys[0])
    config.sign(tmp_path / "other", signed / "artifact.json.sig")
    with pytest.raises(IntegrityError, match="signature does not fit"):
        shim.load(signed, require_signature=keys[1])


def rsa_key(folder: Path) -> Path:
    public = rsa.generate_private_key(65537, 2048).public_key()
    pem = public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    (folder / "rsa.pub").write_bytes(pem)
    return folder / "rsa.pub"


BAD_KEYS: dict[str, Callable[[Path], Path]] = {
    "none": lambda folder: folder / "nothing.pub",
    "private": lambda folder: folder / "key.pem",
    "rsa": rsa_key,
    "another curve": lambda folder: key(folder, "koblitz", ec.generate_private_key(ec.SECP256K1()))[1],
    "no key": lambda folder: folder / "tiny-onnx/artifact.json",
    "a folder": lambda folder: folder,
}


@pytest.mark.parametrize("name", BAD_KEYS)
def test_a_key_that_is_none_is_wrong_usage(signed: Path, keys: tuple[Path, Path], tmp_path: Path, name: str) -> None:
    bad = BAD_KEYS[name](tmp_path)
    with pytest.raises(UsageError, match="not the PEM file of a public elliptic key"):
        shim.load(signed, require_signature=bad)
    run("shim", "embed", signed, "--require-signature", bad, check=2)
    with pytest.raises(UsageError, match="not the PEM file of a private elliptic key"):
        sign(signed, bad if name != "private" else keys[1])


def test_without_the_library_its_extra_is_named(signed: Path, keys: tuple[Path, Path], monkeypatch: Any) -> None:
    monkeypatch.setitem(sys.modules, "model_signing", None)
    line = one_line(run("shim", "embed", signed, "--require-signature", keys[1], check=2), "shim")
    assert line.endswith("pip install 'sealport[sign]'\n")
    with pytest.raises(UsageError, match=r"sealport\[sign\]"):
        sign(signed, keys[0])


def test_an_artifact_alone_may_be_signed(tiny_8bit: Path, keys: tuple[Path, Path], tmp_path: Path) -> None:
    """It may be verified again: the signature is none of the files that are sealed."""
    folder = Path(shutil.copytree(tiny_8bit, tmp_path / "alone"))
    sign(folder, keys[0])
    assert shim.load(folder, require_signature=keys[1]).name == "tiny-onnx-8bit"
    assert "artifact.json.sig" not in shim.listing.hash_files(folder)
    assert publish(tmp_path / "again", folder).is_dir()
