"""What was made before is taken from the cache: by a run that was interrupted, and by the next plan."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
from support.jobs import calibration_of

from converter import cache, calibration, recipe
from converter.calibration import Calibration, Quantized
from converter.corpus import Text
from converter.corpus.calibration import prepare
from converter.quantize import layerwise
from converter.quantize.grid import Scheme, schemes, uniform
from converter.source.open import open_source


class Runs:
    """Calibrations on one text, with the making of codes counted; the one after the `last` is interrupted."""

    def __init__(self, given: Calibration):
        self.given, self.last, self.calls = given, 99, 0
        self.plan = uniform(given.job.checkpoint.matrices, (), 4)

    def __call__(self, plan: dict[str, Scheme], last: int = 99, **settings: Any) -> Quantized:
        self.calls, self.last = 0, last
        return Calibration(self.given.job, self.given.tokens, lambda *_: None).quantize(plan, **settings)

    def counted(self, real: Any, *arguments: object) -> Any:
        self.calls += 1
        if self.calls > self.last:
            raise KeyboardInterrupt
        return real(*arguments)


@pytest.fixture
def runs(tiny: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Runs:
    loaded = recipe.load(str(tiny / "tiny.toml"))
    checkpoint = open_source(loaded, str(tiny / "checkpoint"))
    with pytest.warns(UserWarning, match="calibration tokens"):
        tokens = prepare(checkpoint, [Text("1", "en", "sentence", "some words of ours")])
    found = Runs(calibration_of(checkpoint, loaded, tokens))
    for name in ("gptq", "quantized"):  # a layer's codes, and a table's
        monkeypatch.setattr(calibration, name, partial(found.counted, getattr(calibration, name)))
    monkeypatch.setenv("SEALPORT_CACHE", str(tmp_path))
    return found


def test_an_interrupted_run_goes_on_where_it_was(runs: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shapes = runs.given.job.checkpoint.matrices
    others = {name: schemes(name, shapes[f"{name}.weight"][1], (4, 8)) for name in runs.plan}
    with pytest.raises(KeyboardInterrupt):
        runs(runs.plan, 5, others=others)
    resumed, done = runs(runs.plan, others=others), runs.calls
    again = runs(runs.plan, 0, others=others)
    monkeypatch.setenv("SEALPORT_CACHE", str(tmp_path / "fresh"))
    fresh = runs(runs.plan, others=others)
    assert done == len([name for name in runs.plan if "pooler" not in name]) - 5
    for name in runs.plan:
        for found in (resumed, again):
            assert (found.codes[name].dequantize() == fresh.codes[name].dequantize()).all()
            assert found.ratios[name] == fresh.ratios[name]


def test_another_plan_makes_only_what_differs(runs: Runs) -> None:
    changed = {**runs.plan, min(name for name in runs.plan if "attention" in name): Scheme(8, 32)}
    assert runs(runs.plan).outputs
    found = runs(changed)
    assert runs.calls == 1
    assert found.outputs
    assert {name: codes.scheme for name, codes in found.codes.items()} == changed
    for known in (runs.plan, changed):
        again = runs(known, 0)
        assert {name: codes.scheme for name, codes in again.codes.items()} == known
        assert not again.outputs, "there was nothing to make"
    for name, codes in found.codes.items():
        assert (codes.dequantize() == again.codes[name].dequantize()).all()


def test_no_input_is_looked_at_where_its_layers_codes_are_there(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    runs(runs.plan)
    monkeypatch.setattr(layerwise, "hessian", lambda *_: pytest.fail("it takes most of the time"))
    assert runs({**runs.plan, "embeddings.word_embeddings": Scheme(8, 32)}).outputs


def test_what_gptq_made_is_not_taken_for_what_was_made_beside_the_original(runs: Runs) -> None:
    plain, beside = (runs(runs.plan, asymmetric=asymmetric).codes for asymmetric in (False, True))
    differs = {name for name in runs.plan if (plain[name].dequantize() != beside[name].dequantize()).any()}
    assert {name.split(".")[0] for name in differs} == {"encoder"}


def test_what_other_code_made_is_not_taken(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    with runs.given as given:
        folder = given.folder("gptq")
        monkeypatch.setattr(cache, "code", lambda: "of the version before")
        assert given.folder("gptq") != folder


def test_the_servers_code_is_no_part_of_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    before, real = cache.code.__wrapped__(), Path.read_bytes

    def changed(folder: str) -> str:
        monkeypatch.setattr(Path, "read_bytes", lambda path: real(path) + folder.encode() * (f"shim/{folder}" in str(path)))
        return str(cache.code.__wrapped__())

    assert changed("serve/dialects") == before != changed("architectures")
