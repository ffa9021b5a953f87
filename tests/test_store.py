"""Codes in the cache: made once, read again, held where the cache cannot take them."""

import errno
import fcntl
import shutil
from pathlib import Path

import numpy as np
import pytest

from converter import cache
from converter.quantize.grid import Codes, Grid, Scheme, round_to_nearest
from converter.store import CodeStore, has
from shim.errors import SourceError

SCHEME = Scheme(4, 32)
WEIGHT = np.random.default_rng(0).standard_normal((8, 64), np.float32)


def made() -> Codes:
    return round_to_nearest(WEIGHT, SCHEME, Grid())


def never() -> Codes:
    raise AssertionError("made again")


def test_what_lies_in_the_cache_is_not_made_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SEALPORT_CACHE", str(tmp_path))
    assert not has("part", "layer", SCHEME)
    first = CodeStore({"layer": SCHEME}).add("layer", made, "part")
    assert has("part", "layer", SCHEME)
    assert not has("part", "layer", Scheme(8, 32))
    store = CodeStore({"layer": SCHEME})
    second = store.add("layer", never, "part")
    for found in (first, second, store["layer"]):
        assert (found.dequantize() == made().dequantize()).all()
        assert found.scheme == SCHEME


def test_codes_that_are_gone_are_no_codes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SEALPORT_CACHE", str(tmp_path))
    store = CodeStore({"layer": SCHEME})
    store.add("layer", made, "part")
    shutil.rmtree(cache.folder() / "part")
    with pytest.raises(SourceError, match="the codes of layer are gone"):
        store["layer"]


@pytest.mark.parametrize(("kept", "folder"), [(None, "file"), ("part", "file"), ("part", "x" * 300)])
def test_what_the_cache_cannot_take_is_held(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, kept: str | None, folder: str
) -> None:
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("SEALPORT_CACHE", str(tmp_path / folder))
    store = CodeStore({"layer": SCHEME})
    store.add("layer", made, kept)
    assert list(store) == ["layer"]
    assert (store["layer"].dequantize() == made().dequantize()).all()


@pytest.fixture
def part(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("SEALPORT_CACHE", str(tmp_path))
    return tmp_path / "part"


def test_what_others_use_is_removed_by_the_last_of_them(part: Path) -> None:
    first, second = cache.Claim("part"), cache.Claim("part")
    first.remove()
    assert part.is_dir()
    second.remove()
    assert not part.exists()


def test_what_is_closed_stays_and_is_no_longer_in_use(part: Path) -> None:
    cache.Claim("part").close()
    assert part.is_dir()
    cache.Claim("part").remove()
    assert not part.exists()


def test_a_folder_that_is_removed_while_it_is_waited_for_is_made_again(part: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, removed = fcntl.flock, []

    def flock(lock: int, operation: int) -> None:
        if not removed:
            removed.append(part.rmdir())
        real(lock, operation)

    monkeypatch.setattr(fcntl, "flock", flock)
    first = cache.Claim("part")
    cache.Claim("part").remove()
    assert part.is_dir(), "the first has a lock on what is there"
    first.remove()
    assert not part.exists()


def test_where_there_is_no_locking_one_counts_as_alone(part: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def flock(*_: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", flock)
    claim = cache.Claim("part")
    assert part.is_dir()
    claim.remove()
    assert not part.exists()
