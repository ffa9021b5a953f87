"""What publishing does not touch: precisions of another original, another model's repository, files of others."""

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
from support.commands import one_line
from support.hub import Hub
from support.publishing import REPO, Precisions, Publish, changed, commits, expected, there, told

from shim import artifact

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # as in a process of the command's own


def test_precisions_of_another_original_are_not_mixed_nor_lost(
    hub: Hub, publish: Publish, precisions: Precisions, tmp_path: Path
) -> None:
    publish(precisions(16), precisions(8))
    hub_files = there(hub) | {"NOTES.md": b"of an owner"}
    hub.put(REPO, hub_files)
    shutil.copytree(precisions(8), tmp_path / "newer")
    manifest = artifact.read(tmp_path / "newer")
    files = {"new": {"sha256": "0" * 64, "size": 1}}
    artifact.write(tmp_path / "newer", dataclasses.replace(manifest, source={**manifest.source, "files": files}))
    refused = one_line(publish(tmp_path / "newer", check=2))
    assert "acme/tiny-onnx has 16bit, which differs from tiny-onnx-8bit in the original" in refused
    assert refused.endswith("give its artifact too, or --replace\n")
    words = changed(precisions(8), tmp_path / "words", "vocab.txt", b"other words")
    assert "16bit and 8bit cannot share a repository: vocab.txt is not the same" in one_line(publish(words, check=2))
    assert there(hub) == hub_files, "nothing happened"
    replaced = told(publish(tmp_path / "newer", "--replace", "--json"))
    assert replaced["deleted"] == ["assets/16bit/cosines.json", "assets/parity.svg", "onnx/model_fp16.onnx"]
    assert there(hub) == expected(tmp_path, tmp_path / "newer") | {"NOTES.md": b"of an owner"}
    assert commits(hub)[0]["message"] == "Change 8bit; remove 16bit"
    assert commits(hub)[0]["description"].splitlines()[-1] == "- onnx/model_fp16.onnx"


def test_mlx_artifacts_do_not_share(hub: Hub, publish: Publish, precisions: Precisions, tmp_path: Path) -> None:
    publish(precisions(8, "mlx"))
    assert there(hub, "acme/tiny-mlx-8bit") == expected(tmp_path, precisions(8, "mlx"))
    for path in (precisions(16, "mlx"), precisions(8)):
        refused = one_line(publish(path, "--name", "tiny-mlx-8bit", check=2))
        assert "acme/tiny-mlx-8bit has 8bit, tiny-mlx-8bit; --name gives tiny-" in refused
    publish(precisions(16, "mlx"), "--name", "tiny-mlx-8bit", "--replace")
    files = there(hub, "acme/tiny-mlx-8bit")
    assert json.loads(files["artifact.json"])["name"] == "tiny-mlx-8bit"
    assert list(json.loads(files["artifact.json"])["precisions"]) == ["16bit"]


def test_files_of_others_are_not_written_over(hub: Hub, publish: Publish, precisions: Precisions) -> None:
    hub.put(REPO, {"config.json": b"{}", "model.safetensors": b"theirs", "README.md": b"# Theirs", ".gitignore": b"x"})
    message = "acme/tiny-onnx has files of others (config.json, model.safetensors); --name takes another, --replace writes"
    assert message in one_line(publish(precisions(8), check=2))
    assert there(hub)["config.json"] == b"{}"
    publish(precisions(8), "--replace", "--create-pr")
    assert there(hub)["config.json"] == b"{}"
    proposed = there(hub, ref="refs/pr/1")
    assert proposed["model.safetensors"] == b"theirs"
    assert proposed["config.json"] == (precisions(8) / "config.json").read_bytes()


def test_what_a_gitignore_would_keep_out_stops_it(hub: Hub, publish: Publish, precisions: Precisions) -> None:
    hub.put(REPO, {".gitignore": b"# words\n*.txt\n"})
    for _ in range(2):
        assert (
            "acme/tiny-onnx: its .gitignore keeps vocab.txt out; nothing was committed"
            in publish(precisions(8), check=3).stderr
        )
        assert there(hub).keys() == {".gitignore"}
        assert len(commits(hub)) == 1


def test_what_the_manifest_of_the_hub_does_not_hold_up_is_not_kept(hub: Hub, publish: Publish, precisions: Precisions) -> None:
    publish(precisions(8))
    files = there(hub)
    hub.put(REPO, files | {"onnx/model_quantized.onnx": b"something else"})
    assert "onnx/model_quantized.onnx differs from its artifact.json" in one_line(publish(precisions(16), check=4))
    hub.put(REPO, {name: content for name, content in files.items() if name != "onnx/model_quantized.onnx"})
    assert "onnx/model_quantized.onnx is missing there" in one_line(publish(precisions(16), check=4))
    hub.put(REPO, {name: content for name, content in files.items() if name != "onnx/model.onnx"})
    assert "onnx/model.onnx is missing there" in one_line(publish(precisions(4), "--allow-unverified", check=4))
    hub.put(REPO, files | {"artifact.json": files["artifact.json"].replace(b"onnx/model_quantized.onnx", b"../../evil")})
    assert "has files of others" in one_line(publish(precisions(16), check=2))
    publish(precisions(8), precisions(16), "--replace")
    assert there(hub).keys() == files.keys() | {"onnx/model_fp16.onnx", "assets/16bit/cosines.json", "assets/parity.svg"}
