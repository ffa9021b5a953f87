"""Downloads that are cut or killed: the next try fetches what is missing, and no whole file again."""

import itertools
import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from support.commands import run, run_process
from support.hub import Fault, Hub
from support.published import replace

from shim import artifact, integrity

REPO, GRAPH = "acme/tiny-onnx", "onnx/model_quantized.onnx"
PART = 1 << 20  # bytes: the client keeps whole parts of a download that is cut, in place of its own 10 MB
SIZE = 16 * PART + 12345


@pytest.fixture
def large(repository: Path) -> Path:
    """A repository whose graph is some parts long."""
    replace(repository, GRAPH, random.Random(0).randbytes(SIZE))
    return repository


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_download_cut_twenty_times_resumes(reached: Hub, large: Path, monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    """The client keeps whole parts, and drops them where it gives up: after six tries without one, or on a file of one part."""
    monkeypatch.setattr("time.sleep", lambda _: None)  # it waits a second after each
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", PART)
    offsets = random.Random(seed)
    commit = reached.put(REPO, large)
    cuts = [Fault("GET", "/lfs/", cut_after=offsets.randrange(2 * PART)) for _ in range(15)]
    cuts += [Fault("GET", f"/resolve/{commit}/", cut_after=offsets.randrange(40)) for _ in range(5)]
    reached.faults += cuts
    tries = 1
    while (done := run("shim", "pull", REPO, check=None)).returncode:
        assert (done.returncode, done.stdout) == (3, "")
        tries += 1
        assert tries < 10
    assert all(fault.reached.is_set() for fault in cuts)
    folder = Path(done.stdout.strip())
    files = artifact.read(folder).files
    integrity.check_files(folder, artifact.read(folder))
    assert (folder / GRAPH).read_bytes() == (large / GRAPH).read_bytes()
    for name, entry in files.items():
        path = "/lfs/" if name == GRAPH else f"/resolve/{commit}/{name}"
        sent = [(int(each.range.rstrip("-") or 0), each.sent) for each in reached.requests("GET", path)]
        steps = [(before + size // PART * PART, start) for (before, size), (start, _) in itertools.pairwise(sent)]
        dropped = [kept for kept, start in steps if start != kept]
        assert all(start in (0, kept) for kept, start in steps), "what was kept is not fetched again"
        assert len(dropped) < tries
        assert [start + size for start, size in sent].index(entry["size"]) == len(sent) - 1, "nor what was whole"


def test_a_pull_that_is_killed_keeps_whole_files(hub: Hub, large: Path, tmp_path: Path) -> None:
    """Also where it was asked to stop: 130, and nothing half made under the folder's name."""
    commit = hub.put(REPO, large)
    environment = hub.environment(tmp_path, SEALPORT_CACHE=str(tmp_path / "sealport"))
    for number in (signal.SIGKILL, signal.SIGINT):
        fault = Fault("GET", "/lfs/", cut_after=SIZE // 2, hold=True)
        hub.faults.append(fault)
        command = [sys.executable, "-m", "shim", "pull", REPO]
        process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert fault.reached.wait(60)
        process.send_signal(number)
        if number == signal.SIGINT:
            fault.release.set()
        output, errors = process.communicate(timeout=60)
        fault.release.set()
        assert output == ""
        assert process.returncode == (-9 if number == signal.SIGKILL else 130), errors
        assert not list((tmp_path / "sealport").rglob("*"))
    done = run_process("shim", "pull", REPO, env=environment)
    names = [name for name in json.loads((large / "artifact.json").read_text())["precisions"]["8bit"]["files"] if name != GRAPH]
    for name in names:
        assert len(hub.requests("GET", f"{commit}/{name}?")) == 1
    assert Path(done.stdout.strip(), GRAPH).read_bytes() == (large / GRAPH).read_bytes()
    assert os.listdir(tmp_path / "sealport/hub/acme--tiny-onnx") == [Path(done.stdout.strip()).parent.name]
