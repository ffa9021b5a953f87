"""The requests of shim/README.md, run as they stand against a server with the models that they name."""

import json
import os
import re
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path

import httpx
from conftest import ROOT, made

BLOCK = re.search(r"```\n(ask\(\) .*?)```", (ROOT / "shim/README.md").read_text(encoding="utf-8"), re.DOTALL)


def test_every_route_has_a_request_and_every_request_is_answered(
    serve: Callable[..., str], minilm_artifacts: Mapping[str, Path]
) -> None:
    assert BLOCK is not None
    small = (made(name, "onnx", 32)[0] for name in ("bge-m3", "bge-reranker-v2-m3"))
    address = serve(minilm_artifacts["onnx-8"], *small, "--api-key", "one", "--admin-key", "two")
    script = BLOCK[1].replace("http://127.0.0.1:8080", address).replace("curl -s", "curl -sS --fail-with-body -w '\\n'")
    keys = {"SEALPORT_API_KEY": "one", "SEALPORT_ADMIN_KEY": "two"}
    done = subprocess.run(["bash", "-euxc", script], capture_output=True, text=True, env=os.environ | keys, check=False)
    assert done.returncode == 0, done.stdout[-500:] + done.stderr[-500:]
    answers = [json.loads(line) for line in done.stdout.splitlines() if line.startswith(("{", "["))]
    asked = BLOCK[1].count("\nask ") + len(re.findall(r"for path in (.*);", BLOCK[1])[0].split()) + 1  # and the reload
    assert len(answers) == asked - 1, "all but the metrics are JSON"
    routes = set(httpx.get(f"{address}/openapi.json").json()["paths"])
    assert {route for route in routes if route.replace("{name}", "all-minilm-l6-v2") not in BLOCK[1]} == set()
