"""The keys of a recipe: which there are, and what their values may be. A wrong one is a UsageError that names file and key."""

import difflib
from typing import Any

from shim.errors import UsageError
from shim.prompts import DEFAULT, PAIR, PROMPTS, fault
from shim.spec import STEPS, Module

# Section -> key -> (type, required). Whatever is not here is an error; OPEN sections have keys of the writer's choice, str.
KEYS: dict[str, dict[str, tuple[type, bool]]] = {
    "": {
        **dict.fromkeys(("name", "task", "architecture", "license"), (str, True)),
        **dict.fromkeys(("license_name", "license_link"), (str, False)),
    },
    "source": {"repo": (str, True), "revision": (str, False), "package": (str, False)},
    "model": {
        "pooling": (str, True),
        "max_tokens": (int, True),
        "dimensions": (int, True),
        "heads": (list, True),
        "modules": (list, False),
        "default_prompt": (str, False),
        "similarity": (str, False),
        "activation": (str, False),
        "lower_case": (bool, False),
        "layer": (int, False),
    },
    "prompts": dict.fromkeys(PROMPTS, (str, False)),
    "parity": {"cosine": (float, False)},
}
OPEN = ("prompt_names", "overrides")
OVERRIDABLE = (
    "license",
    "pooling",
    "max_tokens",
    "modules",
    "prompts",
    "prompt_names",
    "default_prompt",
    "similarity",
    "activation",
    "lower_case",
    "layer",
)


def module(step: object, file: str) -> Module:
    """A step behind the pooling: "normalize", or {type = "dense", width = 256, bias = true, activation = "tanh"}."""
    entry = {"type": step} if isinstance(step, str) else step
    if not isinstance(entry, dict) or not {"type"} <= entry.keys() <= {"type", "width", "bias", "activation"}:
        raise UsageError(f'{file}: modules has {step!r}; a module is "normalize" or {{type = "dense", width = …}}')
    check_choice(file, "modules", entry["type"], tuple(STEPS))
    kinds = {"width": int, "bias": bool, "activation": str}
    if any(key in entry and type(entry[key]) is not kind for key, kind in kinds.items()):
        raise UsageError(f"{file}: modules has {step!r}; width is a whole number, bias true or false, activation text")
    found = Module(**entry)
    check_choice(file, "activation", found.activation, STEPS[found.type])
    if (found.type == "dense") != (isinstance(found.width, int) and found.width > 0):
        raise UsageError(f"{file}: modules has {step!r}; a dense module has a width, another has none")
    return found


def check_open(given: dict[str, Any], section: str, file: str) -> dict[str, str]:
    """The section, whose keys are the writer's choice and whose values are text; a reason for an override is not empty."""
    for key, value in given.items():
        if not isinstance(value, str) or (section == "overrides" and not value.strip()):
            raise UsageError(f"{file}: {key} in [{section}] must be text, not {value!r}")
    return given


def check_keys(given: dict[str, Any], section: str, file: str) -> dict[str, Any]:
    """The section, "" for the top, whose keys are those of KEYS, each of its type."""
    keys, where = KEYS[section], f" in [{section}]" if section else ""
    for key, value in given.items():
        if key not in keys:
            known = [*keys] if section else [*keys, *filter(None, KEYS), *OPEN]
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(known)}"
            raise UsageError(f"{file}: key {key!r}{where} unknown; {hint}")
        kind = keys[key][0]
        if kind is float and isinstance(value, int):
            value = float(value)
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            raise UsageError(f"{file}: {key}{where} must be {kind.__name__}, not {value!r}")
    missing = [key for key, (_, required) in keys.items() if required and key not in given]
    if missing:
        raise UsageError(f"{file}: key {missing[0]!r}{where} missing")
    return given


def check_prompts(prompts: dict[str, str], task: str, file: str) -> None:
    """A template without its slot, a prompt of the other task, and half of a pair's two prompts are refused."""
    wrong = fault(prompts, task)
    if wrong:
        raise UsageError(f"{file}: {wrong[0]} in [prompts] {wrong[1]}")
    if (PAIR in prompts) != (DEFAULT in prompts):
        raise UsageError(f"{file}: {PAIR} and {DEFAULT} in [prompts] go together")


def check_choice(file: str, key: str, value: object, known: tuple[str, ...]) -> None:
    """The value is one of those known."""
    if value not in known:
        raise UsageError(f"{file}: {key} {_quoted(value)} unknown ({', '.join(known)})")


def _quoted(value: object) -> str:
    """A value as an error shows it: strings in double quotes, as the TOML file has them."""
    return f'"{value}"' if isinstance(value, str) else repr(value)
