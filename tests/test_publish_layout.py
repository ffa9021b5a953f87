"""A repository's folder: where each file lies, what `artifact.json` says of it, and that every precision loads as sealed."""

import dataclasses
import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from conftest import made, standin
from support.commands import one_line, one_object, run
from support.publishing import Precisions, changed, contents

import shim
from converter.publish import layout, repository, sealed
from converter.publish.graph import renamed
from converter.publish.repository import Repository
from shim import artifact, integrity
from shim.artifact import Manifest
from shim.errors import IntegrityError, UsageError
from shim.listing import entry_of, hash_file

TEXTS = ["A short line.", "двенадцать месяцев", "天气很好", "copper and iron " * 60]
GRAPHS = {32: "model.onnx", 16: "model_fp16.onnx", 8: "model_quantized.onnx", 4: "model_q4.onnx"}
PICTURES = {"assets/cosines.svg", "assets/parity.svg"}  # of several precisions


def built(folder: Path, *paths: Path) -> Repository:
    """The repository of these artifacts, in a new folder."""
    folder.mkdir()
    return layout.build(sealed.gather(list(paths)), folder, "acme/tiny-onnx")


@pytest.mark.parametrize("kind", ["onnx", "data"])
def test_precisions_share_a_repository_and_each_gives_the_vectors_of_its_artifact(
    precisions: Precisions, tmp_path: Path, kind: str
) -> None:
    given = {bits: precisions(bits, kind) for bits in (8, 4, 32, 16)}
    expected = {bits: shim.load(path, min_parity=0).embed(TEXTS).dense for bits, path in given.items()}
    folder = tmp_path / "repository"
    whole = built(folder, *given.values())
    data = [f"onnx/{name}_data" for name in GRAPHS.values()] if kind == "data" else []
    assert {path.relative_to(folder).as_posix() for path in folder.glob("onnx/*")} == {
        *(f"onnx/{name}" for name in GRAPHS.values()),
        *data,
    }
    manifest = json.loads((folder / "artifact.json").read_text())
    assert (manifest["schema"], manifest["name"], manifest["default"]) == (5, "tiny-onnx", "8bit")
    assert list(manifest["precisions"]) == ["32bit", "16bit", "8bit", "4bit"]
    assert manifest["files"].keys() == PICTURES
    listed = {name: entry for each in manifest["precisions"].values() for name, entry in each["files"].items()}
    listed |= manifest["files"]
    assert contents(folder).keys() == listed.keys() | {"README.md", "artifact.json"}
    assert listed == {name: entry_of(folder / name) for name in listed}
    assert repository.read(folder / "artifact.json", whole.id) == whole
    for bits, path in given.items():
        before, after = artifact.read(path), whole.precisions[f"{bits}bit"]
        assert dataclasses.replace(after, files={}) == dataclasses.replace(before, files={})
        assert len(after.files) == len(before.files)
        model = shim.load(folder, precision=f"{bits}bit", min_parity=0)
        np.testing.assert_array_equal(model.embed(TEXTS).dense, expected[bits])
        integrity.check_files(path, before)  # the artifact is as it was


def test_transformers_js_is_told_which_graphs_have_a_file_of_data(precisions: Precisions, tmp_path: Path) -> None:
    plain = json.loads((precisions(8) / "config.json").read_text())
    whole = built(tmp_path / "none", precisions(8), precisions(16))
    assert (tmp_path / "none/config.json").read_bytes() == (precisions(8) / "config.json").read_bytes()
    assert whole.files.keys() == {"onnx/model.onnx", *PICTURES}
    assert whole.files["onnx/model.onnx"]["sha256"] == hash_file(precisions(16) / "onnx/model.onnx")
    built(tmp_path / "some", precisions(8, "data"), precisions(16))
    config = json.loads((tmp_path / "some/config.json").read_text())
    assert config.pop("transformers.js_config") == {"use_external_data_format": {"model_quantized.onnx": 1}}
    assert config == plain
    old = plain | {"transformers.js_config": {"use_external_data_format": True, "dtype": "q8"}}  # as the original's says
    again = changed(precisions(8), tmp_path / "old", "config.json", json.dumps(old).encode())
    built(tmp_path / "theirs", again)
    assert json.loads((tmp_path / "theirs/config.json").read_text())["transformers.js_config"] == {"dtype": "q8"}


@pytest.mark.parametrize("kind", ["onnx", "data"])
def test_the_most_exact_graph_has_the_name_that_loaders_look_for(precisions: Precisions, tmp_path: Path, kind: str) -> None:
    folder = tmp_path / "repository"
    whole = built(folder, precisions(8, kind), precisions(16, kind))
    names = ["onnx/model.onnx", "onnx/model.onnx_data"] if kind == "data" else ["onnx/model.onnx"]
    assert whole.files.keys() == {*names, *PICTURES}
    tokens = np.array([[102, 110, 103]])
    feed = {"input_ids": tokens, "attention_mask": np.ones_like(tokens), "token_type_ids": np.zeros_like(tokens)}
    vectors = [
        onnxruntime.InferenceSession(folder / "onnx" / name).run(None, feed)[1] for name in ("model.onnx", "model_fp16.onnx")
    ]
    np.testing.assert_array_equal(*vectors)
    assert hash_file(folder / "onnx/model.onnx") == hash_file(precisions(16, kind) / "onnx/model.onnx")


def test_the_second_output_is_the_vector(precisions: Precisions) -> None:
    """fastembed takes the second output of a graph that pools, and the first of one that does not."""
    session = onnxruntime.InferenceSession(precisions(8) / "onnx/model.onnx")
    names = [value.name for value in session.get_outputs()]
    assert names == ["last_hidden_state", "sentence_embedding", "token_embeddings"]


def test_an_mlx_artifact_keeps_its_layout(precisions: Precisions, tmp_path: Path) -> None:
    path, folder = precisions(8, "mlx"), tmp_path / "repository"
    whole = built(folder, path)
    assert (whole.default, list(whole.precisions), list(whole.files)) == ("8bit", ["8bit"], ["assets/cosines.svg"])
    assert whole.precisions["8bit"] == artifact.read(path)
    before, after = contents(path), contents(folder)
    del before["README.md"], before["artifact.json"], after["README.md"], after["artifact.json"], after["assets/cosines.svg"]
    assert after == before
    model = shim.load(folder)
    np.testing.assert_array_equal(model.embed(TEXTS).dense, shim.load(path).embed(TEXTS).dense)


@pytest.mark.parametrize(("target", "bits"), [("onnx", 32), ("onnx", 16), ("mlx", 16)])
def test_the_further_heads_are_there_as_the_original_has_them(tmp_path: Path, target: str, bits: int) -> None:
    path, _ = made("bge-m3", target, bits)
    whole = built(tmp_path / "repository", path)
    for name in ("sparse_linear.pt", "colbert_linear.pt"):
        original = torch.load(standin("bge-m3") / name, weights_only=True)
        found = torch.load(tmp_path / "repository" / name, weights_only=True)
        assert list(found) == list(original) == ["weight", "bias"]
        for key, tensor in original.items():
            assert found[key].dtype == tensor.dtype == torch.float16
            assert torch.equal(found[key], tensor)
        assert name in whole.files


def test_the_same_artifacts_make_the_same_bytes(precisions: Precisions, tmp_path: Path) -> None:
    heads = made("bge-m3", "onnx", 32)[0]
    for number, order in enumerate(((8, 16), (16, 8))):
        built(tmp_path / f"tiny-{number}", *(precisions(bits, "data") for bits in order))
        built(tmp_path / f"heads-{number}", heads)
    for name in ("tiny", "heads"):
        assert contents(tmp_path / f"{name}-0") == contents(tmp_path / f"{name}-1")


def test_what_is_not_sealed_is_refused(
    below: tuple[subprocess.CompletedProcess[str], Path], precisions: Precisions, tmp_path: Path
) -> None:
    failed = one_line(run("converter", "publish", below[1], "--org", "acme", "--dry-run", "--out", tmp_path / "out", check=4))
    assert "verdict is fail, not pass; --allow-unverified publishes it, marked so" in failed
    shutil.copytree(precisions(8), tmp_path / "copy")
    (tmp_path / "copy/vocab.txt").write_bytes(b"other words")
    arguments = (tmp_path / "copy", "--org", "acme", "--dry-run", "--out", tmp_path / "out", "--allow-unverified")
    assert "vocab.txt differs from the manifest" in one_line(run("converter", "publish", *arguments, check=4))
    assert not (tmp_path / "out").exists()
    allowed = run("converter", "publish", below[1], *arguments[1:])
    assert "2bit (fail)" in allowed.stdout
    assert json.loads((tmp_path / "out/artifact.json").read_text())["precisions"]["2bit"]["parity"]["verdict"] == "fail"


def other(manifest: Manifest) -> list[tuple[Manifest, str]]:
    """Manifests that are not of the same model, and in what."""
    source = {**manifest.source, "revision": "another", "files": {}}
    spec = dataclasses.replace(manifest.model, max_tokens=64)
    return [
        (dataclasses.replace(manifest, recipe="other"), "recipe"),
        (dataclasses.replace(manifest, source=source), "the original (repository, revision or files)"),
        (dataclasses.replace(manifest, model=spec), "model"),
        (dataclasses.replace(manifest, license="other"), "license"),
    ]


def test_artifacts_that_cannot_share_a_repository(precisions: Precisions, tmp_path: Path) -> None:
    for number, (manifest, what) in enumerate(other(artifact.read(precisions(16)))):
        shutil.copytree(precisions(16), tmp_path / str(number))
        artifact.write(tmp_path / str(number), manifest)
        with pytest.raises(
            UsageError, match="tiny-onnx-32bit and tiny-onnx-16bit cannot share a repository: they differ in "
        ) as e:
            sealed.gather([tmp_path / str(number), precisions(32)])
        assert str(e.value).endswith(what)
    with pytest.raises(UsageError, match="only ONNX artifacts of one model share a repository"):
        sealed.gather([precisions(8, "mlx"), precisions(8)])
    with pytest.raises(UsageError, match="two artifacts of the same precision"):
        sealed.gather([precisions(8, "data"), precisions(8)])
    words = changed(precisions(16), tmp_path / "words", "vocab.txt", b"other words")
    with pytest.raises(UsageError, match=r"16bit and 8bit cannot share a repository: vocab\.txt is not the same"):
        built(tmp_path / "a", words, precisions(8))
    config = json.loads((precisions(16) / "config.json").read_text()) | {"hidden_act": "relu"}
    shape = changed(precisions(16), tmp_path / "shape", "config.json", json.dumps(config).encode())
    with pytest.raises(UsageError, match=r"config\.json is not the same"):
        built(tmp_path / "b", shape, precisions(8))


def test_data_outside_the_artifact_is_not_published(precisions: Precisions, tmp_path: Path) -> None:
    graph = tmp_path / "model.onnx"
    model = onnx.load(precisions(8, "data") / "onnx/model.onnx", load_external_data=False)
    external = next(tensor for tensor in model.graph.initializer if tensor.external_data)
    next(entry for entry in external.external_data if entry.key == "location").value = "../model.onnx_data"
    onnx.save(model, graph)
    with pytest.raises(IntegrityError, match=r"lies in \.\./model\.onnx_data, not in model\.onnx_data"):
        renamed(graph, "model_quantized.onnx")


def test_a_dry_run_needs_no_hub_and_keeps_what_is_there(
    precisions: Precisions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "")
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    command = ("publish", precisions(8), precisions(16), "--org", "acme", "--dry-run")
    done = run("converter", *command, cwd=tmp_path)
    assert done.stdout.startswith("acme/tiny-onnx: would be published; it lies in tiny-onnx\n")
    files = contents(tmp_path / "tiny-onnx")
    assert all(f"  {name}\n" in done.stdout + "\n" for name in files)
    assert "tiny-onnx exists; --out DIR takes another folder" in one_line(run("converter", *command, cwd=tmp_path, check=2))
    assert contents(tmp_path / "tiny-onnx") == files
    told = one_object(run("converter", *command, "--out", "other", "--json", cwd=tmp_path))
    assert told["sent"] == {name: len(content) for name, content in files.items()}
    assert (told["repository"], told["path"], told["default"]) == ("acme/tiny-onnx", "other", "8bit")
    assert told["precisions"] == {"16bit": "pass", "8bit": "pass"}
    assert contents(tmp_path / "other") == files
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other", "tiny-onnx"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--org", "../acme"), "../acme/tiny-onnx: not a repository's name"),
        (("--org", "acme/evil"), "acme/evil/tiny-onnx: not a repository's name"),
        (("--org", ""), "/tiny-onnx: not a repository's name"),
        (("--org", "acme", "--name", "../x"), "acme/../x: not a repository's name"),
        (("--org", "acme", "--name", ".."), "acme/..: not a repository's name"),
        (("--org", "acme", "--name", "a b"), "acme/a b: not a repository's name"),
        (("--org", "acme", "--revision", "../main"), "--revision '../main' is not a branch's name"),
        (("--org", "acme", "--revision", "a..b"), "--revision 'a..b' is not a branch's name"),
        (("--org", "acme", "--out", "x"), "--out goes with --dry-run"),
        ((), "Missing option '--org'"),
    ],
)
def test_wrong_usage_is_one_line(precisions: Precisions, tmp_path: Path, arguments: tuple[str, ...], message: str) -> None:
    dry = () if "--out" in arguments else ("--dry-run",)
    assert message in one_line(run("converter", "publish", precisions(8), *arguments, *dry, cwd=tmp_path, check=2))
    assert list(tmp_path.iterdir()) == []
