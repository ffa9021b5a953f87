"""The pictures of a card: well-formed, the same bytes each time, legible on light and on dark pages, and true."""

import dataclasses
import json
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from conftest import ROOT

from converter.card import pictures, rivals
from converter.card.pictures import CURVE, HISTOGRAM, draw
from shim import artifact
from shim.artifact import Manifest
from shim.parity import Parity

SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="session")
def drawn(minilm_artifacts: Mapping[str, Path]) -> tuple[dict[str, Manifest], dict[str, Any], dict[str, str]]:
    """all-MiniLM-L6-v2 in three precisions, their cosines, and the pictures."""
    paths = {f"{bits}bit": minilm_artifacts[f"onnx-{bits}"] for bits in (32, 16, 8)}
    precisions = {key: artifact.read(path) for key, path in paths.items()}
    cosines = {key: json.loads((path / "cosines.json").read_text()) for key, path in paths.items()}
    return precisions, cosines, draw(precisions, "8bit", cosines)


def texts(svg: str) -> list[str]:
    return [node.text or "" for node in ElementTree.fromstring(svg).iter(f"{SVG}text")]


def test_the_histogram_shows_every_language_the_target_and_the_worst(drawn: Any) -> None:
    precisions, cosines, found = drawn
    shown = texts(found[HISTOGRAM])
    assert "Cosine of 200 texts with the original, 8bit" in shown
    assert "0.999 is wanted" in shown
    assert f"worst {precisions['8bit'].parity.worst['dense']:.5f}" in shown
    for language, each in cosines["8bit"]["dense"].items():
        assert f"{'no language' if language == 'und' else language} {len(each)}" in shown


def test_the_curve_shows_every_precision_and_the_rivals_of_the_same_weights(drawn: Any) -> None:
    precisions, cosines, found = drawn
    shown = texts(found[CURVE])
    assert precisions.keys() <= set(shown)
    assert {rival.name for rival in rivals.RIVALS["onnx"]} <= set(shown)
    assert "sealed from 0.999 on" in shown
    files = {"model.safetensors": {"sha256": "0" * 64, "size": 1}}
    others = {key: dataclasses.replace(each, source=each.source | {"files": files}) for key, each in precisions.items()}
    shown = texts(draw(others, "8bit", cosines)[CURVE])
    assert precisions.keys() <= set(shown)
    assert not {rival.name for rival in rivals.RIVALS["onnx"]} & set(shown)


def test_what_was_not_measured_is_not_drawn(drawn: Any) -> None:
    precisions, cosines, _ = drawn
    assert draw(precisions, "8bit", {"16bit": cosines["16bit"]}).keys() == {CURVE}
    alone = {"8bit": dataclasses.replace(precisions["8bit"], source=precisions["8bit"].source | {"files": {}})}
    assert draw(alone, "8bit", cosines).keys() == {HISTOGRAM}, "a curve of one point is none"
    unverified = {key: dataclasses.replace(each, parity=Parity(verdict="unverified")) for key, each in precisions.items()}
    assert draw(unverified, "8bit", {}) == {}


def test_heads_have_a_panel_each_and_what_fell_short_is_drawn_too(drawn: Any) -> None:
    precisions, cosines, _ = drawn
    low = {language: [-0.2] * len(each) for language, each in cosines["8bit"]["dense"].items()}
    dense = precisions["8bit"].parity.heads["dense"]
    parity = dataclasses.replace(
        precisions["8bit"].parity, heads={"dense": dense, "sparse": dataclasses.replace(dense, worst=-0.2)}
    )
    failed = dataclasses.replace(precisions["8bit"], parity=parity)
    found = draw(precisions | {"8bit": failed}, "8bit", {"8bit": cosines["8bit"] | {"sparse": low}})
    shown = texts(found[HISTOGRAM])
    assert "sparse  worst -0.20000" in shown
    assert any(text.startswith(f"dense  worst {dense.worst:.5f}") for text in shown)
    assert "8bit" in texts(found[CURVE])


def test_more_languages_than_colours_and_odd_names_are_drawn(drawn: Any) -> None:
    precisions, _, _ = drawn
    cosines = {"dense": {f"l{number} <&$_^\\": [0.9995] * (number + 1) for number in range(12)}}
    shown = texts(draw(precisions, "8bit", {"8bit": cosines})[HISTOGRAM])
    assert all(f"l{number} <&$_^\\ {number + 1}" in shown for number in range(12))


def test_one_text_of_one_language_is_drawn(drawn: Any) -> None:
    shown = texts(draw(drawn[0], "8bit", {"8bit": {"dense": {"und": [1.0]}}})[HISTOGRAM])
    assert {"no language 1", "Cosine of 1 texts with the original, 8bit"} <= set(shown)


@pytest.mark.parametrize("name", [HISTOGRAM, CURVE])
def test_every_colour_has_one_for_dark_pages(drawn: Any, name: str) -> None:
    svg = drawn[2][name]
    sheet = re.search(r"@media \(prefers-color-scheme: dark\)\{(.*?\})\}", svg)
    assert sheet is not None
    rules = set(re.findall(r'\[style\*="((?:fill|stroke): #[0-9a-f]{6})"\]', sheet[1]))
    used = set(re.findall(r"(?:fill|stroke): #[0-9a-f]{6}", svg.replace(sheet[0], "")))
    assert used
    assert used <= rules
    assert ": black" not in svg
    assert all("fill" in (node.get("style") or "") for node in ElementTree.fromstring(svg).iter(f"{SVG}text"))


def contrast(one: str, other: str) -> float:
    """The ratio of two colours by WCAG 2.2, 1 to 21."""

    def luminance(colour: str) -> float:
        channels = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
        linear = [each / 12.92 if each <= 0.04045 else ((each + 0.055) / 1.055) ** 2.4 for each in channels]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("page", [0, 1], ids=["light", "dark"])
def test_words_are_legible_and_bars_are_told_from_the_page(page: int) -> None:
    ground = pictures.GROUND[page]
    for colour in (pictures.INK, pictures.MUTED, pictures.PASS, pictures.OURS, pictures.RIVAL):
        assert contrast(colour[page], ground) >= 4.5, colour
    for colour in pictures.LANGUAGES:
        assert contrast(colour[page], ground) >= 2, colour
    assert len({colour[page] for colour in pictures.LANGUAGES}) == len(pictures.LANGUAGES)


def test_the_same_figures_give_the_same_bytes_in_any_process(drawn: Any, minilm_artifacts: Mapping[str, Path]) -> None:
    code = "import json, sys; from pathlib import Path; from converter.card.pictures import draw; from shim import artifact\n"
    code += "paths = {f'{artifact.read(Path(path)).bits}bit': Path(path) for path in sys.argv[1:]}\n"
    code += "cosines = {key: json.loads((path / 'cosines.json').read_text()) for key, path in paths.items()}\n"
    code += "print(json.dumps(draw({key: artifact.read(path) for key, path in paths.items()}, '8bit', cosines)))"
    paths = [str(minilm_artifacts[f"onnx-{bits}"]) for bits in (32, 16, 8)]
    environment = {"PYTHONHASHSEED": "7", "TZ": "Asia/Tokyo", "PATH": "", "PYTHONPATH": str(ROOT), "SOURCE_DATE_EPOCH": "1"}
    done = subprocess.run([sys.executable, "-c", code, *paths], capture_output=True, text=True, check=True, env=environment)
    assert json.loads(done.stdout) == drawn[2]
    assert not re.search(r"20\d\d-\d\d-\d\d", "".join(drawn[2].values()))


def test_rivals_are_those_of_the_results() -> None:
    """Their figures are written by hand: the paper that has the whole table says the same."""
    rows = {}
    for line in (ROOT / "scripts/RESULTS.md").read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) == 6:
            rows[cells[0]] = [re.split(r" / |; ", cells[place]) for place in (1, 4)]
    mlx = rivals.RIVALS["mlx"]
    assert [[f"{each.worst:.5f}" for each in mlx], [f"{each.bits:.2f}" for each in mlx]] == rows[
        "mlx-embeddings 4 / 6 / 8 bits"
    ]
    optimum, dynamic, blocks = rivals.RIVALS["onnx"]
    assert [[f"{optimum.worst:.5f}"], [f"{optimum.bits:.2f}"]] == rows["optimum int8, per channel"]
    both = [[f"{each.worst:.5f}" for each in (dynamic, blocks)], [f"{each.bits:.2f}" for each in (dynamic, blocks)]]
    assert both == rows["onnxruntime int8, dynamic; 4-bit, block 32"]
