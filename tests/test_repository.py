"""The manifest of a published repository: which precision is loaded, and what must be there."""

import contextlib
import json
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.commands import one_line, run
from support.published import edit, publish, write

import shim
from shim import artifact, integrity
from shim.errors import IntegrityError, SealportError


def test_the_default_is_loaded_unless_another_precision_is_named(
    repository: Path, tiny_artifact: Path, tiny_8bit: Path
) -> None:
    for precision, one in ((None, tiny_8bit), ("8bit", tiny_8bit), ("32bit", tiny_artifact)):
        model = shim.load(repository, precision=precision)
        assert model.name == one.name
        np.testing.assert_array_equal(model.embed(["hello"]).dense, shim.load(one).embed(["hello"]).dense)


def test_the_graph_keeps_its_external_data(tiny_8bit: Path, tmp_path: Path) -> None:
    folder = publish(tmp_path / "external", tiny_8bit, external=True)
    assert (folder / "onnx/model_quantized.onnx_data").stat().st_size > 10_000
    expected = shim.load(tiny_8bit).embed(["hello"]).dense
    np.testing.assert_allclose(shim.load(folder).embed(["hello"]).dense, expected, atol=1e-6)


@pytest.mark.parametrize("where", ["repository", "tiny_8bit"])
def test_a_precision_that_there_is_not_is_wrong_usage(where: str, request: pytest.FixtureRequest) -> None:
    folder = request.getfixturevalue(where)
    line = one_line(run("shim", "embed", folder, "--precision", "4bit", check=2), "shim")
    assert "has no precision 4bit; it has 8bit" in line


def test_of_an_artifact_its_only_precision_may_be_named(tiny_8bit: Path) -> None:
    assert shim.load(tiny_8bit, precision="8bit").name == "tiny-onnx-8bit"


def test_files_of_other_precisions_may_be_absent_and_no_others(repository: Path) -> None:
    """In a folder that holds one precision alone, as `shim pull` makes it, that one is loaded."""
    (repository / "assets/parity.svg").unlink()
    (repository / "onnx/model_quantized.onnx").unlink()
    assert shim.load(repository).name == "tiny-onnx-32bit"
    with pytest.raises(IntegrityError, match=r"model_quantized.onnx is missing"):
        shim.load(repository, precision="8bit")
    (repository / "tokenizer.json").unlink()
    with pytest.raises(IntegrityError, match="is missing"):
        shim.load(repository)


@pytest.mark.parametrize("name", ["onnx/model_quantized.onnx", "onnx/model.onnx", "tokenizer.json", "assets/parity.svg"])
def test_every_file_that_is_there_must_be_what_the_manifest_says(repository: Path, name: str) -> None:
    """Of every precision: no loader of ours may come upon a file that was changed."""
    content = bytearray((repository / name).read_bytes())
    content[0] ^= 1
    (repository / name).write_bytes(content)
    with pytest.raises(IntegrityError, match=f"{name} differs from the manifest"):
        shim.load(repository)


def linked(folder: Path) -> None:
    shutil.move(folder / "onnx", folder.parent / "elsewhere")
    (folder / "onnx").symlink_to(folder.parent / "elsewhere")


UNLISTED: dict[str, Callable[[Path], object]] = {
    "model.safetensors": lambda folder: (folder / "model.safetensors").write_bytes(b"x"),
    "onnx/model_q4.onnx": lambda folder: (folder / "onnx/model_q4.onnx").write_bytes(b"x"),
    "dangling": lambda folder: (folder / "dangling").symlink_to("nowhere"),
    "onnx": linked,
}


@pytest.mark.parametrize("name", UNLISTED)
def test_what_no_list_names_is_refused(repository: Path, name: str) -> None:
    UNLISTED[name](repository)
    with pytest.raises(IntegrityError, match=f"{name} is not listed"):
        shim.load(repository)


def files(change: Callable[[dict[str, Any]], object]) -> Callable[[dict[str, Any]], object]:
    """A change to the list of files beside the precisions."""
    return lambda manifest: change(manifest["files"])


ENTRY = {"sha256": "0" * 64, "size": 1}
CONTRADICTIONS: list[tuple[Callable[[dict[str, Any]], object], str]] = [
    (lambda m: m.pop("default"), "key default missing"),
    (lambda m: m.update(more=1), "key more unknown"),
    (lambda m: m.update(default="4bit"), "default '4bit' is none of its precisions"),
    (lambda m: m.update(precisions=[]), "precisions must be dict"),
    (lambda m: m.update(precisions={}), "default '8bit' is none"),
    (lambda m: m["precisions"].update({"4bit": m["precisions"]["8bit"]}), "'4bit' is not a manifest of so many bits"),
    (lambda m: m["precisions"].update({"4bit": None}), "4bit of precisions must be dict"),
    (lambda m: m["precisions"].update({"../../4bit": {"bits": "../../4"}}), "must be an object"),
    (lambda m: m["precisions"]["8bit"].update(schema=5), "schema 5 unknown"),
    (lambda m: m["precisions"]["8bit"].update(files=[]), "files must be an object"),
    (lambda m: m["precisions"]["8bit"]["files"].update({"a": {**ENTRY, "size": True}}), "has no sha256 and size"),
    (lambda m: m["precisions"]["8bit"]["files"].update({"a": None}), "has no sha256 and size"),
    (lambda m: m["precisions"]["8bit"]["files"]["tokenizer.json"].update(size=7), "is listed with two contents"),
    (files(lambda f: f.update({"a": {**ENTRY, "size": -1}})), "has no sha256 and size"),
    (files(lambda f: f.update({"a": {**ENTRY, "size": True}})), "size must be int, not True"),
    (files(lambda f: f.update({"a": {**ENTRY, "size": 1.0}})), "size must be int, not 1.0"),
    (files(lambda f: f.update({"a": {**ENTRY, "sha256": "0" * 63}})), "has no sha256 and size"),
    (files(lambda f: f.update({"a": {**ENTRY, "more": 1}})), "key more unknown"),
    (files(lambda f: f.update({"a": None})), "a of files must be dict"),
    (files(lambda f: f.update({f"{number}": ENTRY for number in range(257)})), "files, over 256"),
    (files(lambda f: f.update({"A": ENTRY, "a": ENTRY})), "are one on some systems"),
    (files(lambda f: f.update({"ﬁ": ENTRY, "fi": ENTRY})), "are one on some systems"),
    (files(lambda f: f.update({"TOKENIZER.json": ENTRY})), "are one on some systems"),
    (files(lambda f: f.update({"a": ENTRY, "a/b": ENTRY})), "is the folder of"),
    (files(lambda f: f.update({"ONNX": ENTRY})), "is the folder of"),
]


@pytest.mark.parametrize(("change", "message"), CONTRADICTIONS)
def test_a_manifest_that_contradicts_itself_is_refused(
    repository: Path, change: Callable[[dict[str, Any]], object], message: str
) -> None:
    edit(repository, change)
    with pytest.raises(IntegrityError, match=message):
        artifact.read(repository)


OUTSIDE = ["/etc/x", "../x", "../../x", "a/../../x", "a/..", "..", "\\x", "..\\x", "C:/x", "C:x", "a\\..\\b", "//host/x", "a:b"]
HIDDEN = ["", ".", "a//b", "a/", "./a", ".git/config", "onnx/.x", "a\0b", "a\nb", "a\x1b[2J", "\ud800", "a.", "a /b", "\u202e"]
NOWHERE = ["CON", "nul.txt", "onnx/COM1", "aux.onnx", "lpt9.tar.gz", "x" * 256, "ж" * 128, "/".join("a" * 17)]
OWN = ["artifact.json", "Artifact.JSON", "artifact.json.sig", "ARTIFACT.json.SIG"]


@pytest.mark.parametrize("name", OUTSIDE + HIDDEN + NOWHERE + OWN)
@pytest.mark.parametrize("where", ["files", "precision", "artifact"])
def test_names_that_are_no_file_of_the_artifact_are_refused(tiny_8bit: Path, tmp_path: Path, where: str, name: str) -> None:
    """Nothing is written or read under such a name, in a repository or in an artifact alone."""
    manifest = json.loads((tiny_8bit / "artifact.json").read_text())
    if where != "artifact":
        whole = {"schema": 5, "name": "x", "default": "8bit", "precisions": {"8bit": manifest}, "files": {}}
    listed = manifest["files"] if where != "files" else whole["files"]
    listed[name] = ENTRY
    write(tmp_path, manifest if where == "artifact" else whole)
    said = {
        **dict.fromkeys(OUTSIDE, "lies outside"),
        **dict.fromkeys(OWN, "is the manifest itself"),
        "\ud800": "surrogates not allowed",
    }
    with pytest.raises(IntegrityError, match=said.get(name, "has a name that")):
        artifact.read(tmp_path)


@pytest.mark.parametrize("name", ["a", "a/b.c", "1_Pooling/config.json", "模型.onnx", "con1", "a..b", "x" * 255])
def test_other_names_are_taken(tiny_8bit: Path, tmp_path: Path, name: str) -> None:
    manifest = json.loads((tiny_8bit / "artifact.json").read_text())
    manifest["files"][name] = ENTRY
    write(tmp_path, manifest)
    assert name in artifact.read(tmp_path).files


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.sampled_from([10**400, -1, 1e308]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


def paths(value: Any, so_far: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The way to every value inside a JSON value."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [so_far, *(path for key, each in inner for path in paths(each, (*so_far, key)))]


@settings(max_examples=400, deadline=None)
@given(data=st.data())
def test_whatever_stands_in_a_manifest_is_taken_or_refused(
    data: st.DataObject, tiny_8bit: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """One value anywhere is replaced by any other, or a key is gone."""
    manifest = json.loads((tiny_8bit / "artifact.json").read_text())
    whole = {"schema": 5, "name": "x", "default": "8bit", "precisions": {"8bit": manifest}, "files": {}}
    path = data.draw(st.sampled_from(paths(whole)[1:]))
    parent = whole
    for step in path[:-1]:
        parent = parent[step]
    if data.draw(st.booleans()) or isinstance(parent, list):
        parent[path[-1]] = data.draw(JSON)
    else:
        del parent[path[-1]]
    folder = tmp_path_factory.mktemp("any")
    write(folder, whole)
    for precision in (None, "8bit"):
        with contextlib.suppress(SealportError):
            integrity.check_verdict(artifact.read(folder, precision), None)


BOMBS = {
    "deep lists": '{"a": ' + "[" * 1_000_000,
    "deep objects": '{"a":' * 500_000,
    "a depth that can be read": '{"schema": ' + "[" * 300 + "]" * 300 + "}",
    "a long integer": '{"schema": 1' + "0" * 3_000_000 + "}",
    "a long float": '{"schema": 1' + "0" * 3_000_000 + ".5}",
    "a float of many digits": '{"schema": 0.' + "1234567890" * 300_000 + "}",
    "an infinite float": '{"schema": 1e999}',
    "Infinity": '{"schema": -Infinity}',
    "many small values": '{"a": [' + "[]," * 20_000_000 + "[]]}",
    "many keys": "{" + ",".join(f'"{number}":{{}}' for number in range(300_000)) + "}",
    "a key twice": '{"schema": 2, "schema": 3}',
    "too long": " " * (4 << 20) + "{}",
    "not UTF-8": '{"a": "ä"}'.encode("latin-1"),
    "nothing": "",
    "a pickle": pickle.dumps({"schema": 3}),
    "a zip": b"PK\x03\x04" + b"\0" * 100,
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_manifest_that_would_fill_memory_or_time_is_refused(tmp_path: Path, name: str) -> None:
    """In a process with 1 GB of address space and 20 seconds of processor time."""
    content = BOMBS[name]
    (tmp_path / "artifact.json").write_bytes(content if isinstance(content, bytes) else content.encode())
    code = f"""
import resource, sys
from pathlib import Path
from shim import artifact
from shim.errors import IntegrityError
resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))
resource.setrlimit(resource.RLIMIT_CPU, (20, 20))
try:
    artifact.read(Path({str(tmp_path)!r}))
except IntegrityError as error:
    sys.exit(4 if "\\n" not in str(error) else 5)
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 4
