"""What a published repository shows: its card, the pictures, and the license that lets it be there."""

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
from support.commands import one_line, one_object
from support.hub import Hub
from support.hub.cards import problems
from support.publishing import REPO, Precisions, Publish, commits, there

from shim import artifact

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # as in a process of the command's own


def relicensed(path: Path, into: Path, license: str) -> Path:
    """A copy of an artifact whose original has another license."""
    shutil.copytree(path, into)
    artifact.write(into, dataclasses.replace(artifact.read(into), license=license))
    return into


def test_the_card_shows_every_precision_and_pictures_that_are_listed(
    hub: Hub, publish: Publish, precisions: Precisions
) -> None:
    publish(precisions(32), precisions(8))
    files = there(hub)
    text, listed = files["README.md"].decode(), json.loads(files["artifact.json"])["files"]
    assert problems(text) == ([], [])
    assert f'shim.load("{REPO}", precision="8bit")' in text
    for name in ("assets/cosines.svg", "assets/parity.svg"):
        assert f"]({name})" in text
        assert name in listed
        assert b"prefers-color-scheme: dark" in files[name]
    for name in ("`onnx/model.onnx`", "`onnx/model_quantized.onnx`"):
        assert name in text
    publish(precisions(16))
    assert "| 16bit | `onnx/model_fp16.onnx` |" in there(hub)["README.md"].decode()
    assert there(hub)["assets/cosines.svg"] == files["assets/cosines.svg"], "it is of the 8 bits that stayed"
    assert there(hub)["assets/parity.svg"] != files["assets/parity.svg"]


def test_an_mlx_artifact_has_a_histogram_and_no_curve_of_one_point(hub: Hub, publish: Publish, precisions: Precisions) -> None:
    publish(precisions(8, "mlx"))
    files = there(hub, "acme/tiny-mlx-8bit")
    assert "assets/cosines.svg" in files
    assert "assets/parity.svg" not in files
    assert b"](assets/parity.svg)" not in files["README.md"]
    assert b"### mlx-embeddings" in files["README.md"]


def test_no_commercial_use_is_accepted_by_name_to_publish(
    hub: Hub, publish: Publish, precisions: Precisions, tmp_path: Path
) -> None:
    path = relicensed(precisions(8), tmp_path / "bound", "cc-by-nc-4.0")
    line = one_line(publish(path, check=2))
    assert "(https://creativecommons.org/licenses/by-nc/4.0/), forbids commercial use; --accept-license cc-by-nc-4.0" in line
    assert one_line(publish(path, "--accept-license", "mit", "--dry-run", check=2)) == line
    assert not hub.requests("POST", "/api/repos")
    publish(path, "--accept-license", "cc-by-nc-4.0")
    assert "**No commercial use.**" in there(hub)["README.md"].decode()
    assert len(commits(hub)) == 1


def test_an_unknown_license_is_not_published(hub: Hub, publish: Publish, precisions: Precisions, tmp_path: Path) -> None:
    path = relicensed(precisions(8), tmp_path / "unknown", "unknown")
    assert "its license is unknown" in one_object(publish(path, "--json", check=2))["error"]
    assert not hub.requests("POST", "/api/repos")
