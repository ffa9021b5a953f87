"""What is offered for a name that is nothing: commands, recipes and artifacts."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.commands import one_line

from converter import recipe
from shim.errors import UsageError
from shim.nearest import nearest

NAMES = ("bge-small-en-v1.5-onnx-8bit", "all-minilm-l6-v2-onnx-8bit")


def test_no_other_languages_model_is_offered() -> None:
    assert nearest("bge-small-en-v1.5-onnx-4bit", NAMES) == [NAMES[0]]
    assert NAMES[0] not in nearest("bge-small-zh-v1.5-onnx-8bit", NAMES, most=2)
    with pytest.raises(UsageError) as raised:
        recipe.load("bge-base-zh-v1.5")
    assert "-en-" not in str(raised.value)


@pytest.mark.parametrize("given", ["artifacts/all-minilm-l6-v2-onnx-8bi", "all-minilm-l6-v2", "artifacts/all-minilm-l6-v2"])
def test_an_artifact_that_is_not_here_is_one_line_with_the_nearest(tmp_path: Path, given: str) -> None:
    for name in NAMES:
        (tmp_path / "artifacts" / name).mkdir(parents=True)
        (tmp_path / "artifacts" / name / "artifact.json").write_text("{}")
    command = [sys.executable, "-m", "shim", "embed", given]
    environment = os.environ | {"HF_ENDPOINT": "http://127.0.0.1:9"}  # nobody is there
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=environment, input="", timeout=60)
    assert done.returncode == 4
    assert f"{given} is not a directory; did you mean " in one_line(done, "shim").strip()
    assert one_line(done, "shim").strip().endswith("artifacts/all-minilm-l6-v2-onnx-8bit?")


@pytest.mark.parametrize("module", ["fastapi", "httptools"])
def test_what_a_server_lacks_is_one_line_with_the_extra(module: str) -> None:
    code = f"import sys; sys.modules[{module!r}] = None; from shim.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", code, "serve", "x"], capture_output=True, text=True, timeout=60)
    assert (done.returncode, one_line(done, "shim").strip()) == (
        2,
        f"shim: {module} is not installed: pip install 'sealport[serve]'",
    )
