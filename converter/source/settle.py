"""What a recipe and a checkpoint say together: where both speak they agree, or the recipe states an override and why."""

import dataclasses
import re
from typing import Any

from converter.licenses import UNKNOWN
from converter.recipe import Recipe
from converter.source.facts import Facts
from shim.errors import UsageError
from shim.pooling import check_heads
from shim.prompts import DEFAULT, PAIR, ROLES, SLOT, TEMPLATE, named_for, prompt_for
from shim.spec import ModelSpec, Module

# Of the model; the recipe's own words for each are in recipes/README.md.
SETTLED = (
    "pooling",
    "max_tokens",
    "dimensions",
    "modules",
    "prompt_names",
    "default_prompt",
    "similarity",
    "activation",
    "lower_case",
    "layer",
    "splade",
    "colbert",
)


def settle(recipe: Recipe, facts: Facts) -> ModelSpec:
    """The model. Raises UsageError where recipe and checkpoint contradict each other, and for what neither says."""
    _check_kind(recipe, facts)
    for key in recipe.overrides:
        if key not in (*recipe.stated, "prompts", "license"):
            raise UsageError(f"{recipe.name}: [overrides] has {key}, but the recipe states no {key}")
    values: dict[str, Any] = {}
    for key in SETTLED:
        own, fact = getattr(recipe.model, key), facts.get(key)
        if fact is None or key in recipe.overrides or (key in recipe.stated and own == fact.value):
            values[key] = own
        elif key in recipe.stated:
            says = (
                f"config.json has hidden_size {fact.value}" if key == "dimensions" else f"{fact.file} says {_shown(fact.value)}"
            )
            raise UsageError(f"{recipe.name}: {key} {_shown(own)}, but {says}")
        else:
            values[key] = fact.value
    if recipe.task == "embed" and "modules" not in facts and "modules" not in recipe.stated:
        raise UsageError(
            f'{recipe.name}: no file says whether vectors are normalised; modules = ["normalize"] or [] in [model] does '
            "(--normalize, --no-normalize)"
        )
    spec = dataclasses.replace(recipe.model, **values)
    if wrong := check_heads(spec, recipe.task):
        raise UsageError(f"{recipe.name}: {wrong}")
    if spec.default_prompt and spec.default_prompt not in spec.prompt_names:
        raise UsageError(f"{recipe.name}: default_prompt {spec.default_prompt!r} is none of its prompts")
    left_out = facts.get("include_prompt")
    if left_out is not None and any((*spec.prompts.values(), *spec.prompt_names.values())):
        raise UsageError(
            f"{recipe.name}: {left_out.file} leaves prompts out of the mean (include_prompt), which is not supported"
        )
    if recipe.task == "embed" and "prompts" not in recipe.overrides:
        _check_prompts(recipe, spec, facts)
    return _with_reranker_prompt(recipe, spec, facts)


def _check_kind(recipe: Recipe, facts: Facts) -> None:
    task, kind = facts.get("task"), facts.get("architecture")
    if task is not None and task.value != recipe.task:
        raise UsageError(
            f"{recipe.name}: {task.file} says that the task is {task.value}, and the recipe's task is {recipe.task}"
        )
    if kind is not None and kind.value != recipe.architecture:
        raise UsageError(f"{recipe.name}: {kind.file} says model_type {kind.value!r}, the recipe {recipe.architecture!r}")
    license = facts.get("license")
    if license is not None and license.value not in (recipe.license, UNKNOWN) and "license" not in recipe.overrides:
        raise UsageError(f"{recipe.name}: license {recipe.license!r}, but {license.file} says {license.value!r}")


def _check_prompts(recipe: Recipe, spec: ModelSpec, facts: Facts) -> None:
    """A prompt of the recipe for a task that the checkpoint names one for, too, is the same."""
    template = recipe.model.prompts.get(TEMPLATE)
    if not recipe.model.prompts or "prompt_names" not in facts:
        return
    file = facts["prompt_names"].file
    for task in dict.fromkeys((*ROLES, *spec.prompt_names)):
        named = named_for(spec.prompt_names, task)
        if named is None or (task not in ROLES and task not in recipe.model.prompts):
            continue
        if template is not None and task not in recipe.model.prompts and named:
            before, behind = template.split(SLOT)
            if not re.fullmatch(f"{re.escape(before)}.+{re.escape(behind)}", named, re.DOTALL):
                raise UsageError(f"{recipe.name}: instruction {template!r} does not fit {file}'s prompt {named!r}")
        elif prompt_for(recipe.model.prompts, task) != named:
            own = prompt_for(recipe.model.prompts, task)
            raise UsageError(f"{recipe.name}: the prompt of {task} is {own!r}, but {file} says {named!r}")


def _with_reranker_prompt(recipe: Recipe, spec: ModelSpec, facts: Facts) -> ModelSpec:
    """What the checkpoint puts before each query: the default instruction of a template, else words before the query."""
    fact = facts.get("prompt")
    if recipe.task != "rerank" or fact is None or not fact.value:
        return spec
    own = spec.prompts.get(DEFAULT)
    if own is None and PAIR not in spec.prompts:
        return dataclasses.replace(spec, prompts={**spec.prompts, DEFAULT: fact.value})
    if own != fact.value and "prompts" not in recipe.overrides:
        raise UsageError(f"{recipe.name}: the default instruction is {own!r}, but {fact.file} says {fact.value!r}")
    return spec


def _shown(value: object) -> str:
    if isinstance(value, list) and all(isinstance(step, Module) for step in value):
        return f"modules {[step.type for step in value]}"
    return repr(value)
