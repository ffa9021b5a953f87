"""What makes the codes of a plan, and knows what in the cache it needs for that."""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import astuple, dataclass, field, replace
from functools import partial
from typing import Any, Self

import numpy as np
import torch

from converter import cache, calibrate
from converter.attempts import Goal, Quantized, Whole, rounding
from converter.proof.measure import Progress
from converter.quantize.grid import Codes, Scheme
from converter.quantize.losses import by_head, masks_of
from converter.recipe import Recipe
from converter.source.checkpoint import Checkpoint
from shim.text import Tokens


@dataclass(frozen=True)
class Maker:
    """Makes the codes of a plan, with all that they depend on; those of a search for another goal it does not take.

    A context: what was kept in the cache is removed at its end, and stays for the next time where that came too early.
    effort: `fast` rounds to nearest, `balanced` is GPTQ, `max` is GPTQ beside the original, then distillation.
    """

    checkpoint: Checkpoint
    recipe: Recipe
    target: Any
    goal: Goal
    effort: str
    tokens: list[Tokens]
    progress: Progress
    kept: dict[str, cache.Claim] = field(default_factory=dict)  # by the parts of the cache

    def __enter__(self) -> Self:
        return self

    def __exit__(self, raised: type[BaseException] | None, *_: object) -> None:
        for claim in self.kept.values():
            if raised:
                claim.close()
            else:
                claim.remove()

    def quantize(self, plan: dict[str, Scheme], method: str, others: dict[str, list[Scheme]]) -> calibrate.Calibrated:
        """Codes by `gptq` or `twin`, and what `others` would cost; a run that was interrupted goes on where it was."""
        grid, schemes = self.target.GRID, [(name, str(scheme)) for name, scheme in plan.items()]
        kept = self.keep("gptq") if method == "gptq" else self.keep(schemes, method), self.keep("tables")
        shown = partial(self.progress, "quantize")
        return calibrate.quantize(self.checkpoint, self.recipe, plan, self.tokens, grid, method, shown, others, kept)

    def keep(self, *what: Any) -> str:
        """The part of the cache for what is made of this checkpoint on these tokens for this goal, as `what` says."""
        tools = [cache.code(), torch.__version__]
        key = [*tools, str(self.recipe.model), self.checkpoint.files, str(self.target.GRID), astuple(self.goal), *what]
        digest = hashlib.sha256(json.dumps(key).encode())
        for batch in self.tokens:
            digest.update(batch.input_ids.tobytes())
        kept = f"quantize/{digest.hexdigest()}"
        if kept not in self.kept:
            self.kept[kept] = cache.Claim(kept)
        return kept

    def rounded(self, plan: dict[str, Scheme]) -> calibrate.Calibrated:
        """Codes without calibration, and the costs of no other scheme."""
        parts = rounding(self.checkpoint, plan, self.target.GRID)
        codes = {name: Codes.join(list(parts(name))) for name in plan}
        return calibrate.Calibrated(codes, {name: {scheme: 1.0} for name, scheme in plan.items()})

    def make(self, plan: dict[str, Scheme], record: dict[str, Any]) -> Quantized:
        """An attempt with the best codes that the effort allows."""
        if self.effort == "fast":
            return Quantized(plan, rounding(self.checkpoint, plan, self.target.GRID), record)
        if self.effort == "balanced":
            made = self.quantize(plan, "gptq", {})
            return Quantized(plan, stored(made.codes), record, vectors=made.vectors)
        codes, grid = dict(self.quantize(plan, "twin", {}).codes), self.target.GRID
        found = calibrate.distil(self.checkpoint, self.recipe, codes, self.tokens, grid, partial(self.progress, "distil"))
        if not found:
            return Quantized(plan, stored(codes), record)
        record = {**record, "distilled": {"before": found.before, "after": found.after}}
        return Quantized(plan, stored(found.codes), record, changed=found.tensors)

    def seen(self, made: Quantized, exact: dict[str, list[Any]]) -> np.ndarray:
        """(heads, texts) 1 - cosine of the texts calibrated on; exact: what the original gives there."""
        changed = replace(self.checkpoint, changed=made.changed)
        return self.off(made.vectors or calibrate.run(changed, self.recipe, self.tokens, Whole(made).get), exact)

    def off(self, vectors: dict[str, list[Any]], exact: dict[str, list[Any]]) -> np.ndarray:
        """The same of vectors that are there."""
        return by_head(exact, vectors, masks_of(self.tokens))


def stored(codes: Mapping[str, Codes]) -> Callable[[str], Iterator[Codes]]:
    """Codes as an attempt gives them: of a module, in parts along its rows."""
    return lambda name: iter([codes[name]])
