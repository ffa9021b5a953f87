"""What the argument MODEL names: a recipe, or an original whose own files make one."""

from pathlib import Path

from converter import recipe
from converter.recipe import Recipe
from converter.source import draft
from converter.source.open import find
from shim.errors import UsageError


def resolve(
    model: str, source: str | None, pooling: str | None, normalize: bool | None, license: str | None = None
) -> tuple[Recipe, str | None, list[str]]:
    """The recipe, where the original is (None for where the recipe says), and the facts of its files where those made it.

    Raises UsageError for a name that is nothing, and for options that do not go with it; SourceError as `open_source` does.
    """
    found = recipe.find(model)
    if found is not None:
        if pooling is not None or normalize is not None:
            raise UsageError(f"{model} has a recipe, which says pooling and modules; leave --pooling and --normalize out")
        if license is not None:
            raise UsageError(f"{model} has a recipe, which says its license; leave --license out")
        return found[0], source or found[1], []
    if source is not None:
        raise UsageError(f"{model} is an original itself; leave --source out")
    place = find(model)
    return draft.draft(place, pooling, normalize, license), model, draft.lines(place)


def recipe_of(model: str, pooling: str | None, normalize: bool | None) -> str:
    """The recipe that the files of an original make, as TOML."""
    if "/" not in model and not Path(model).is_dir() and not model.startswith("pkg:"):
        known = f"{model} is a recipe already" if model in recipe.names() else f"{model!r} is no directory and no ORG/REPO"
        raise UsageError(f"{known}; give the directory or the repository of a checkpoint")
    place = find(model, weights=False)
    return draft.to_toml(draft.draft(place, pooling, normalize, printed=True), place)
