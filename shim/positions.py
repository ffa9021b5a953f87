"""Where tokens are, as `config.json` has it: windows of attention, rotary bases, and what stretches these for longer texts."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from shim.errors import SourceError
from shim.jsons import Json, JsonObject, array, table

MAX_LAYERS = 1000  # beyond any real model: a wrong number must not fill the memory with names
FULL, SLIDING = "full_attention", "sliding_attention"
WINDOW = 4096  # tokens, where a config.json with windows does not say how many
# Kind -> the numbers that it needs. Those that depend on a text's length, `dynamic` and `longrope`, are not computed.
NEEDED = {
    "default": (),
    "linear": ("factor",),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"),
    "yarn": ("factor", "original_max_position_embeddings"),
}
# The same of those that may be absent, and what they are then.
OTHERS = {"yarn": {"beta_fast": 32.0, "beta_slow": 1.0, "attention_factor": 0.0}}
# Only for these; absent ones are these.
ONLY = {"partial_rotary_factor": 1.0, "mscale": None, "mscale_all_dim": None, "truncate": True}


def layers(raw: JsonObject) -> int:
    """How many there are; 0 for what `bert.read_config` will refuse."""
    count = raw.get("num_hidden_layers")
    return count if isinstance(count, int) and 0 < count <= MAX_LAYERS else 0


def layer_types(raw: JsonObject, slides: Callable[[int], bool]) -> tuple[str, ...]:
    """FULL or SLIDING for each layer, as listed, else by its number. Raises SourceError for others."""
    count = layers(raw)
    types = tuple(SLIDING if slides(index) else FULL for index in range(count))
    if raw.get("layer_types") is not None:
        types = tuple(map(str, array(raw, "layer_types")))
    if len(types) != count or not set(types) <= {FULL, SLIDING}:
        raise SourceError(f"config.json: layer_types must be {count} times {FULL} or {SLIDING}")
    return types


def windows(raw: JsonObject, types: Sequence[str], reach: Callable[[int], int]) -> tuple[int | None, ...]:
    """For each layer the `reach` of its window, None for all tokens. Raises SourceError for windows that are not there."""
    width = raw.get("sliding_window", WINDOW)
    if SLIDING not in types:
        return (None,) * len(types)
    if isinstance(width, bool) or not isinstance(width, int) or not 0 < width < 2**31:
        raise SourceError(f"config.json: sliding_window must be a positive number, as layers slide, not {width!r}")
    return tuple(reach(width) if kind == SLIDING else None for kind in types)


def reaching(raw: JsonObject) -> Callable[[int], int]:
    """The reach of a window of so many tokens, as transformers has it: the query is one of them where that is causal."""
    return lambda width: width - 1 if raw.get("is_causal", True) else width


@dataclass(frozen=True)
class Rope:
    """How the queries and keys of a layer are turned. numbers: of NEEDED and OTHERS, by name."""

    base: float
    kind: str = "default"
    numbers: tuple[tuple[str, float], ...] = ()

    def factors(self, size: int) -> tuple[float, ...]:
        """What divides the angle of each of the size / 2 pairs of a head; () where nothing does.

        Sources: Chen et al. 2023, Position Interpolation (linear); Peng et al. 2023, YaRN; Grattafiori et al. 2024, Llama 3.
        """
        if self.kind == "default":
            return ()
        numbers = dict(self.numbers)
        shares = [1.0] * (size // 2)  # how much of each pair is divided by the factor
        if self.kind == "yarn":
            shares = self._ramp(numbers, size)
        elif self.kind == "llama3":
            low, high, trained = (numbers[name] for name in NEEDED["llama3"][1:])
            turns = [trained * self.base ** (-2 * pair / size) / (2 * math.pi) for pair in range(size // 2)]
            shares = [min(max((high - turn) / (high - low), 0.0), 1.0) for turn in turns]
        return tuple(1 / (share / numbers["factor"] + 1 - share) for share in shares)

    def _ramp(self, numbers: dict[str, float], size: int) -> list[float]:
        """From 0 at the pair that turns `beta_fast` times within the texts of training to 1 at that of `beta_slow`."""

        def pair(turns: float) -> float:
            trained = numbers["original_max_position_embeddings"]
            return size * math.log(trained / (turns * 2 * math.pi)) / (2 * math.log(self.base))

        first = max(math.floor(pair(numbers["beta_fast"])), 0)
        last = min(math.ceil(pair(numbers["beta_slow"])), size - 1)
        width = last - first or 0.001
        return [min(max((index - first) / width, 0.0), 1.0) for index in range(size // 2)]

    @property
    def attention_factor(self) -> float:
        """What queries and keys are multiplied by, at every length of text."""
        if self.kind != "yarn":
            return 1.0
        numbers = dict(self.numbers)
        return numbers["attention_factor"] or 0.1 * math.log(max(numbers["factor"], 1.0)) + 1


def read(stated: JsonObject, base: Json, trained: Json) -> Rope:
    """From an object of `rope_parameters` or `rope_scaling`. base, trained: what other keys say where it says no
    `rope_theta`, and no `original_max_position_embeddings`.

    Raises SourceError for a kind that is not computed, and for what is not a positive number.
    """
    kind = stated.get("rope_type", stated.get("type", "default"))
    if not isinstance(kind, str) or kind not in NEEDED:
        raise SourceError(f"config.json: rope_type {kind!r} is not supported (only {', '.join(NEEDED)})")
    _check_only(stated)
    given = {"rope_theta": base, "original_max_position_embeddings": trained} | stated
    numbers = {name: _number(name, given.get(name)) for name in NEEDED[kind]}
    for name, absent in OTHERS.get(kind, {}).items():
        numbers[name] = absent if given.get(name) is None else _number(name, given[name])
    rope = Rope(_number("rope_theta", given["rope_theta"]), kind, tuple(numbers.items()))
    if numbers.get("high_freq_factor", 1) <= numbers.get("low_freq_factor", 0):
        raise SourceError("config.json: high_freq_factor must be over low_freq_factor")
    if kind == "yarn" and (rope.base <= 1 or numbers["beta_fast"] <= numbers["beta_slow"]):
        raise SourceError("config.json: rope_theta must be over 1, and beta_fast over beta_slow")
    return rope


def _check_only(stated: JsonObject) -> None:
    for key, known in ONLY.items():
        if stated.get(key, known) not in (known, None):
            raise SourceError(f"config.json: {key} {stated[key]!r} is not supported (only {known!r})")


def _number(name: str, value: Json) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e12:
        raise SourceError(f"config.json: {name} must be a positive number, not {value!r}")
    return float(value)


def rope(raw: JsonObject) -> Rope:
    """How all layers turn queries and keys. Raises SourceError for what is not computed, and for layers that differ."""
    stated = table(raw, "rope_scaling") or table(raw, "rope_parameters")  # the first is transformers 4's
    if any(isinstance(value, dict) for value in stated.values()):
        raise SourceError("config.json: rope_parameters for each kind of layers are not supported here")
    trained = raw.get("max_position_embeddings")
    if "original_max_position_embeddings" in raw:
        stated = stated | {"original_max_position_embeddings": raw["original_max_position_embeddings"]}
    return read(stated, raw.get("rope_theta", 10_000.0), trained)


def ropes(raw: JsonObject, types: Sequence[str], bases: dict[str, Json]) -> tuple[Rope, ...]:
    """The same where each kind of layers has its own. bases: where `rope_parameters` says none, by kind."""
    stated, trained = table(raw, "rope_parameters"), raw.get("max_position_embeddings")
    _check_only(stated)  # transformers takes yarn's `truncate` from here
    scaled = {FULL: table(raw, "rope_scaling"), SLIDING: JsonObject()}  # transformers 4's is of full attention alone
    kinds = {kind: read(table(stated, kind) | scaled[kind], bases[kind], trained) for kind in set(types)}
    return tuple(kinds[kind] for kind in types)
