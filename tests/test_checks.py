"""Style, types, import rules and file sizes hold; the import rule is seen to fail when it is broken."""

import shutil
import subprocess
from pathlib import Path

import pytest
from conftest import ROOT


@pytest.mark.slow  # where nothing is cached, types take most of a minute
def test_static_checks() -> None:
    done = subprocess.run([ROOT / "scripts/check"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_import_rule_catches_a_shim_that_imports_torch(tmp_path: Path) -> None:
    for name in ("converter", "shim", "pyproject.toml"):
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copyfile
        copy(ROOT / name, tmp_path / name)
    (tmp_path / "shim/pooling.py").write_text("import torch\n" + (tmp_path / "shim/pooling.py").read_text())
    done = subprocess.run(["lint-imports", "--no-cache"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1
    assert "shim.pooling -> torch" in done.stdout
