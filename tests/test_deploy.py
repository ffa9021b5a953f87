"""The files in scripts/deploy: what each of them starts is a server that answers, and has the time to end well."""

import json
import plistlib
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from conftest import ROOT

DEPLOY = ROOT / "scripts/deploy"


def unit() -> dict[str, str]:
    lines = (DEPLOY / "sealport.service").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if "=" in line and not line.startswith("#"))


def job() -> dict[str, Any]:
    found: dict[str, Any] = plistlib.loads((DEPLOY / "sealport.plist").read_bytes())
    return found


def entry() -> list[str]:
    found = re.search(r"^ENTRYPOINT (\[.*\])$", (DEPLOY / "Dockerfile").read_text(), re.MULTILINE)
    assert found is not None
    command: list[str] = json.loads(found[1])
    return [*command, "/artifacts/all-minilm-l6-v2-onnx-8bit"]


@pytest.mark.parametrize(
    "command",
    [shlex.split(unit()["ExecStart"]), job()["ProgramArguments"], entry()],
    ids=["systemd", "launchd", "docker"],
)
def test_what_is_started_answers(
    command: list[str],
    serve: Callable[..., str],
    tiny_artifact: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    key = tmp_path / "key"
    key.write_text("secret\n")
    monkeypatch.setenv("SEALPORT_API_KEY", "secret")
    assert command[:2] == ["/opt/sealport/bin/shim", "serve"]
    arguments = [part.replace("${CREDENTIALS_DIRECTORY}/key", str(key)) for part in command[2:]]
    assert len([part for part in arguments if "all-minilm" in part]) == 1
    url = serve(*(tiny_artifact if "all-minilm" in part else part for part in arguments)).replace("0.0.0.0", "127.0.0.1")
    assert httpx.get(f"{url}/health/ready").status_code == 200
    asked = {"model": "tiny", "input": "Hello"}
    answer = httpx.post(f"{url}/v1/embeddings", json=asked, headers={"authorization": "Bearer secret"})
    assert answer.status_code == 200


def test_a_server_is_killed_later_than_its_drain_ends() -> None:
    arguments = shlex.split(unit()["ExecStart"])
    assert int(unit()["TimeoutStopSec"]) > int(arguments[arguments.index("--drain-timeout") + 1])
    arguments = job()["ProgramArguments"]
    assert job()["ExitTimeOut"] > int(arguments[arguments.index("--drain-timeout") + 1])
