"""Who may be served without a key, and where keys come from."""

import subprocess
import sys
from pathlib import Path

import pytest

from shim.errors import UsageError
from shim.serve.settings import check_exposure, read_keys


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "example.org"])
def test_an_address_that_others_reach_wants_a_key(host: str) -> None:
    with pytest.raises(UsageError, match="can be reached by others: set a key"):
        check_exposure(host, (), False)
    check_exposure(host, ("key",), False)
    check_exposure(host, (), True)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "::1", "localhost"])
def test_the_loopback_wants_none(host: str) -> None:
    check_exposure(host, (), False)


def test_it_does_not_start_without_one(tiny_artifact: Path) -> None:
    command = [sys.executable, "-m", "shim", "serve", str(tiny_artifact), "--host", "0.0.0.0", "--port", "0"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "--insecure" in done.stderr


@pytest.mark.parametrize("content", [None, b"", b"\n \n", b"# none\n", b"one two\n", b"\xff\n", "schlüssel\n".encode()])
def test_a_file_without_a_good_key_is_refused(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "keys").write_bytes(content)
    with pytest.raises(UsageError, match="--api-key"):
        read_keys(None, tmp_path / "keys", "--api-key")
    with pytest.raises(UsageError, match="not empty"):
        read_keys("", None, "--api-key")


def test_a_file_of_keys_that_everyone_may_write_is_warned_of(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    (tmp_path / "keys").write_text("sesame\n")
    (tmp_path / "keys").chmod(0o644)
    assert read_keys(None, tmp_path / "keys", "--api-key") == ("sesame",)
    assert not recwarn
    (tmp_path / "keys").chmod(0o646)
    with pytest.warns(UserWarning, match="keys may be written by every user; chmod o-w"):
        read_keys(None, tmp_path / "keys", "--api-key")
