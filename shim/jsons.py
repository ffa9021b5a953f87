"""JSON values: as files hold them, within bounds, and as a dataclass or TypedDict says that they must be."""

import json
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias, is_typeddict

from shim.errors import IntegrityError

Json: TypeAlias = "Mapping[str, Json] | Sequence[Json] | str | int | float | bool | None"
JsonObject: TypeAlias = dict[str, Json]
MAX_MANIFEST = 4 << 20  # bytes; nothing vouches for it before it is parsed, and the worst JSON then takes 25 times as much
MAX_OTHER = 16 << 20  # bytes of a config.json or tokenizer_config.json
MAX_NUMBER = 1e300
MAX_WHOLE = 2**53  # beyond it, JSON's readers disagree


def read_object(path: Path) -> JsonObject:
    """The JSON object in another program's file. Raises IntegrityError when there is none."""
    return _read(path, MAX_OTHER)


def read_manifest(path: Path, content: bytes | None = None) -> JsonObject:
    """The JSON object in a manifest, which has no key twice, and only text that can be encoded.

    content: what was read of the file already. Raises IntegrityError when there is none.
    """
    return _read(path, MAX_MANIFEST, _unique, content)


def _read(
    path: Path,
    limit: int,
    hook: Callable[[list[tuple[str, Any]]], JsonObject] | None = None,
    content: bytes | None = None,
) -> JsonObject:
    try:
        if content is None:
            with path.open("rb") as file:
                content = file.read(limit + 1)
        if len(content) > limit:
            raise ValueError(f"over {limit} bytes")
        value = json.loads(content.decode("utf-8"), object_pairs_hook=hook)
        if hook and b"\\ud" in content.lower():
            json.dumps(value, ensure_ascii=False).encode("utf-8")  # raises where half a surrogate pair stands for itself
    except (OSError, ValueError, RecursionError) as error:
        raise IntegrityError(f"{path}: cannot be read ({error})") from None
    if not isinstance(value, dict):
        raise IntegrityError(f"{path}: not a JSON object")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> JsonObject:
    value = dict(pairs)
    if len(value) < len(pairs):
        raise ValueError(f"an object of {len(pairs)} keys has one of them twice")
    return value


def table(raw: JsonObject, key: str) -> JsonObject:
    """The object at `key`, an empty one where there is nothing. Raises TypeError for another value."""
    value = raw.get(key) or {}
    if not isinstance(value, dict):
        raise TypeError(f"{key} is not an object")
    return value


def array(raw: JsonObject, key: str) -> list[Json]:
    """The list at `key`, an empty one where there is nothing. Raises TypeError for another value."""
    value = raw.get(key) or []
    if not isinstance(value, list):
        raise TypeError(f"{key} is not a list")
    return value


def strictly(cls: Any, raw: JsonObject, where: str, unknown: tuple[str, ...]) -> Any:
    """The dataclass or TypedDict of these keys; of a dataclass, only what is None by default may be missing.

    unknown: keys that no object of this file has. Raises IntegrityError, which begins with `where`.
    """
    hints = {name: hint for name, hint in typing.get_type_hints(cls).items() if name not in unknown}
    needed = cls.__required_keys__ if is_typeddict(cls) else {each.name for each in fields(cls) if each.default is not None}
    for problem, keys in (("unknown", raw.keys() - hints.keys()), ("missing", needed - set(unknown) - raw.keys())):
        if keys:
            raise IntegrityError(f"{where}: key {', '.join(sorted(keys))} {problem}")
    return cls(**{name: _value(hints[name], value, name, where, unknown) for name, value in raw.items()})


def _value(annotation: Any, raw: Any, name: str, where: str, unknown: tuple[str, ...]) -> Any:
    """The JSON value of a key, of the type that its attribute has; see strictly."""
    of = typing.get_args(annotation)
    hint = of[0] if type(None) in of else annotation  # X of `X | None`
    kind, of = typing.get_origin(hint) or hint, typing.get_args(hint)
    if kind is object:
        return raw
    if kind is Literal:
        if raw not in of:
            raise IntegrityError(f"{where}: {name} {raw!r} unknown ({', '.join(of)})")
        return raw
    nested = is_dataclass(kind) or is_typeddict(kind)
    types: Any = (int, float) if kind is float else (dict if nested else kind,)
    if not isinstance(raw, types) or (isinstance(raw, bool) and kind is not bool):
        raise IntegrityError(f"{where}: {name} must be {'a list' if kind is list else types[-1].__name__}, not {raw!r}")
    if kind is float and not abs(raw) < MAX_NUMBER:
        raise IntegrityError(f"{where}: {name} must be a finite number, not {raw!r:.50}")
    if isinstance(raw, int) and not abs(raw) < MAX_WHOLE:
        raise IntegrityError(f"{where}: {name} must be a number under 2^53, not {raw!r:.50}")
    if nested:
        return strictly(kind, raw, f"{where}: malformed {name}", unknown)
    if kind is list:
        return [_value(of[0], each, name, where, unknown) for each in raw]
    if kind is dict:
        return {key: _value(of[1], each, f"{key} of {name}", where, unknown) for key, each in raw.items()}
    return raw
