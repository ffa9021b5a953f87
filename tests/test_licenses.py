"""The license gate: what forbids commercial use is accepted by name, and what nobody states is refused, in one line."""

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.commands import one_line
from support.published import write

from converter import licenses, recipe
from converter.source.draft import draft, to_toml
from converter.source.front_matter import front_matter
from converter.source.open import find
from shim import artifact
from shim.errors import UsageError

Convert = Callable[..., subprocess.CompletedProcess[str]]


def card(folder: Path, front: str) -> Path:
    """A checkpoint's model card with this front matter."""
    (folder / "README.md").write_text(f"---\n{front}\n---\n# A model\n")
    return folder


@pytest.fixture
def source(tiny: Path, tmp_path: Path) -> Callable[[str], Path]:
    """The small checkpoint with a model card of its own."""
    return lambda front: card(Path(shutil.copytree(tiny / "checkpoint", tmp_path / "mine")), front)


def test_no_commercial_use_is_accepted_by_name_to_convert_and_to_verify(
    source: Callable[[str], Path], tmp_path: Path, convert: Convert
) -> None:
    mine, out = source("license: cc-by-nc-4.0"), tmp_path / "out"
    wanted = "its license, cc-by-nc-4.0 (https://creativecommons.org/licenses/by-nc/4.0/), forbids commercial use; "
    wanted += "--accept-license cc-by-nc-4.0 accepts that"
    arguments = (mine, "--to", "onnx", "--bits", 32, "--no-verify", "--out", out)
    for accepted in ((), ("--accept-license", "cc-by-nc-sa-4.0")):
        refused = convert(*arguments, *accepted, check=2)
        assert refused.stderr.splitlines()[-1] == f"convert: mine: {wanted}"
    assert not out.exists()
    given = ("--accept-license", "cc-by-nc-sa-4.0", "--accept-license", "cc-by-nc-4.0")
    convert(*arguments, *given)
    path = out / "mine-onnx-32bit"
    manifest = artifact.read(path)
    assert (manifest.license, manifest.source["non_commercial"]) == ("cc-by-nc-4.0", True)
    again = ("verify", path, "--source", mine)
    assert one_line(convert(*again, check=2)) == f"convert: mine-onnx-32bit: {wanted}\n"
    convert(*again, *given)
    sealed = artifact.read(path)
    assert (sealed.verdict, sealed.license, sealed.source["non_commercial"]) == ("pass", "cc-by-nc-4.0", True)
    with pytest.raises(UsageError, match="--accept-license cc-by-nc-4.0 accepts that"):
        licenses.check_license(sealed, ())
    licenses.check_license(sealed, ("cc-by-nc-4.0",))


@pytest.mark.parametrize(
    ("front", "message"),
    [
        ("language: en", "its license is unknown, as no file states one; --license ID says it as the hub names it"),
        ("license: unknown", "its license is unknown"),
        ("license: other", "its license is unknown"),
        ("license: my-own", "its license, my-own, is none that the hub knows, and no link says what it is; license = "),
        ("license: other\nlicense_name: my-own", "its license, my-own, is none that the hub knows"),
        ("license: [", "its license is unknown"),
    ],
)
def test_an_unknown_license_is_refused_with_what_to_do(
    source: Callable[[str], Path], front: str, message: str, tmp_path: Path, convert: Convert
) -> None:
    done = convert(source(front), "--to", "onnx", "--out", tmp_path / "out", check=2)
    assert f"convert: mine: {message}" in done.stderr.splitlines()[-1]
    assert not (tmp_path / "out").exists()


def test_what_no_file_says_a_flag_does_and_what_one_says_it_does_not(
    source: Callable[[str], Path], tiny: Path, tmp_path: Path, convert: Convert
) -> None:
    mine = source("language: en")
    arguments = ("--to", "onnx", "--bits", 32, "--no-verify", "--out", tmp_path / "out")
    convert(mine, *arguments, "--license", "apache-2.0")
    assert artifact.read(tmp_path / "out/mine-onnx-32bit").license == "apache-2.0"
    assert "--license apache: not a license as the hub names it; did you mean apache-2.0?" in one_line(
        convert(mine, *arguments, "--license", "apache", check=2)
    )
    assert "--license unknown: not a license" in one_line(convert(mine, *arguments, "--license", "unknown", check=2))
    stated = one_line(convert(tiny / "checkpoint", *arguments, "--license", "mit", check=2))
    assert "README.md says already what --license would" in stated
    assert "leave --license out" in one_line(convert(tiny / "tiny.toml", *arguments, "--license", "mit", check=2))


def test_a_license_of_its_own_has_a_name_and_a_link_and_its_text_goes_along(
    source: Callable[[str], Path], tmp_path: Path, convert: Convert
) -> None:
    mine = source("license: other\nlicense_name: my-research-1.0\nlicense_link: LICENSE.md")
    (mine / "LICENSE.md").write_text("Only to look at.")
    arguments = (mine, "--to", "onnx", "--bits", 32, "--no-verify", "--out", tmp_path / "out")
    refused = convert(*arguments, check=2).stderr
    assert "my-research-1.0 (LICENSE.md), forbids commercial use; --accept-license my-research-1.0 accepts that" in refused
    convert(*arguments, "--accept-license", "my-research-1.0")
    path = tmp_path / "out/mine-onnx-32bit"
    manifest = artifact.read(path)
    assert (manifest.license, manifest.source["license_link"]) == ("my-research-1.0", "LICENSE.md")
    assert "LICENSE.md" in manifest.files
    assert (path / "LICENSE.md").read_text() == "Only to look at."
    own = tmp_path / "own.toml"
    place = find(str(mine))
    own.write_text(to_toml(draft(place), place))
    assert 'license = "other"  # README.md\nlicense_name = "my-research-1.0"\nlicense_link = "LICENSE.md"' in own.read_text()
    loaded = recipe.load(str(own))
    assert (loaded.license, loaded.license_link) == ("my-research-1.0", "LICENSE.md")
    assert json.loads((path / "artifact.json").read_text())["source"]["facts"]["license"] == "README.md"


@pytest.mark.parametrize(
    ("front", "wanted"),
    [
        ("license: Apache-2.0\nlanguage: en", {"license": "apache-2.0", "language": ["en"]}),
        (
            "language: [en, no]\npipeline_tag: sentence-similarity",
            {"language": ["en", "no"], "pipeline_tag": "sentence-similarity"},
        ),
        ("pipeline_tag: text-generation\nlicense_link: LICENSE", {}),
        ("- a list", {}),
        ("license: [mit]\nlanguage: [en, {of: sorts}]\nlicense_link: [LICENSE]", {}),
        ("license: mit\nlicense_link: {a: b}\nlanguage: []", {"license": "mit"}),
    ],
)
def test_what_the_front_matter_says(front: str, wanted: dict[str, Any], tmp_path: Path) -> None:
    assert {key: fact.value for key, fact in front_matter(card(tmp_path, front)).items()} == wanted


def test_the_text_beside_the_card_is_the_link_where_it_names_none(tmp_path: Path) -> None:
    facts = front_matter(card(tmp_path, "license: other\nlicense_name: my-own"))
    assert "license_link" not in facts
    (tmp_path / "LICENSE").touch()
    facts = front_matter(tmp_path)
    assert (facts["license"].value, facts["license_link"].value) == ("my-own", "LICENSE")


def test_a_recipe_says_what_the_checkpoint_says_or_why_not(tiny: Path, tmp_path: Path, convert: Convert) -> None:
    text = (tiny / "tiny.toml").read_text().replace('license = "mit"', 'license = "apache-2.0"')
    mine = tmp_path / "mine.toml"
    mine.write_text(text)
    arguments = (mine, "--to", "onnx", "--bits", 32, "--source", tiny / "checkpoint", "--no-verify", "--out", tmp_path / "out")
    line = one_line(convert(*arguments, check=2))
    assert line == "convert: tiny: license 'apache-2.0', but README.md says 'mit'\n"
    mine.write_text(text + '[overrides]\nlicense = "Both are offered."\n')
    convert(*arguments)
    manifest = artifact.read(tmp_path / "out/tiny-onnx-32bit")
    assert (manifest.license, manifest.source["overrides"]) == ("apache-2.0", {"license": "Both are offered."})


@pytest.mark.parametrize(
    ("license", "link", "repo", "wanted"),
    [
        ("cc-by-nc-sa-3.0", "", "dir:mine", "https://creativecommons.org/licenses/by-nc-sa/3.0/"),
        ("apple-amlr", "", "apple/some", "https://huggingface.co/apple/some"),
        ("apple-amlr", "", "pkg:some", ""),
        ("my-own", "LICENSE", "org/mine", "https://huggingface.co/org/mine/blob/abc/LICENSE"),
        ("my-own", "LICENSE", "dir:mine", "LICENSE"),
        ("my-own", "https://example.org/terms", "org/mine", "https://example.org/terms"),
    ],
)
def test_a_license_is_linked_to(license: str, link: str, repo: str, wanted: str) -> None:
    assert licenses.link_of(license, link, repo, "abc") == wanted


def test_those_that_forbid_commercial_use_are_told_apart() -> None:
    free = ["apache-2.0", "cc-by-4.0", "cc-by-nd-4.0", "cc-by-sa-4.0", "gemma", "llama3.3", "mit", "openrail", "other", "ncsa"]
    bound = [name for name in licenses.IDS if name.startswith("cc-by-nc")]
    bound += ["apple-amlr", "deepfloyd-if-license", "fair-noncommercial-research-license", "h-research", "intel-research"]
    assert len(bound) == 13
    assert [name for name in free if licenses.non_commercial(name)] == []
    assert sorted(filter(licenses.non_commercial, licenses.IDS)) == sorted(bound)
    assert licenses.non_commercial("Qwen Research License")
    assert licenses.non_commercial("nvidia-non-commercial-license")


@pytest.mark.parametrize("name", recipe.names())
def test_our_recipes_pass_the_gate(name: str) -> None:
    loaded = recipe.load(name)
    licenses.check_known(name, loaded.license, loaded.license_link)
    accepted = ("cc-by-nc-4.0",) if name == "jina-embeddings-v3" else ()
    licenses.check_accepted(name, loaded.license, loaded.license_link, accepted)


def test_an_artifact_of_an_unknown_license_is_not_to_be_published(tiny_artifact: Path, tmp_path: Path) -> None:
    def of(**changes: Any) -> artifact.Manifest:
        raw = json.loads((tiny_artifact / "artifact.json").read_text())
        write(tmp_path, raw | changes)
        return artifact.read(tmp_path)

    licenses.check_license(of(), ())
    for license in ("unknown", "my-own"):
        with pytest.raises(UsageError, match="tiny-onnx-32bit: its license"):
            licenses.check_license(of(license=license), ())
    source = artifact.read(tiny_artifact).source
    licenses.check_license(of(license="my-own", source=source | {"license_link": "LICENSE"}), ())
