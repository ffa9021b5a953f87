"""The short form of scripts/attack, and that it can fail."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT


def attack(artifact: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, ROOT / "scripts/attack", artifact, "--seconds", "1", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, env={**os.environ, "PYTHONPATH": str(ROOT)})


@pytest.mark.slow
def test_a_server_of_a_gigabyte_holds_whatever_a_client_does(tiny_artifact: Path) -> None:
    done = attack(tiny_artifact, "--memory", 1_000_000_000, "--grace", 1000)  # milliseconds: other tests run beside it
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("held ") > 20


def test_one_whose_polite_client_waits_does_not(tiny_artifact: Path) -> None:
    done = attack(tiny_artifact, "--only", "silent connections", "--grace", -100_000)  # no p99 is under that
    assert done.returncode == 1
    assert "FELL  silent connections" in done.stdout
