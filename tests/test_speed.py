"""What `scripts/bench --speed` asks, how it asks, and what it makes of the answers; its peers' environments are not needed."""

import json
import random
import runpy
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import ROOT
from support.checkpoints import minilm
from tokenizers import Tokenizer

from converter.proof.metrics import cosines

BENCH = runpy.run_path(str(ROOT / "scripts/bench-speed"))
ROWS, SIDES = BENCH["rows"], BENCH["sides"]


@pytest.fixture
def pool(tiny: Path, tiny_artifact: Path) -> Iterator[Any]:
    """Ours, torch and a side that cannot load, in processes, with the small BERT."""
    common = {"task": "embed", "max_tokens": 128, "threads": 1, "python": sys.executable}
    torch = common | {"loader": "torch", "directory": str(tiny / "checkpoint"), "dtype": "fp32"}
    made = {
        "ours": common | {"loader": "sealport", "directory": str(tiny_artifact), "passed": True, "runtime": "auto"},
        "torch fp32": torch,
        "broken": torch | {"directory": str(tiny / "nowhere")},
        "limit, int8": common | {"loader": "products", "directory": str(tiny / "checkpoint"), "dtype": "int8"},
    }
    pool = SIDES["Pool"](made, {"texts": ["one"], "shape": [1, 32]}, 1000)
    yield pool
    pool.close()


def work(row: str = "batch") -> dict[str, Any]:
    return {"row": row, "texts": ["A short line.", "Another one, which is longer."], "shape": [2, 8], "seconds": 0.01}


def row(name: str) -> Any:
    return next(each for each in ROWS["ROWS"]["bge-m3"] if each.name == name)


def test_sides_give_the_same_vectors_and_say_what_they_took(pool: Any) -> None:
    said = {name: pool.ask(name, row("batch"), work(), keep=True) for name in ("ours", "torch fp32")}
    assert cosines(*(said[name]["outputs"] for name in said)).min() > 0.99999
    assert BENCH["nearness"]({name: [spell] for name, spell in said.items()})["ours"]["worst"] > 0.99999
    started = pool.ask("ours", row("load"), work(), keep=False)
    assert 0 < started["seconds"] < 60
    assert 1e7 < started["resident"] <= started["peak"] < 1e10
    assert "outputs" not in pool.ask("limit, int8", row("batch"), work(), keep=True)


def test_a_side_keeps_its_process_but_in_rows_that_want_a_fresh_one(pool: Any) -> None:
    pool.ask("ours", row("batch"), work(), keep=False)
    first = pool.live["ours"][0].pid
    pool.ask("ours", row("one"), work("one"), keep=False)
    assert pool.live["ours"][0].pid == first
    assert pool.ask("ours", row("long"), work("long"), keep=False)["peak"] > 1e7
    assert "ours" not in pool.live


def test_a_side_that_does_not_load_says_why_and_stops_no_other(pool: Any) -> None:
    with pytest.raises(RuntimeError, match="nowhere"):
        pool.ask("broken", row("batch"), work(), keep=False)
    assert pool.ask("ours", row("batch"), work(), keep=False)["seconds"] > 0


def test_a_side_is_ended_where_memory_is_short_and_started_again(pool: Any) -> None:
    pool.ask("ours", row("batch"), work(), keep=False)
    pool.weights = 1 << 50
    pool.ask("limit, int8", row("batch"), work(), keep=False)
    assert list(pool.live) == ["limit, int8"]
    assert pool.ask("ours", row("batch"), work(), keep=False)["seconds"] > 0


@pytest.mark.parametrize("ranks", [False, True])
@pytest.mark.parametrize("name", ["one", "batch", "long"])
def test_texts_have_the_tokens_that_the_row_says(name: str, ranks: bool) -> None:
    tokenizer = Tokenizer.from_file(str(minilm() / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    made = ROWS["work"](row(name), tokenizer, ranks)
    lengths = [len(item.ids) for item in tokenizer.encode_batch(made["texts"], add_special_tokens=not ranks)]
    assert lengths == [row(name).tokens] * row(name).texts
    assert made["tokens"] == sum(lengths)
    assert len(set(made["texts"])) == len(made["texts"])


def test_mixed_texts_are_as_long_as_sentences() -> None:
    words = sorted(len(text.split()) for text in ROWS["sentences"](2000, random.Random(7)))
    assert 8 <= words[1000] <= 12
    assert words[0] >= 4
    assert 20 <= words[1900] < words[-1] <= 60


def test_the_first_token_is_taken_however_the_version_says_it(tmp_path: Path) -> None:
    takes_first = runpy.run_path(str(ROOT / "scripts/speed-peers"))["takes_first"]
    (tmp_path / "1_Pooling").mkdir()
    said: list[tuple[dict[str, Any], bool]] = [({"pooling_mode": "cls"}, True), ({"pooling_mode": "mean"}, False)]
    said += [({"pooling_mode_cls_token": True}, True), ({"pooling_mode_cls_token": False}, False)]
    for settings, expected in said:
        (tmp_path / "1_Pooling/config.json").write_text(json.dumps(settings))
        assert takes_first(tmp_path) is expected


def spells(seconds: list[float], outputs: np.ndarray, **more: float) -> list[dict[str, Any]]:
    return [{"seconds": 99.0, "outputs": outputs, **more}, *({"seconds": each, **more} for each in seconds)]


def test_ours_is_held_to_the_fastest_peer_that_passes_round_by_round() -> None:
    exact, near, far = np.array([[1.0, 0.0]]), np.array([[1.0, 0.02]]), np.array([[1.0, 0.1]])  # cosines 1, 0.9998, 0.995
    timed = {
        "ours": spells([1.0, 4.0, 2.0], near, peak=600.0),
        "ours, 32 bits": spells([2.0, 5.0, 3.0], exact, peak=900.0),
        "torch fp32": spells([4.0, 16.0, 8.0], exact, peak=500.0),
        "openvino bf16": spells([2.0, 6.0, 3.0], near, peak=1200.0),
        "onnxruntime int8": spells([0.1, 0.1, 0.1], far, peak=1.0),
        "limit, int8": [{"seconds": each} for each in (99.0, 0.5, 2.0, 1.0)],
    }
    (found,) = BENCH["results"]([row("long")], {"long": {"tokens": 16}}, {"long": timed})
    assert found["sides"]["ours"]["figure"] == 16 / 2  # the median, without the first round
    assert found["sides"]["onnxruntime int8"]["worst"] == pytest.approx(1 / 1.01**0.5)
    assert (found["best"], found["ratio"], found["met"]) == ("openvino bf16", pytest.approx(1.5), True)  # of 2, 1.5 and 1.5
    assert (found["ours"], found["memory"]["ours"], found["memory"]["best"]) == ("ours", "ours", "torch fp32")
    assert (found["memory"]["ratio"], found["memory"]["met"]) == (pytest.approx(1.2), False)
    assert found["reached"] == {"limit, int8": 0.5}


def test_a_time_is_met_when_it_is_short_enough() -> None:
    near = np.array([[1.0, 0.02]])
    timed = {"ours": spells([0.7], near), "torch fp32": spells([1.0], near)}
    (found,) = BENCH["results"]([row("one")], {"one": {"tokens": 32}}, {"one": timed})
    assert (found["ratio"], found["met"]) == (pytest.approx(0.7), False)
    assert found["sides"]["ours"]["figure"] == pytest.approx(700)


def test_rerankers_are_judged_on_logits_less_their_mean() -> None:
    one, shifted = np.array([1.0, 2.0, 4.0]), np.array([2.0, 3.0, 5.0])
    timed = {"torch fp32": spells([1.0], one), "ours": spells([1.0], shifted)}
    found = BENCH["nearness"](timed)["ours"]
    assert found["worst"] == pytest.approx(1)
    assert found["probability"] == pytest.approx(1 / (1 + np.exp(-2)) - 1 / (1 + np.exp(-1)))


def test_every_graph_that_a_peer_serves_from_is_made() -> None:
    steps = runpy.run_path(str(ROOT / "scripts/speed-make"))["STEPS"]
    made = {name for files in steps.values() for name in files.values()}
    wanted = {more["graph"] for peers in SIDES["PEERS"].values() for _, _, more in peers.values() if "graph" in more}
    assert wanted == made
