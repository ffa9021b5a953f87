"""The papers say what is there: every command and option of --help, every file, every recipe, links that lead somewhere."""

import re
import subprocess
import sys
import tomllib

import click
import pytest
from conftest import ROOT

import shim
from converter.cli import main_group as convert_group
from shim.cli import main_group as shim_group

FOLDERS = (".github", "converter", "recipes", "scripts", "shim", "tests")  # not artifacts, where conversions write model cards
FILES = [ROOT / "README.md", ROOT / "artifacts/README.md", *(path for top in FOLDERS for path in (ROOT / top).rglob("*.md"))]
PAPERS = {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in FILES}
README = PAPERS["README.md"]
COMMANDS = {
    "convert MODEL": convert_group.commands["model"],
    **{f"convert {name}": command for name, command in convert_group.commands.items() if name != "model"},
    **{f"shim {name}": command for name, command in shim_group.commands.items()},
}
ORDER = ["Install", "Convert, serve, embed", "Which model to take", "Results", "How parity works", "Where to read on"]
HELP = {"--help", "--version"}
OPTION = re.compile(r"(?<![\w-])--[a-z][a-z0-9-]*")


def options(command: click.Command) -> set[str]:
    return {o for p in command.params if isinstance(p, click.Option) for o in (*p.opts, *p.secondary_opts)}


def heading(text: str) -> str:
    """The fragment by which a heading is linked to."""
    return re.sub(r"[^\w\- ]", "", text.strip().lower()).replace(" ", "-")


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_is_in_the_table_and_no_other(name: str) -> None:
    paper = PAPERS["shim/README.md" if name.startswith("shim") else "converter/README.md"]
    sections = re.findall(rf"^### `{name}\b.*?(?=^##|^<!--)", paper, re.MULTILINE | re.DOTALL)
    assert len(sections) == 1
    rows = re.findall(r"^\| `(-[^`]*)` \|", sections[0], re.MULTILINE)
    assert {option for row in rows for option in OPTION.findall(row)} == options(COMMANDS[name])


def test_no_other_command_is_documented() -> None:
    documented = re.findall(r"^### `((?:convert|shim) \w+)", "\n".join(PAPERS.values()), re.MULTILINE)
    assert sorted(documented) == sorted(COMMANDS)


def test_what_is_generated_is_up_to_date() -> None:
    done = subprocess.run([sys.executable, ROOT / "scripts/docs", "--check"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, ""), done.stdout + done.stderr


def test_every_option_that_is_named_is_one_of_ours_or_of_a_script() -> None:
    scripts = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "scripts").iterdir() if path.is_file())
    known = HELP | set().union(*map(options, COMMANDS.values())) | set(re.findall(r'"(--[a-z0-9-]+)"', scripts))
    for name, paper in PAPERS.items():
        assert set(OPTION.findall(paper)) - known == set(), name


def test_every_relative_link_leads_somewhere() -> None:
    for name, paper in PAPERS.items():
        text = re.sub(r"```.*?```", "", paper, flags=re.DOTALL)
        for link in re.findall(r"\]\(([^)\s]+)\)", text):
            if re.match(r"[a-z]+:", link):
                continue
            path, _, fragment = link.partition("#")
            target = (ROOT / name).parent / path if path else ROOT / name
            assert target.exists(), f"{name}: {link}"
            assert target.resolve().is_relative_to(ROOT), f"{name}: {link}"
            if fragment:
                found = re.findall(r"^#+ (.*)$", target.read_text(encoding="utf-8"), re.MULTILINE)
                assert fragment in map(heading, found), f"{name}: {link}"


def test_the_readme_is_short_and_in_order() -> None:
    assert len(README.splitlines()) <= 110
    assert re.findall(r"^## (.*)$", README, re.MULTILINE) == ORDER


def test_every_recipe_is_named() -> None:
    rows = re.findall(r"^\|[^|]+\|([^|]+)\|[^|]+\|$", README.split("## Which model")[1].split("\n## ")[0], re.MULTILINE)
    assert set(re.findall(r"[\w.-]+-[\w.-]*\w", " ".join(rows))) == {path.stem for path in (ROOT / "recipes").glob("*.toml")}


def test_the_scripts_that_are_named_are_there() -> None:
    named = set(re.findall(r"scripts/([\w-]+(?:/\w+)?)", "".join(PAPERS.values())))
    there = {path.relative_to(ROOT / "scripts").as_posix().removesuffix(path.suffix) for path in (ROOT / "scripts").rglob("*")}
    assert named <= there


def test_every_file_of_the_packages_says_what_it_holds() -> None:
    for package in ("converter", "shim"):
        files = [path.relative_to(ROOT) for path in (ROOT / package).rglob("*.py")]
        listed = re.findall(r"^\| `(\S+\.py)` \|", PAPERS[f"{package}/README.md"], re.MULTILINE)
        assert sorted(listed) == sorted(path.as_posix() for path in files if not path.name.startswith("__"))


def test_the_version_and_the_pythons_are_written_once() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert project["project"]["dynamic"] == ["version"]
    assert f'__version__ = "{shim.__version__}"' in (ROOT / project["tool"]["hatch"]["version"]["path"]).read_text(
        encoding="utf-8"
    )
    assert f"\n## {shim.__version__}\n" in PAPERS[".github/CHANGELOG.md"]
    workflow = (ROOT / ".github/workflows/ci.yml").read_text(encoding="utf-8")
    tested = re.findall(r'"(3\.\d+)"', re.findall(r"python: \[(.*)\]", workflow)[0])
    named = [line.rpartition(" ")[2] for line in project["project"]["classifiers"] if re.search(r":: 3\.\d+$", line)]
    assert tested == named
    assert all((ROOT / package / "py.typed").is_file() for package in ("converter", "shim"))
