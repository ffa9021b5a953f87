"""What is served is what was hashed, whatever names, links and contents change while an artifact is loaded."""

import contextlib
import os
import random
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import onnx
import pytest
from support.published import edit, key, publish
from support.servers import Server

import shim
from converter.publish.signature import sign
from shim import servable
from shim.errors import IntegrityError
from shim.held import private_folder, remove_folders
from shim.runtimes import onnx as onnx_runtime

KEY = {"authorization": "Bearer admin"}
GRAPH = "onnx/model.onnx"


def evil(graph: Path) -> bytes:
    """The graph, of the same size, with other weights."""
    model = onnx.load(graph)
    changed = next(each for each in model.graph.initializer if len(each.raw_data) > 1000)
    changed.raw_data = bytes(byte ^ 1 if index % 4 == 2 else byte for index, byte in enumerate(changed.raw_data))
    return model.SerializeToString()


@contextlib.contextmanager
def again_and_again(change: Callable[[], object]) -> Iterator[None]:
    """In a thread, until the block ends, with pauses of up to some 30 ms in which a small artifact can be loaded whole."""
    ended = threading.Event()
    pauses = random.Random(0)

    def work() -> None:
        while not ended.is_set():
            change()
            time.sleep(pauses.choice((0, 0, 0, 0.001, 0.03)) * pauses.random())

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


Way = tuple[Path, Callable[[], object], Callable[[], object]]  # the artifact's path; what makes it bad, and good again


def swapped_path(folder: Path, good: Path, bad: Path) -> Way:
    """The artifact's path is a link."""
    link = folder / "link"
    link.symlink_to(good)

    def point(to: Path) -> None:
        (folder / "new").symlink_to(to)
        (folder / "new").replace(link)

    return link, lambda: point(bad), lambda: point(good)


def swapped_folder(folder: Path, good: Path, bad: Path) -> Way:
    """A folder in it takes another's place."""

    def swap() -> None:
        for name, to in ((good / "onnx", folder / "aside"), (bad / "onnx", good / "onnx"), (folder / "aside", bad / "onnx")):
            name.rename(to)

    return good, swap, swap


def swapped_file(folder: Path, good: Path, bad: Path) -> Way:
    """A file in it takes another's place."""
    for each in (good, bad):
        shutil.copyfile(each / GRAPH, folder / f"{each.name}.onnx")

    def place(name: str) -> None:
        os.link(folder / name, folder / "new")
        (folder / "new").replace(good / GRAPH)

    return good, lambda: place("bad.onnx"), lambda: place("good.onnx")


def overwritten(folder: Path, good: Path, bad: Path) -> Way:
    """A file in it is written over, and has its old time again."""
    contents = [(each / GRAPH).read_bytes() for each in (bad, good)]
    assert len(contents[0]) == len(contents[1])
    before = (good / GRAPH).stat().st_mtime_ns

    def write(content: bytes) -> None:
        with (good / GRAPH).open("r+b") as file:
            file.write(content)
        os.utime(good / GRAPH, ns=(before, before))

    return good, lambda: write(contents[0]), lambda: write(contents[1])


WAYS = (swapped_path, swapped_folder, swapped_file, overwritten)


@pytest.fixture
def good_and_bad(tiny_artifact: Path, tmp_path: Path) -> tuple[Path, Path]:
    """An artifact, and what passes for it but for its graph."""
    good, bad = (Path(shutil.copytree(tiny_artifact, tmp_path / name)) for name in ("good", "bad"))
    (bad / GRAPH).write_bytes(evil(good / GRAPH))
    return good, bad


@pytest.mark.parametrize("way", WAYS)
def test_what_changes_after_it_was_hashed_is_not_loaded(
    good_and_bad: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: Callable[..., Way]
) -> None:
    """At the worst moment: bad from the last hash until the runtime has opened its files, and good again."""
    path, spoil, mend = way(tmp_path, *good_and_bad)
    expected = shim.load(path).embed(["text"]).dense
    check, opener = servable.check, onnx_runtime.open_runtime
    opened = 0

    def late(*given: Any) -> None:
        spoil()
        check(*given)

    def early(*given: Any) -> Any:
        nonlocal opened
        opened += 1
        try:
            return opener(*given)
        finally:
            mend()

    monkeypatch.setattr(servable, "check", late)
    monkeypatch.setattr(onnx_runtime, "open_runtime", early)
    if way in (swapped_path, swapped_folder):
        np.testing.assert_array_equal(shim.load(path).embed(["text"]).dense, expected)
    else:
        with pytest.raises(IntegrityError, match=f"{GRAPH} was changed while it was loaded"):
            shim.load(path)
        assert opened == 3, "what changes once, as by a link of another process, is tried again"


@pytest.mark.parametrize("way", WAYS)
def test_a_server_loads_what_it_hashed_or_nothing(
    start: Callable[..., Server], good_and_bad: tuple[Path, Path], tmp_path: Path, way: Callable[..., Way]
) -> None:
    """Reloaded while somebody else changes the artifact as fast as that can be done."""
    good, bad = good_and_bad
    assert shim.load(bad, allow_unverified=True).embed(["text"]).dense[0, 0] != shim.load(good).embed(["text"]).dense[0, 0]
    path, spoil, mend = way(tmp_path, good, bad)
    server = start(artifact=path)
    before = server.embed("text").json()["data"][0]["embedding"]
    statuses = []
    with again_and_again(lambda: (spoil(), mend())):
        for _ in range(6):
            answer = httpx.post(f"{server.url}/admin/reload", json={"model": "tiny"}, headers=KEY, timeout=60)
            statuses.append(answer.status_code)
            assert server.embed("text").json()["data"][0]["embedding"] == before, "unverified weights are served"
    assert set(statuses) <= {200, 409}
    assert httpx.post(f"{server.url}/admin/reload", json={"model": "tiny"}, headers=KEY, timeout=60).status_code == 200
    assert server.ready() == 200


def test_external_data_is_what_was_hashed(tiny_8bit: Path, tmp_path: Path) -> None:
    folder = publish(tmp_path / "published", tiny_8bit, external=True)
    data = folder / "onnx/model_quantized.onnx_data"
    good = data.read_bytes()
    bad = bytes(byte ^ 1 if index % 4 == 2 else byte for index, byte in enumerate(good))
    expected = shim.load(folder).embed(["text"]).dense

    def change() -> None:
        for content in (bad, good):
            data.with_suffix(".new").write_bytes(content)
            data.with_suffix(".new").replace(data)

    with again_and_again(change):
        for _ in range(40):
            with contextlib.suppress(IntegrityError):
                np.testing.assert_array_equal(shim.load(folder).embed(["text"]).dense, expected)


def test_a_signed_manifest_is_the_one_that_is_used(tiny_artifact: Path, tmp_path: Path) -> None:
    """Another, well sealed, takes its place and leaves again: none of its words is believed."""
    folder = Path(shutil.copytree(tiny_artifact, tmp_path / "artifact"))
    private, public = key(tmp_path)
    sign(folder, private)
    signed = (folder / "artifact.json").read_bytes()
    edit(folder, lambda m: m["model"].update(max_tokens=7))
    changed = (folder / "artifact.json").read_bytes()

    def change() -> None:
        for content in (changed, signed):
            (tmp_path / "new").write_bytes(content)
            (tmp_path / "new").replace(folder / "artifact.json")

    change()
    with again_and_again(change):
        for _ in range(40):
            with contextlib.suppress(IntegrityError):
                assert shim.load(folder, require_signature=public).max_tokens != 7


def test_an_end_while_another_thread_loads_leaves_no_folder() -> None:
    with private_folder() as folder:
        (folder / "file").touch()
        remove_folders()
        assert not folder.exists()
