"""Recipes: one TOML file per model, read strictly into a frozen Recipe."""

import re
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from converter.licenses import named
from converter.recipe_keys import KEYS, OPEN, OVERRIDABLE, check_choice, check_keys, check_open, check_prompts, module
from shim.architectures import architecture
from shim.errors import UsageError
from shim.nearest import nearest
from shim.parity import PARITY_TARGET
from shim.pooling import HEADS, POOLINGS, UNPOOLED, VOCABULARY_POOLINGS
from shim.spec import ACTIVATIONS, MAXIMAL, SIMILARITIES, ModelSpec


@dataclass(frozen=True)
class Source:
    """Where the original is: a hub repository at a revision, or a Python package that carries the same files."""

    repo: str
    revision: str = "main"
    package: str = ""  # used instead of the hub when it is installed


@dataclass(frozen=True)
class Parity:
    """What an artifact of this model must reach: the cosine of its worst text."""

    cosine: float = PARITY_TARGET


@dataclass(frozen=True)
class Recipe:
    """What a conversion must know of a model and its checkpoint does not say.

    license: an id of the hub, or of another license its name; license_link: its text's address, or file in the checkpoint.
    stated: the keys of `model` that the recipe states; the others are as the checkpoint says. overrides: {key: reason} where
    the recipe says something else than the checkpoint on purpose.
    """

    name: str
    task: str
    architecture: str
    license: str
    source: Source
    model: ModelSpec
    parity: Parity = field(default_factory=Parity)
    stated: frozenset[str] = frozenset()
    overrides: dict[str, str] = field(default_factory=dict)
    license_link: str = ""


def folder() -> Path:
    """The folder of the recipes that come with the converter: inside a wheel, or at the top of a checkout."""
    installed = Path(__file__).parent / "recipes"
    return installed if installed.is_dir() else Path(__file__).parent.parent / "recipes"


def names() -> list[str]:
    """The names of the recipes that come with the converter."""
    return sorted(path.stem for path in folder().glob("*.toml"))


def load(model: str) -> Recipe:
    """The recipe called `model`, or the one in the file `model`.

    Raises UsageError naming file and key, or the nearest names.
    """
    path = Path(model) if model.endswith(".toml") else folder() / f"{model}.toml"
    if not model.endswith(".toml") and model not in names():
        near = nearest(model, names(), most=3, cutoff=0.4)
        hint = f"did you mean {', '.join(near)}?" if near else f"there are {', '.join(names())}"
        raise UsageError(f"recipe {model!r} unknown; {hint}")
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror})") from None
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path}: not valid TOML ({error})") from None
    return parse(raw, path.name)


def find(model: str) -> tuple[Recipe, str | None] | None:
    """The recipe that `model` names: by its own name, its file, or the repository that it is for; None without a recipe.

    The second value is where the original is, where the name says another revision than the recipe. Raises UsageError for a
    name that is neither a recipe's nor that of a directory, a package or a repository.
    """
    if model.endswith(".toml") or model in names():
        return load(model), None
    if Path(model).is_dir() or model.startswith("pkg:"):
        return None
    repo, _, revision = model.partition("@")
    if "/" not in repo:
        return load(model), None
    same = [known for known in map(load, names()) if known.source.repo.lower() == repo.lower()]
    if not same:
        return None
    return same[0], model if revision else None


def parse(raw: dict[str, Any], file: str) -> Recipe:
    """A parsed TOML document as a Recipe; `file` is what errors name."""
    top = {key: value for key, value in raw.items() if key not in (*KEYS, *OPEN) or key == ""}
    check_keys(top, "", file)
    sections: dict[str, dict[str, Any]] = {}
    for section in ("source", "model", "prompts", "parity", *OPEN):
        value = raw.get(section, {})
        if not isinstance(value, dict):
            raise UsageError(f"{file}: {section} must be a section, [{section}]")
        sections[section] = check_keys(value, section, file) if section in KEYS else check_open(value, section, file)
    model, stated = sections["model"], {*sections["model"], *(["prompt_names"] if "prompt_names" in raw else [])}
    if "modules" in model:
        model["modules"] = [module(step, file) for step in model["modules"]]
    for key, known in (("similarity", (*SIMILARITIES, *MAXIMAL)), ("activation", ACTIVATIONS)):
        if key in model:
            check_choice(file, key, model[key], known)
    for key in sections["overrides"]:
        check_choice(file, "overrides", key, OVERRIDABLE)
    check_choice(file, "task", top["task"], tuple(HEADS))
    top["license"] = named(top["license"], top.pop("license_name", ""), top.get("license_link", ""), file)
    alone = VOCABULARY_POOLINGS if model["heads"] == ["sparse"] else (UNPOOLED,) if model["heads"] == ["colbert"] else None
    check_choice(file, "pooling", model["pooling"], alone or POOLINGS)
    for head in model["heads"]:
        check_choice(file, "heads", head, HEADS[top["task"]])
    if HEADS[top["task"]][0] not in model["heads"] and not alone:
        raise UsageError(f'{file}: heads must hold "{HEADS[top["task"]][0]}", or be SPLADE\'s "sparse" or ColBERT\'s "colbert"')
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", top["name"]):
        raise UsageError(f"{file}: name {top['name']!r} must be letters, digits, '.', '_' and '-'")
    for key in ("max_tokens", "dimensions"):
        if model[key] < 1:
            raise UsageError(f"{file}: {key} must be positive, not {model[key]}")
    if not 0 < sections["parity"].get("cosine", PARITY_TARGET) <= 1:
        raise UsageError(f"{file}: cosine must be over 0 and at most 1")
    package = sections["source"].get("package")
    if package is not None and not package.isidentifier():
        raise UsageError(f"{file}: package {package!r} must be the name of a module, without dots")
    try:
        architecture(top["architecture"])
    except UsageError as error:
        raise UsageError(f"{file}: {error}") from None
    check_prompts(sections["prompts"], top["task"], file)
    names = sections["prompt_names"]
    spec = ModelSpec(architecture=top["architecture"], prompts=sections["prompts"], prompt_names=names, **model)
    return Recipe(
        **top,
        source=Source(**sections["source"]),
        model=spec,
        parity=Parity(**sections["parity"]),
        stated=frozenset(stated),
        overrides=sections["overrides"],
    )
