"""What was made before is taken from the cache: by a run that was interrupted, and by the next plan."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from converter import cache, calibrate, recipe
from converter.attempts import Goal, layers
from converter.maker import Maker
from converter.quantize import lockstep
from converter.quantize.grid import Grid, Scheme
from converter.quantize.plan import candidates, uniform
from converter.recipe import Recipe
from converter.source.checkpoint import Checkpoint
from converter.source.open import open_source
from converter.targets import mlx
from shim.text import Tokens


@dataclass
class Runs:
    """calibrate.quantize on one text, with the making of codes counted; the one after the `last` is interrupted."""

    checkpoint: Checkpoint
    recipe: Recipe
    tokens: list[Tokens]
    last: int = 99
    calls: int = 0

    def __call__(self, plan: dict[str, Scheme], last: int = 99, **settings: Any) -> calibrate.Calibrated:
        self.calls, self.last = 0, last
        given = (self.checkpoint, self.recipe, plan, self.tokens, Grid(), "gptq", lambda *_: None)
        return calibrate.quantize(*given, **settings)

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
        tokens = calibrate.prepare(checkpoint, loaded, [calibrate.Text("1", "en", "sentence", "some words of ours")])
    found = Runs(checkpoint, loaded, tokens)
    for name in ("gptq", "quantized"):  # a layer's codes, and a table's
        monkeypatch.setattr(calibrate, name, partial(found.counted, getattr(calibrate, name)))
    monkeypatch.setenv("SEALPORT_CACHE", str(tmp_path))
    return found


@pytest.fixture
def maker(runs: Runs) -> Maker:
    return Maker(runs.checkpoint, runs.recipe, mlx, Goal(4, 0.999), "max", runs.tokens, lambda *_: None)


KEPT = ("kept", "tables")


def test_an_interrupted_run_goes_on_where_it_was(runs: Runs) -> None:
    shapes = layers(runs.checkpoint)
    plan = uniform(shapes, (), 4)
    others = {name: candidates(name, shapes[f"{name}.weight"][1], (4, 8)) for name in plan}
    with pytest.raises(KeyboardInterrupt):
        runs(plan, 5, others=others, kept=KEPT)
    resumed, done = runs(plan, others=others, kept=KEPT), runs.calls
    again = runs(plan, 0, others=others, kept=KEPT)
    fresh = runs(plan, others=others)
    assert done == len([name for name in plan if "pooler" not in name]) - 5
    for name in plan:
        for found in (resumed, again):
            assert (found.codes[name].dequantize() == fresh.codes[name].dequantize()).all()
            assert found.relative[name] == fresh.relative[name]


def test_another_plan_makes_only_what_differs(runs: Runs) -> None:
    plan = uniform(layers(runs.checkpoint), (), 4)
    changed = {**plan, min(name for name in plan if "attention" in name): Scheme(8, 32)}
    assert runs(plan, kept=KEPT).vectors
    found = runs(changed, kept=KEPT)
    assert runs.calls == 1
    assert found.vectors
    assert {name: codes.scheme for name, codes in found.codes.items()} == changed
    for known in (plan, changed):
        again = runs(known, 0, kept=KEPT)
        assert {name: codes.scheme for name, codes in again.codes.items()} == known
        assert not again.vectors, "there was nothing to make"
    for name, codes in found.codes.items():
        assert (codes.dequantize() == again.codes[name].dequantize()).all()


def test_no_input_is_looked_at_where_its_layers_codes_are_there(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = uniform(layers(runs.checkpoint), (), 4)
    runs(plan, kept=KEPT)
    monkeypatch.setattr(lockstep, "hessian", lambda *_: pytest.fail("it takes most of the time"))
    assert runs({**plan, "embeddings.word_embeddings": Scheme(8, 32)}, kept=KEPT).vectors


def test_what_gptq_made_is_not_taken_for_what_was_made_beside_the_original(maker: Maker) -> None:
    plan = uniform(layers(maker.checkpoint), (), 4)
    with maker:
        plain, beside = (maker.quantize(plan, method, {}).codes for method in ("gptq", "twin"))
        differs = {name for name in plan if (plain[name].dequantize() != beside[name].dequantize()).any()}
    assert {name.split(".")[0] for name in differs} == {"encoder"}


def test_what_other_code_made_is_not_taken(maker: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    with maker:
        kept = maker.keep("gptq")
        monkeypatch.setattr(cache, "code", lambda: "of the version before")
        assert maker.keep("gptq") != kept
