"""Whether what a manifest says of a model can be served: what is wrong is found when it is loaded, not when it is asked for."""

from pathlib import Path

from shim.architectures import architecture
from shim.artifact import Manifest
from shim.errors import IntegrityError, SourceError, UsageError
from shim.jsons import read_object
from shim.pooling import HEADS, POOLINGS
from shim.prompts import DEFAULT, PAIR, PAIR_SLOTS, PROMPTS, SLOT, TEMPLATE
from shim.spec import SIMILARITIES, ModelSpec

TASKS = {"embed": tuple(head for head in HEADS if head != "score"), "rerank": ("score",)}  # task -> its heads, the first needed
MAX_NAME = 200  # characters of an artifact's name, which every answer and every figure holds


def check(manifest: Manifest, directory: Path) -> None:
    """Raise IntegrityError for what no request could be answered with; `directory` has the artifact's `config.json`."""
    spec = manifest.model
    for key, value, known in (
        ("task", manifest.task, TASKS),
        ("pooling", spec.pooling, POOLINGS),
        ("similarity", spec.similarity, SIMILARITIES),
        ("activation", spec.activation, ("sigmoid", "identity")),
        ("default_prompt", spec.default_prompt, ("", *spec.prompt_names)),
    ):
        if value not in known:
            raise IntegrityError(f"{manifest.name}: {key} {value!r:.100} unknown ({', '.join(known):.200})")
    heads = TASKS[manifest.task]
    if heads[0] not in spec.heads or not set(spec.heads) <= set(heads):
        raise IntegrityError(f"{manifest.name}: heads {spec.heads!r:.100} do not go with the task {manifest.task}")
    for key, name in (("name", manifest.name), ("recipe", manifest.recipe)):
        if not name or not name.isprintable() or len(name) > MAX_NAME:
            raise IntegrityError(f"{name!r:.100}: the {key} must be up to {MAX_NAME} printable characters")
    _check_prompts(manifest.name, manifest.task, spec.prompts)
    _check_places(spec, directory)


def _check_prompts(name: str, task: str, prompts: dict[str, str]) -> None:
    for key in prompts:
        if key not in PROMPTS or (key in (PAIR, DEFAULT)) != (task == "rerank"):
            raise IntegrityError(f"{name}: prompt {key!r:.100} does not go with the task {task}")
    if SLOT not in prompts.get(TEMPLATE, SLOT):
        raise IntegrityError(f"{name}: prompt {TEMPLATE} has no {SLOT}")
    if PAIR in prompts and any(prompts[PAIR].count(slot) != 1 for slot in PAIR_SLOTS):
        raise IntegrityError(f"{name}: prompt {PAIR} must hold {', '.join(PAIR_SLOTS)} once each")


def _check_places(spec: ModelSpec, directory: Path) -> None:
    """The model has a position for every token that the manifest lets a text have."""
    try:
        config = architecture(spec.architecture).Config.read(read_object(directory / "config.json"))
    except (SourceError, UsageError) as error:
        raise IntegrityError(f"{directory}: {error}") from None
    places = config.max_tokens
    if places is not None and spec.max_tokens > places:
        raise IntegrityError(f"{directory}: {spec.max_tokens} tokens in the manifest, config.json has {places} positions")
