"""From `convert publish --sign` to `shim … --require-signature`: what the owner published loads, and nothing else does."""

import json
from pathlib import Path

import pytest
from support.commands import one_line, run
from support.hub import Hub
from support.published import key
from support.publishing import REPO, Precisions, Publish, commits, there, told

import shim

SIGNATURE = "artifact.json.sig"
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # as in a process of the command's own


def test_what_is_signed_is_loaded_by_its_key_and_nothing_that_was_changed_since(
    hub: Hub, publish: Publish, precisions: Precisions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SEALPORT_CACHE", str(tmp_path / "sealport"))
    private, public = key(tmp_path)
    publish(precisions(8, "data"), precisions(16), "--sign", private)
    for precision in ("8bit", "16bit"):
        model = shim.load(REPO, precision=precision, require_signature=public)
        kind = "data" if precision == "8bit" else "onnx"
        expected = shim.load(precisions(int(precision[:-3]), kind)).embed(["hello"]).dense
        assert (model.embed(["hello"]).dense == expected).all()
    published = there(hub)
    changed = json.loads(published["artifact.json"])
    changed["default"] = "16bit"
    hub.put(REPO, published | {"artifact.json": json.dumps(changed).encode()})
    assert "signature does not fit" in one_line(run("shim", "pull", REPO, "--require-signature", public, check=4), "shim")
    hub.put(REPO, published | {"vocab.txt": published["vocab.txt"][::-1]})
    assert "vocab.txt differs" in one_line(run("shim", "pull", REPO, "--require-signature", public, check=4), "shim")
    other = key(tmp_path, "other")[1]
    assert "signature does not fit" in one_line(run("shim", "pull", REPO, "--require-signature", other, check=4), "shim")


def test_a_signature_that_fits_stays_and_any_other_is_replaced(
    hub: Hub, publish: Publish, precisions: Precisions, tmp_path: Path
) -> None:
    """Two signatures of the same are never the same."""
    first, second = key(tmp_path)[0], key(tmp_path, "second")[0]
    publish(precisions(8))
    publish(precisions(8), "--sign", first)
    assert commits(hub)[0]["description"] == f"+ {SIGNATURE}"
    signed = there(hub)
    assert told(publish(precisions(8), "--sign", first, "--json"))["commit"] is None
    assert told(publish(precisions(8), "--json"))["commit"] is None, "what was signed stays signed"
    publish(precisions(8), "--sign", second)
    assert commits(hub)[0]["description"] == f"~ {SIGNATURE}"
    assert there(hub)[SIGNATURE] != signed[SIGNATURE]
    publish(precisions(16), "--sign", second)
    assert {f"~ {SIGNATURE}", "~ artifact.json"} < set(commits(hub)[0]["description"].splitlines())


def test_a_dry_run_signs_too(publish: Publish, precisions: Precisions, tmp_path: Path) -> None:
    private, public = key(tmp_path)
    publish(precisions(8), "--sign", private, "--dry-run", "--out", tmp_path / "dry")
    assert shim.load(tmp_path / "dry", require_signature=public).name == "tiny-onnx-8bit"


def test_a_key_that_is_none_is_refused_before_anything_is_asked(
    hub: Hub, publish: Publish, precisions: Precisions, tmp_path: Path
) -> None:
    public = key(tmp_path)[1]
    assert "not the PEM file of a private elliptic key" in one_line(publish(precisions(8), "--sign", public, check=2))
    assert not hub.log
