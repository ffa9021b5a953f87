"""The README says what is there: every command and option of --help, every file of the tree, and no more."""

import re

import click
import pytest
from conftest import ROOT

from converter.cli import main_group as convert_group
from shim.cli import main_group as shim_group

README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = {
    "convert MODEL": convert_group.commands["model"],
    **{f"convert {name}": command for name, command in convert_group.commands.items() if name != "model"},
    **{f"shim {name}": command for name, command in shim_group.commands.items()},
}


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_is_in_the_table_and_no_other(name: str) -> None:
    rows = [line for line in README.splitlines() if line.startswith((f"| `{name} ", f"| `{name}`"))]
    assert len(rows) == 1
    options = {o for p in COMMANDS[name].params if isinstance(p, click.Option) for o in (*p.opts, *p.secondary_opts)}
    assert set(re.findall(r"--[a-z-]+", rows[0])) == options


def test_no_other_command_is_documented() -> None:
    documented = set(re.findall(r"^\| `((?:convert|shim) \w+)", README, re.MULTILINE))
    assert documented == set(COMMANDS)


def test_every_recipe_is_named() -> None:
    line = README.split("\nRecipes: ")[1]
    assert set(re.findall(r"[\w.-]+-[\w.-]*\w", line.split(";")[0])) == {
        path.stem for path in (ROOT / "recipes").glob("*.toml")
    }


def test_the_tree_is_the_tree() -> None:
    tree = README.split("## Tree")[1].split("```")[1]
    folder = ""
    for line in tree.strip().splitlines():
        names = re.match(r" *(\S+(?: \S+\.py)?)", line)
        assert names is not None
        if not line.startswith(" "):
            folder = names[1]
            assert (ROOT / folder).is_dir(), folder
            continue
        for name in names[1].split():
            assert (ROOT / folder / name).exists(), f"{folder}{name}"
    listed = set(re.findall(r"\w+\.py", tree)) | {"__init__.py", "__main__.py"}
    missing = {path.name for top in ("converter", "shim") for path in (ROOT / top).glob("*.py")} - listed - {"errors.py"}
    assert missing == set()


def test_the_scripts_are_named() -> None:
    named = set(re.search(r"^scripts/ +(.*)$", README, re.MULTILINE)[1].split(", "))  # type: ignore[index]
    assert named <= {path.name for path in (ROOT / "scripts").iterdir()}
