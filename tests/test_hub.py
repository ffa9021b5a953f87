"""Originals on the hub: a real server on loopback, its local cache, and neither."""

import hashlib
import json
import os
import re
import shutil
import threading
from collections.abc import Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import torch
from safetensors.numpy import load_file
from support.checkpoints import bert_config, write_bert, write_recipe
from support.commands import run_process


@pytest.fixture
def checkpoint(tiny: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny / "checkpoint", tmp_path / "checkpoint"))


COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(BaseHTTPRequestHandler):
    """As much of the hub as `snapshot_download` asks for, on loopback: the tree of COMMIT, and its files with ranges."""

    protocol_version = "HTTP/1.1"
    folder: Path
    log: list[str]  # "METHOD file range"
    cut: set[str]  # files whose next transfer ends in the middle
    broken: set[str]  # files that the server cannot give

    def do_GET(self) -> None:
        path = urlsplit(self.path).path
        if path == f"/api/models/nobody/tiny/tree/{COMMIT}":
            files = [file for file in sorted(self.folder.rglob("*")) if file.is_file()]
            entries = [{"path": file.relative_to(self.folder).as_posix(), "size": file.stat().st_size} for file in files]
            return self.answer(200, json.dumps([{"type": "file", "oid": "0" * 40, **entry} for entry in entries]).encode())
        name = path.removeprefix(f"/nobody/tiny/resolve/{COMMIT}/")
        if name == path or not (self.folder / name).is_file():
            return self.answer(404, b"")
        start = int(re.sub(r"bytes=(\d+)-", r"\1", self.headers.get("Range", "bytes=0-")))
        self.log.append(f"{self.command} {name} {start}")
        if self.command == "GET" and name in self.broken:
            return self.answer(500, b"")
        body = (self.folder / name).read_bytes()
        headers = {"ETag": f'"{hashlib.sha256(body).hexdigest()}"', "X-Repo-Commit": COMMIT}
        if start:
            headers["Content-Range"] = f"bytes {start}-{len(body) - 1}/{len(body)}"
        return self.answer(206 if start else 200, body[start:], headers, cut=self.command == "GET" and name in self.cut)

    do_HEAD = do_GET

    def answer(self, status: int, body: bytes, headers: dict[str, str] | None = None, cut: bool = False) -> None:
        self.send_response(status)
        for key, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body[: len(body) // 2] if cut else body)
        if cut:
            self.cut.clear()
            self.close_connection = True

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def hub(checkpoint: Path) -> Iterator[tuple[type[Hub], str]]:
    """The server's state and address; it gives the small checkpoint, and what nobody wants beside it."""
    for name in ("pytorch_model.bin", "onnx/model.onnx", "tf_model.h5"):
        (checkpoint / name).parent.mkdir(exist_ok=True)
        (checkpoint / name).write_bytes(b"not wanted")
    handler = type("TestHub", (Hub,), {"folder": checkpoint, "log": [], "cut": set(), "broken": set()})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever).start()
        yield handler, f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def at_commit(folder: Path, revision: str = COMMIT) -> Path:
    """The small recipe, pinned."""
    path = write_recipe(folder / "tiny.toml")
    path.write_text(path.read_text().replace('"nobody/tiny"', f'"nobody/tiny"\nrevision = "{revision}"'))
    return path


convert = partial(run_process, "converter")  # a process of its own: the hub's client reads its environment once, when imported


def environment(tmp_path: Path, **more: str) -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "HUGGINGFACE_"))}
    return kept | {"HF_HOME": str(tmp_path / "hf"), "HF_HUB_DISABLE_TELEMETRY": "1", **more}


def test_a_repository_is_fetched_at_its_pinned_revision(hub: tuple[type[Hub], str], tmp_path: Path) -> None:
    """One that breaks down gives one line; the next run fetches only the rest, and one cut in the middle goes on there."""
    server, address = hub
    write_bert(server.folder, bert_config(max_position_embeddings=100000))  # the client keeps no less than 10 MB of a transfer
    command = (at_commit(tmp_path), "--to", "onnx", "--bits", 32, "--out", tmp_path / "out", "--no-verify", "--json")
    server.broken = {"model.safetensors"}
    failed = convert(*command, check=3, env=environment(tmp_path, HF_ENDPOINT=address))
    line = json.loads(failed.stdout)["error"]
    assert line.startswith(f"nobody/tiny@{COMMIT}: cannot be fetched from the hub (")
    assert failed.stderr.splitlines()[-1] == f"convert: {line}"
    assert not (tmp_path / "out").exists()
    server.broken, server.cut = set(), {"model.safetensors"}
    first, server.log = server.log, []
    done = convert(*command, env=environment(tmp_path, HF_ENDPOINT=address))
    assert json.loads(done.stdout)["source"]["repo"] == "nobody/tiny"
    assert json.loads(done.stdout)["source"]["revision"] == COMMIT
    transfers = [entry for entry in server.log if entry.startswith("GET model.safetensors")]
    assert transfers[0] == "GET model.safetensors 0"
    assert int(transfers[1].split()[2]) > 0, "the second request must ask for the rest only"
    assert "GET vocab.txt 0" in first
    assert "GET vocab.txt 0" not in server.log
    assert not [entry for entry in first + server.log if re.search(r"onnx/|\.bin|\.h5", entry)]


def test_a_repository_with_a_pickle_alone_is_fetched(hub: tuple[type[Hub], str], tmp_path: Path) -> None:
    server, address = hub
    weights = load_file(server.folder / "model.safetensors")
    (server.folder / "model.safetensors").unlink()
    torch.save({name: torch.from_numpy(value) for name, value in weights.items()}, server.folder / "pytorch_model.bin")
    command = (at_commit(tmp_path), "--to", "mlx", "--effort", "fast", "--no-verify", "--out", tmp_path / "out", "--json")
    done = convert(*command, env=environment(tmp_path, HF_ENDPOINT=address))
    assert "pytorch_model.bin" in json.loads(done.stdout)["source"]["files"]


@pytest.mark.parametrize("revision", [COMMIT, "main"])
def test_offline_the_cache_serves_and_its_commit_is_recorded(checkpoint: Path, tmp_path: Path, revision: str) -> None:
    repo = tmp_path / "hf/hub/models--nobody--tiny"
    shutil.copytree(checkpoint, repo / f"snapshots/{COMMIT}")
    (repo / "refs").mkdir()
    (repo / "refs/main").write_text(COMMIT)
    command = (at_commit(tmp_path, revision), "--to", "mlx", "--effort", "fast", "--no-verify", "--out", tmp_path / "out")
    done = convert(*command, env=environment(tmp_path, HF_HUB_OFFLINE="1"))
    assert not [line for line in done.stderr.splitlines() if not line.startswith("writing tensors")]
    source = json.loads((tmp_path / "out/tiny-mlx-4bit/artifact.json").read_text())["source"]
    assert (source["repo"], source["revision"]) == ("nobody/tiny", COMMIT)


def test_offline_without_a_cache_is_exit_code_3_and_one_line(tmp_path: Path) -> None:
    command = (at_commit(tmp_path), "--to", "mlx", "--out", tmp_path / "out")
    done = convert(*command, check=3, env=environment(tmp_path, HF_HUB_OFFLINE="1"))
    assert re.fullmatch(
        rf"convert: nobody/tiny@{COMMIT}: cannot be fetched from the hub \(.+\); --source DIR takes a local copy\n", done.stderr
    )
    assert done.stdout == ""
    assert not (tmp_path / "out").exists()


def test_a_repository_without_a_recipe_is_read_and_converted_at_its_commit(
    hub: tuple[type[Hub], str], tmp_path: Path, corpus_file: Path
) -> None:
    """Its recipe is printed without its weights being fetched."""
    server, address = hub
    reached = environment(tmp_path, HF_ENDPOINT=address)
    printed = convert("recipe", f"nobody/tiny@{COMMIT}", env=reached).stdout
    assert f'revision = "{COMMIT}"' in printed
    assert not [entry for entry in server.log if re.search(r"GET .*(safetensors|\.bin|\.h5)", entry)]
    command = (f"nobody/tiny@{COMMIT}", "--to", "onnx", "--bits", 32, "--out", tmp_path, "--no-verify", "--json")
    made = json.loads(convert(*command, env=reached).stdout)
    assert (made["name"], made["source"]["repo"], made["source"]["revision"]) == ("tiny-onnx-32bit", "nobody/tiny", COMMIT)
