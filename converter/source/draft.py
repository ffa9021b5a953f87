"""A recipe from a checkpoint's own files, for a conversion without one; what no file says is asked for, never guessed."""

import dataclasses
import json
import re
from typing import Any

from converter.licenses import IDS, OTHER, UNKNOWN, check_id
from converter.recipe import Recipe, Source
from converter.source.facts import Facts
from converter.source.open import Place
from shim.architectures import architecture, architectures
from shim.errors import UsageError
from shim.pooling import POOLINGS
from shim.prompts import PAIR_SLOTS
from shim.spec import NORMALIZE, ModelSpec, Module

REQUIRED = ("pooling", "max_tokens", "dimensions", "heads")  # of a recipe's [model]


def draft(
    place: Place,
    pooling: str | None = None,
    normalize: bool | None = None,
    license: str | None = None,
    printed: bool = False,
) -> Recipe:
    """The recipe that the files of `place` make together; pooling, normalize, license: what a user says where no file does.

    printed: the recipe is for a user to complete, and may lack what no file says of a causal reranker.

    Raises UsageError for what is not supported, for what is still to be said, and for what a file says already.
    """
    facts, where = place.facts, place.upstream
    if "architecture" not in facts:
        raise UsageError(f"{where}: config.json has no model_type; supported are {', '.join(architectures())}")
    kind = facts["architecture"].value
    if kind not in architectures():
        known = ", ".join(architectures())
        raise UsageError(f"{where}: {facts['architecture'].file} says model_type {kind!r}, which is not supported ({known})")
    for flag, given, key in (
        ("--pooling", pooling, "pooling"),
        ("--normalize", normalize, "modules"),
        ("--license", license, "license"),
    ):
        if given is not None and key in facts and facts[key].value != UNKNOWN:
            raise UsageError(f"{where}: {facts[key].file} says already what {flag} would; write a recipe to override it")
    task = facts["task"].value if "task" in facts else "embed"
    if task == "embed" and "pooling" not in facts and (pooling is None or normalize is None):
        raise UsageError(
            f"{where}: a model without pooling, as no modules.json says how tokens become a vector; "
            f"say --pooling {'|'.join(POOLINGS)} and --normalize or --no-normalize"
        )
    module = architecture(kind)
    if task == "rerank" and not hasattr(module, "score"):
        raise UsageError(f"{where}: a reranker of architecture {kind}, which is not supported")
    if place.layout.logit_score is not None and not printed:
        raise UsageError(
            f"{where}: a causal language model that reranks by two words, and no file says the text around a pair; "
            "write it as `pair` into a recipe (convert recipe prints the rest)"
        )
    recipe = _recipe(place, task, pooling, normalize)
    if license is None:
        return recipe
    check_id(license)
    return dataclasses.replace(recipe, license=license)


def _recipe(place: Place, task: str, pooling: str | None, normalize: bool | None) -> Recipe:
    facts = place.facts
    stated: dict[str, Any] = {}
    if pooling is not None:
        stated["pooling"] = pooling
    if normalize is not None:
        stated["modules"] = [NORMALIZE] if normalize else []
    known: dict[str, Any] = {key: facts[key].value for key in REQUIRED if key in facts}
    if "dimensions" not in known:
        raise UsageError(f"{place.upstream}: config.json has no hidden_size that is a number")
    kind = facts["architecture"].value
    unused = {"pooling": "last" if hasattr(architecture(kind), "continues") else "cls"}  # by a reranker
    values: dict[str, Any] = unused | known | stated
    repo, revision = str(place.origin["repo"]), str(place.origin["revision"])
    return Recipe(
        name=name_of(repo),
        task=task,
        architecture=kind,
        license=facts["license"].value if "license" in facts else UNKNOWN,
        license_link=facts["license_link"].value if "license_link" in facts else "",
        source=Source(repo, revision or "main"),
        model=ModelSpec(architecture=kind, **values),
        stated=frozenset(stated),
    )


def name_of(repo: str) -> str:
    """The name of an artifact after its original: the last part of `repo`, in the letters that a name may have."""
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", repo.split(":")[-1].split("/")[-1]).lstrip("._-")
    return name or "model"


def lines(place: Place) -> list[str]:
    """The facts as a person reads them, a line each: what, the value, the file that says it."""
    return [f"{key:14} {_value(fact.value)}  ({fact.file})" for key, fact in place.facts.items()]


def to_toml(recipe: Recipe, place: Place) -> str:
    """The recipe as a file to keep and edit: what the files say is repeated, and checked against them at each conversion."""
    facts, model = place.facts, recipe.model
    repo = recipe.source.repo if "/" in recipe.source.repo else f"your-org/{recipe.name}"
    top = {"name": recipe.name, "task": recipe.task, "architecture": recipe.architecture, "license": recipe.license}
    if recipe.license not in IDS:
        top |= {"license": OTHER, "license_name": recipe.license}
    top |= {"license_link": recipe.license_link} if recipe.license_link else {}
    text = [f"{key} = {_toml(value)}{_comment(facts, key)}" for key, value in top.items()]
    text += ["", "[source]", f"repo = {_toml(repo)}"]
    text += [f"revision = {_toml(recipe.source.revision)}"] if recipe.source.repo == repo else []
    text += ["", "[model]"]
    for key in (
        "pooling",
        "max_tokens",
        "dimensions",
        "heads",
        "modules",
        "default_prompt",
        "similarity",
        "lower_case",
        "layer",
        "activation",
    ):
        if key in ("pooling", "max_tokens", "dimensions", "heads") or key in facts or key in recipe.stated:
            value = facts[key].value if key in facts and key not in recipe.stated else getattr(model, key)
            if value != "":
                text.append(f"{key} = {_toml(value)}{_comment(facts, key)}")
    names = facts["prompt_names"].value if "prompt_names" in facts else {}
    if names:
        text += ["", f"[prompt_names]{_comment(facts, 'prompt_names')}"]
        text += [f"{_toml(name)} = {_toml(prompt)}" for name, prompt in names.items()]
    if place.layout.logit_score is not None:
        text += ["", "[prompts]  # to be completed: no file says the text around a pair"]
        text += [f'# pair = "… {slot} …"' for slot in [" … ".join(PAIR_SLOTS)]] + ['# default = "…"']
    return "\n".join([*text, "", "[parity]", f"cosine = {recipe.parity.cosine}", ""])


def _comment(facts: Facts, key: str) -> str:
    return f"  # {facts[key].file}" if key in facts else ""


def _value(value: object) -> str:
    if isinstance(value, list):
        return ", ".join(map(_step, value)) or "none"
    if isinstance(value, dict):
        return ", ".join(f"{name} {text!r}" for name, text in value.items()) or "none"
    return repr(value) if value == "" or (isinstance(value, str) and value != value.strip()) else str(value)


def _step(step: str | Module) -> str:
    return step if isinstance(step, str) else step.type if step.type != "dense" else f"dense {step.width} {step.activation}"


def _toml(value: object) -> str:
    """A value in TOML, whose strings, numbers and lists of them are written as JSON's."""
    if isinstance(value, Module):
        if value == NORMALIZE:
            return '"normalize"'
        bias = "true" if value.bias else "false"
        return f'{{type = "dense", width = {value.width}, bias = {bias}, activation = "{value.activation}"}}'
    if isinstance(value, list):
        return f"[{', '.join(map(_toml, value))}]"
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
