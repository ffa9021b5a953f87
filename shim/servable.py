"""Whether what a manifest says of a model can be served: what is wrong is found when it is loaded, not when it is asked for."""

from pathlib import Path

from shim.architectures import architecture
from shim.artifact import Manifest
from shim.errors import IntegrityError, SourceError, UsageError
from shim.jsons import read_object
from shim.pooling import HEADS, check_heads
from shim.prompts import fault
from shim.spec import ACTIVATIONS, MAXIMAL, SIMILARITIES, ModelSpec

MAX_NAME = 200  # characters of an artifact's name, which every answer and every figure holds


def check(manifest: Manifest, directory: Path) -> None:
    """Raise IntegrityError for what no request could be answered with; `directory` has the artifact's `config.json`."""
    spec = manifest.model
    for key, value, known in (
        ("task", manifest.task, HEADS),
        ("similarity", spec.similarity, (*SIMILARITIES, *MAXIMAL)),
        ("activation", spec.activation, ACTIVATIONS),
        ("default_prompt", spec.default_prompt, ("", *spec.prompt_names)),
    ):
        if value not in known:
            raise IntegrityError(f"{manifest.name}: {key} {value!r:.100} unknown ({', '.join(known):.200})")
    if unfit := check_heads(spec, manifest.task):
        raise IntegrityError(f"{manifest.name}: {unfit}")
    for key, name in (("name", manifest.name), ("recipe", manifest.recipe)):
        if not name or not name.isprintable() or len(name) > MAX_NAME:
            raise IntegrityError(f"{name!r:.100}: the {key} must be up to {MAX_NAME} printable characters")
    if wrong := fault(spec.prompts, manifest.task):
        raise IntegrityError(f"{manifest.name}: prompt {wrong[0]!r:.100} {wrong[1]}")
    _check_places(spec, directory)


def _check_places(spec: ModelSpec, directory: Path) -> None:
    """The model has a position for every token that the manifest lets a text have."""
    try:
        config = architecture(spec.architecture).Config.read(read_object(directory / "config.json"))
    except (SourceError, UsageError) as error:
        raise IntegrityError(f"{directory}: {error}") from None
    if list(getattr(config, "adapters", ())) != (spec.adapters or []):
        raise IntegrityError(f"{directory}: the manifest and config.json have other adapters ({spec.adapters!r:.100})")
    places = config.max_tokens
    if places is not None and spec.longest > places:
        raise IntegrityError(f"{directory}: {spec.longest} tokens in the manifest, config.json has {places} positions")
