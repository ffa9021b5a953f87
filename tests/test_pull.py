"""Artifacts from the hub: which commit and which files are fetched, what lies in the cache, and what is served."""

import json
import os
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NoReturn

import httpx
import numpy as np
import pytest
from support.commands import one_line, one_object, run, run_process
from support.hub import Fault, Hub
from support.published import edit, publish
from support.servers import Started

import shim
from shim.errors import IntegrityError, SourceError

REPO = "acme/tiny-onnx"


def fetched(hub: Hub) -> list[str]:
    """What the hub sent since the last time, but for what the client asks for on its own account."""
    sent = [entry for entry in hub.log if entry.method == "GET" and entry.status == 200 and "/api/" not in entry.path]
    names = [(entry.path + entry.query).rsplit("/resolve/", 1)[-1].split('filename="')[-1].rstrip('"') for entry in sent]
    hub.log.clear()
    return [name.split("/", 1)[1] if name[:40].isalnum() and len(name) > 40 else name.removeprefix("main/") for name in names]


def test_the_default_precision_is_fetched_once_and_says_where_it_is_from(
    reached: Hub, repository: Path, tiny_8bit: Path
) -> None:
    commit = reached.put(REPO, repository)
    model = shim.load(REPO)
    wanted = json.loads((repository / "artifact.json").read_text())["precisions"]["8bit"]["files"]
    assert sorted(fetched(reached)) == sorted(["artifact.json", *wanted])
    assert (model.info()["repository"], model.info()["revision"]) == (REPO, commit)
    np.testing.assert_array_equal(model.embed(["hello"]).dense, shim.load(tiny_8bit).embed(["hello"]).dense)
    assert shim.load(REPO).name == "tiny-onnx-8bit"
    assert fetched(reached) == []
    assert shim.load(REPO, precision="32bit").name == "tiny-onnx-32bit"
    assert fetched(reached) == ["onnx/model.onnx"]
    assert shim.load(tiny_8bit).info()["repository"] is None


def test_mlx_is_loaded_too(reached: Hub, tiny_mlx: Path, tmp_path: Path) -> None:
    commit = reached.put("acme/tiny-mlx-8bit", publish(tmp_path / "out", tiny_mlx, name="tiny-mlx-8bit"))
    model = shim.load("acme/tiny-mlx-8bit")
    assert (model.repository, model.revision) == ("acme/tiny-mlx-8bit", commit)
    np.testing.assert_array_equal(model.embed(["hello"]).dense, shim.load(tiny_mlx).embed(["hello"]).dense)


def test_an_artifact_that_was_uploaded_as_it_is_loads(reached: Hub, tiny_8bit: Path) -> None:
    reached.put(REPO, tiny_8bit)
    assert shim.load(REPO, precision="8bit").name == "tiny-onnx-8bit"


def test_a_revision_is_resolved_once_and_an_older_one_stays(reached: Hub, repository: Path) -> None:
    old = reached.put(REPO, repository)
    edit(repository, lambda m: m["precisions"]["8bit"].update(created="2001-01-01T00:00:00Z"))
    new = reached.put(REPO, repository)
    for revision, commit in ((f"@{old}", old), (f"@{old[:10]}", old), ("@main", new), ("", new), ("@refs/heads/main", new)):
        model = shim.load(REPO + revision)
        assert model.revision == commit
        assert model.manifest.created.startswith("2001") == (commit == new)
        by_name = {entry.path for entry in reached.log if "/resolve/" in entry.path and f"/{commit}/" not in entry.path}
        assert {path.rsplit("/", 1)[1] for path in by_name} <= {"artifact.json"}, "all else is asked for by its commit"
        reached.log.clear()


def test_a_directory_wins_over_a_repository_and_a_path_is_never_one(
    reached: Hub, tiny_artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(tiny_artifact, REPO)
    assert shim.load(REPO).name == "tiny-onnx-32bit"
    with pytest.raises(IntegrityError, match="is not a directory"):
        shim.load(Path("acme/other"))
    assert not reached.log
    with pytest.raises(SourceError, match="neither a directory here nor a repository that the hub shows"):
        shim.load("acme/other")


def test_the_folder_holds_plain_files_that_the_hubs_cache_holds_too(reached: Hub, tiny_8bit: Path, tmp_path: Path) -> None:
    """The hub's own are symlinks into a folder of contents, from which onnxruntime may not take a graph's external data."""
    commit = reached.put(REPO, publish(tmp_path / "external", tiny_8bit, external=True))
    printed = one_object(run("shim", "pull", REPO, "--json"))
    folder = Path(printed.pop("path"))
    assert folder == tmp_path / "sealport/hub/acme--tiny-onnx" / commit / "8bit"
    assert printed["repository"], printed["revision"] == (REPO, commit)
    assert (printed["precision"], printed["verdict"]) == ("8bit", "pass")
    assert run("shim", "pull", REPO).stdout == f"{folder}\n"
    snapshot = tmp_path / "cache/models--acme--tiny-onnx/snapshots" / commit
    assert (snapshot / "onnx/model_quantized.onnx_data").is_symlink()
    for path in folder.rglob("*"):
        assert not path.is_symlink()
        if path.is_file():
            same = path.samefile(snapshot / path.relative_to(folder))
            assert same or path.name == "artifact.json", "no weight lies on the disk twice"
    assert shim.load(str(folder)).embed(["hello"]).dense.shape == (1, 64)
    assert [path.name for path in folder.parent.iterdir()] == ["8bit"], "nothing half made is left"


def test_where_there_are_no_hard_links_files_are_copied(
    reached: Hub, repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> NoReturn:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    reached.put(REPO, repository)
    assert shim.load(REPO).name == "tiny-onnx-8bit"
    assert Path(run("shim", "pull", REPO).stdout.strip(), "config.json").stat().st_nlink == 1


def spoil(folder: Path, way: str) -> None:
    """What may have happened to a folder of the cache; the hub's own cache is as it was."""
    graph = folder / "onnx/model_quantized.onnx"
    content = graph.read_bytes()
    if way != "added":
        graph.unlink()
    if way == "changed":
        graph.write_bytes(bytes([content[0] ^ 1]) + content[1:])
    if way == "added":
        (folder / "extra.safetensors").write_bytes(b"x")
    if way == "replaced":
        shutil.rmtree(folder)
        folder.write_text("a file")
    if way == "another manifest":
        edit(folder, lambda m: m["files"].update({"a": {"sha256": "0" * 64, "size": 0}}))


@pytest.mark.parametrize("way", ["changed", "gone", "added", "replaced", "another manifest"])
def test_a_folder_that_was_spoilt_is_made_anew_without_the_network(reached: Hub, repository: Path, way: str) -> None:
    reached.put(REPO, repository)
    folder = Path(run("shim", "pull", REPO).stdout.strip())
    before = shim.load(str(folder)).embed(["hello"]).dense
    spoil(folder, way)
    fetched(reached)
    np.testing.assert_array_equal(shim.load(REPO).embed(["hello"]).dense, before)
    assert fetched(reached) == []
    assert (folder / "artifact.json").read_bytes() == (repository / "artifact.json").read_bytes()
    shim.load(str(folder))


def test_a_damaged_cache_of_the_hub_is_named(reached: Hub, repository: Path, tmp_path: Path) -> None:
    reached.put(REPO, repository)
    shim.load(REPO)
    blob = next((tmp_path / "cache").rglob("config.json")).resolve()
    blob.write_bytes(blob.read_bytes().replace(b"64", b"65"))
    line = one_line(run("shim", "pull", REPO, check=4), "shim")
    assert "config.json differs from the manifest" in line
    assert str(blob) in line
    blob.unlink()
    assert shim.load(REPO).name == "tiny-onnx-8bit"


def test_offline_the_cache_serves(hub: Hub, repository: Path, tmp_path: Path) -> None:
    """In processes of their own, as the client reads its environment when it is imported."""
    commit = hub.put(REPO, repository)
    home = {"SEALPORT_CACHE": str(tmp_path / "sealport")}
    offline = hub.environment(tmp_path, HF_HUB_OFFLINE="1", **home)
    before = run_process("shim", "pull", REPO, check=3, env=offline)
    assert before.stderr == f"shim: {REPO}@main: not in the hub's cache, and HF_HUB_OFFLINE is set\n"
    folder = run_process("shim", "pull", REPO, env=hub.environment(tmp_path, **home)).stdout
    hub.log.clear()
    for revision in ("", "@main", f"@{commit}"):
        assert run_process("shim", "pull", REPO + revision, env=offline).stdout == folder
    shutil.rmtree(tmp_path / "sealport")
    done = run_process("shim", "embed", REPO, input='"hello"\n', env=offline)
    assert len(json.loads(done.stdout)["embedding"]) == 64
    other = run_process("shim", "pull", REPO, "--precision", "32bit", check=3, env=offline)
    assert "not in the hub's cache, and HF_HUB_OFFLINE is set" in other.stderr
    assert not hub.log


def test_a_hub_that_is_down_does_not_stop_what_is_here(reached: Hub, repository: Path) -> None:
    reached.put(REPO, repository)
    shim.load(REPO)
    reached.faults.append(Fault("HEAD", "/resolve/", 503, times=100))
    assert shim.load(REPO).name == "tiny-onnx-8bit"


def test_a_folder_that_another_process_made_meanwhile_is_left_alone(
    reached: Hub, repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may be reading it."""
    reached.put(REPO, repository)
    folder = Path(run("shim", "pull", REPO).stdout.strip())
    folder.rename(tmp_path / "made meanwhile")
    link = os.link

    def meanwhile(*paths: Path) -> None:
        if not folder.exists():
            (tmp_path / "made meanwhile").rename(folder)
            places.append(folder.stat().st_ino)
        link(*paths)

    places: list[int] = []
    monkeypatch.setattr(os, "link", meanwhile)
    shim.load(REPO)
    assert places == [folder.stat().st_ino]


def test_many_pulls_at_once_make_one_folder(hub: Hub, repository: Path, tmp_path: Path) -> None:
    hub.put(REPO, repository)
    environment = hub.environment(tmp_path, SEALPORT_CACHE=str(tmp_path / "sealport"))
    with ThreadPoolExecutor(6) as pool:
        done = list(pool.map(lambda _: run_process("shim", "pull", REPO, env=environment), range(6)))
    assert len({each.stdout for each in done}) == 1
    folder = Path(done[0].stdout.strip())
    assert [path.name for path in folder.parent.iterdir()] == ["8bit"]
    assert shim.load(str(folder)).name == "tiny-onnx-8bit"


def test_a_server_says_where_its_model_is_from_and_reloads_what_is_there_now(
    hub: Hub, repository: Path, tmp_path: Path
) -> None:
    """A commit that is refused leaves the old one serving."""
    old = hub.put(REPO, repository)
    environment = hub.environment(tmp_path, SEALPORT_CACHE=str(tmp_path / "sealport"), SEALPORT_ADMIN_KEY="admin")
    command = [sys.executable, "-m", "shim", "serve", REPO, "--precision", "8bit"]
    server = Started(command, env=environment)
    reload = {"url": f"{server.url}/admin/reload", "json": {"model": "tiny"}, "headers": {"authorization": "Bearer admin"}}
    try:
        listed = httpx.get(f"{server.url}/v1/models").json()["data"][0]
        assert (listed["repository"], listed["revision"]) == (REPO, old)
        edit(repository, lambda m: m["precisions"]["8bit"].update(created="2001-01-01T00:00:00Z"))
        new = hub.put(REPO, repository)
        done = httpx.post(**reload, timeout=60)
        assert (done.status_code, done.json()["created"]) == (200, "2001-01-01T00:00:00Z")
        assert httpx.get(f"{server.url}/v1/models").json()["data"][0]["revision"] == new
        (repository / "config.json").write_text("{}")
        hub.put(REPO, repository)
        done = httpx.post(**reload, timeout=60)
        assert done.status_code == 409
        assert "config.json" in done.json()["error"]["message"]
        assert httpx.get(f"{server.url}/v1/models").json()["data"][0]["revision"] == new
    finally:
        server.end()
        server.ended()
