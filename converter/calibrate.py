"""Calibration: the texts that show a quantizer what goes into each layer, and the codes that it makes of that."""

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from converter import cache, corpus
from converter.corpus import Text
from converter.corpus.coverage import coverage
from converter.quantize import sensitivity
from converter.quantize.distil import Distilled, Pace
from converter.quantize.distil import distil as tune
from converter.quantize.gptq import gptq, relative, searched
from converter.quantize.grid import Codes, Grid, Scheme
from converter.quantize.lockstep import Hessian, LockstepOps
from converter.quantize.losses import VECTORS
from converter.quantize.sites import RoundedOps
from converter.quantize.tables import WHOLE, Slopes, quantized, slopes
from converter.quantize.twin import TwinOps
from converter.recipe import Recipe
from converter.shelf import Shelf, lies
from converter.source.checkpoint import Checkpoint
from shim.architectures import architecture
from shim.batches import batches
from shim.errors import UsageError
from shim.pooling import outputs
from shim.prompts import prompt_of
from shim.text import Encoded, TextEncoder, Tokens

MAX_TOKENS = 512  # of a text; more costs time and memory, and shows little more
BATCH_TOKENS = 2048
Codings = Callable[[str], Codes | None]  # of a module, None where it is not quantized
HELD = 10  # every so many batches judge a distillation, and teach it nothing
# GPTQ's codes are near their best: on texts that judge, faster rates, moving codes, and a part for each layer's own error lost.
GENTLY = Pace(200, codes=0.0, scales=1e-4, others=1e-5, layers=0.0)
FEW = 2000  # tokens under which a layer has seen too little to be quantized on
WORK = {"balanced": 1.2e13, "max": 6e13}  # floating-point operations of one pass over the model: a few minutes of two cores
LEAST = 4000  # tokens that a large model gets, too
SLOPED = 10_000  # about so many tokens show what an error in a table does


def check_texts(texts: list[Text], judges: list[Text]) -> None:
    """Raise UsageError for a text that is also one of `judges`: who knows the exam proves nothing. Warn of one language."""
    known = {text.text.strip() for text in judges}
    shared = [text.id for text in texts if text.text.strip() in known]
    if shared:
        shown = ", ".join(shared[:3]) + (", …" if len(shared) > 3 else "")
        raise UsageError(f"{len(shared)} calibration texts are verification texts, too ({shown}); they must not overlap")
    languages = {text.lang for text in texts}
    if len(languages) == 1 and languages != {"und"}:
        warnings.warn(f"calibration texts are all in {languages.pop()}; other languages may come out worse", stacklevel=2)


def covering(checkpoint: Checkpoint, texts: list[Text], judges: list[Text], count: int) -> list[Text]:
    """The texts, and `count` made from them with words of the tokenizer's vocabulary, none of them one of `judges`."""
    known = {text.text.strip() for text in judges}
    tokenizer = TextEncoder(checkpoint.directory, MAX_TOKENS).tokenizer
    tokenizer.no_truncation()
    return [*texts, *(text for text in coverage(texts, tokenizer, count) if text.text.strip() not in known)]


def prepare(checkpoint: Checkpoint, recipe: Recipe, texts: list[Text], most: int | None = None) -> list[Tokens]:
    """The texts as batches of tokens, each behind its task's prompt; for a reranker, queries with documents.

    most: tokens, where there are more of them; some of the texts, drawn with a fixed seed, are used then.
    Raises UsageError when they hold nothing but special tokens, and warns when they are few.
    """
    model = recipe.model
    encoder = TextEncoder(checkpoint.directory, min(model.max_tokens, MAX_TOKENS), model.lower_case)
    found: list[Encoded] = []
    if recipe.task == "rerank":
        rankings, left = corpus.rankings(texts), 0
        for ranking in rankings:
            try:
                found += encoder.pairs(ranking.query.text, [document.text for document in ranking.documents], model.prompts)
            except UsageError:  # the query leaves no room for a document
                left += 1
        if left:
            warnings.warn(f"{left} of {len(rankings)} queries to calibrate on are too long and left out", stacklevel=2)
    else:
        for text in texts:
            found += encoder.encode([text.text], prompt_of(model, text.task))
    count = sum(len(item.ids) for item in found)
    if count <= len(found) * encoder.tokenizer.num_special_tokens_to_add(False):
        raise UsageError("the calibration texts hold no tokens")
    if count < FEW:
        warnings.warn(
            f"only {count} calibration tokens; layers are quantized on little ({FEW} and more are better)", stacklevel=2
        )
    if most and count > most:
        drawn = np.random.default_rng(0).permutation(len(found))
        until = int(np.searchsorted(np.cumsum([len(found[row].ids) for row in drawn]), most))
        found = [found[row] for row in sorted(drawn[: max(until, 1)])]
    return [encoder.batch([found[row] for row in rows]) for rows in batches(found, BATCH_TOKENS)]


def affordable(shapes: Mapping[str, tuple[int, ...]], effort: str) -> int:
    """Tokens that a pass over linear layers of these shapes may take: products with their (out, in) weights, and Hessians."""
    layers = [shape for name, shape in shapes.items() if len(shape) == 2 and "embed" not in name]
    each = sum(2 * columns * (rows + columns) for rows, columns in layers)
    return max(LEAST, int(WORK[effort] / max(each, 1)))


@dataclass(frozen=True)
class Calibrated:
    """codes: of each module of a plan. relative: what other schemes would cost of that, {module: {Scheme: ratio}}.

    vectors: what the model gives with these codes on the tokens, as `run` has it.
    """

    codes: Mapping[str, Codes]
    relative: dict[str, dict[Scheme, float]]
    vectors: dict[str, list[Tensor]] = field(default_factory=dict)


def quantize(
    checkpoint: Checkpoint,
    recipe: Recipe,
    plan: dict[str, Scheme],
    tokens: list[Tokens],
    grid: Grid,
    method: str,
    progress: Callable[[int, int], None],
    others: Mapping[str, list[Scheme]] = MappingProxyType({}),
    kept: tuple[str, str] | None = None,
) -> Calibrated:
    """Codes of everything in the plan: layers by GPTQ, one after the other; tables, too, or by a clip search in a large model.

    method: with `gptq` every layer is quantized on what the layers before it, already quantized, make of the calibration texts;
    with `twin` to give what the original gives there, which takes twice the time and memory.
    `progress` gets how many are done, and of how many. others: schemes of each module that are to be compared with the plan's.
    kept: parts of the cache, for codes of layers and for those of tables. What lies there is taken: a run that was interrupted
    goes on where it was, and another plan makes only what differs. With nothing to make or compare, there are no vectors.
    """
    found, compared = Shelf(), {}
    if kept and not others and all(any(lies(part, *item) for part in kept) for item in plan.items()):
        for name, scheme in plan.items():
            found.take(name, scheme, next(part for part in kept if lies(part, name, scheme)))
        return Calibrated(found, {})
    tables = _slopes(checkpoint, recipe, tokens, kept[1] if kept else None)

    def replace(name: str, weight: Tensor, hessian: Hessian | None) -> Tensor:
        if name not in plan:
            return weight
        scheme, schemes = plan[name], list(others.get(name, []))
        part = kept[hessian is None] if kept else None

        def make() -> Codes:
            if hessian:
                return gptq(weight, hessian(), scheme, grid)
            return quantized(weight, tables[name], scheme, grid) if name in tables else searched(weight, scheme, grid)

        def compare() -> dict[str, np.ndarray]:
            if not schemes:
                return {"ratios": np.empty(0)}
            square = hessian() if hessian else tables[name].shared if name in tables else None
            return {"ratios": np.array(list(relative(weight, square, schemes, scheme, grid).values()))}

        codes = found.add(name, scheme, make, part)
        key = ["ratios", name, str(scheme), [str(other) for other in schemes]]
        ratios = (cache.arrays(part, key, compare) if part and schemes else compare())["ratios"]
        compared[name] = dict(zip(schemes, ratios.tolist(), strict=True))
        progress(len(found), len(plan))
        weight = torch.empty(0)  # lets go of a word table, a gigabyte, before there is another
        return torch.from_numpy(codes.dequantize())

    with torch.inference_mode():
        run = _run(checkpoint, recipe)
        read = checkpoint.read
        given = run(TwinOps(read, tokens, replace, run) if method == "twin" else LockstepOps(read, tokens, replace))
        for name in plan.keys() - found.keys():  # carried along for other loaders; ours computes nothing with it
            replace(name, torch.from_numpy(checkpoint.read(f"{name}.weight")), None)
    return Calibrated(found, compared, {name: parts[: len(tokens)] for name, parts in given.items() if name in VECTORS})


def _slopes(checkpoint: Checkpoint, recipe: Recipe, tokens: list[Tokens], kept: str | None) -> dict[str, Slopes]:
    """Of each table what quantize/tables.py finds; nothing for a model that is too large to be held whole."""
    if sum(int(np.prod(tensor.shape)) for tensor in checkpoint.tensors.values()) > WHOLE:
        return {}

    def make() -> dict[str, np.ndarray]:
        weights = {name: torch.from_numpy(checkpoint.read(name)) for name in checkpoint.tensors}
        found = slopes(weights, _run(checkpoint, recipe), sensitivity.some(tokens, SLOPED)[0])
        return {f"{name}:{key}": part.numpy() for name, each in found.items() for key, part in vars(each).items()}

    stored = cache.arrays(kept, "slopes", make) if kept else make()
    names = {name.split(":")[0] for name in stored}
    return {name: Slopes(*(torch.from_numpy(stored[f"{name}:{part.name}"]) for part in fields(Slopes))) for name in names}


def distil(
    checkpoint: Checkpoint,
    recipe: Recipe,
    codes: dict[str, Codes],
    tokens: list[Tokens],
    grid: Grid,
    progress: Callable[[int, int], None],
) -> Distilled | None:
    """What quantize/distil.py makes of `codes`; every HELD-th batch only judges. The model is held whole.

    Warns, and gives nothing, where there are too few texts to keep some apart.
    """
    learned = [batch for place, batch in enumerate(tokens) if place % HELD]
    if not learned:
        warnings.warn(f"no distillation: calibration texts of {BATCH_TOKENS} tokens and more are needed for it", stacklevel=2)
        return None
    weights = {name: torch.from_numpy(checkpoint.read(name)) for name in checkpoint.tensors}
    return tune(weights, codes, _run(checkpoint, recipe), learned, tokens[::HELD], grid, GENTLY, progress)


def run(checkpoint: Checkpoint, recipe: Recipe, tokens: list[Tokens], codes: Codings | None = None) -> dict[str, list[Tensor]]:
    """The vectors that the model gives on the tokens, of each batch, with the codes that there are in place of its weights."""

    def replace(name: str, weight: Tensor, _: Hessian | None) -> Tensor:
        if (found := codes(name) if codes else None) is None:
            return weight
        del weight  # as above
        return torch.from_numpy(found.dequantize())

    with torch.inference_mode():
        found = _run(checkpoint, recipe)(RoundedOps(checkpoint.read, tokens, {}, {}, replace))
    return {name: parts for name, parts in found.items() if name in VECTORS}


def costs(
    checkpoint: Checkpoint,
    recipe: Recipe,
    codes: Mapping[str, Codes],
    tokens: list[Tokens],
    progress: Callable[[int, int], None],
) -> dict[str, np.ndarray]:
    """{module: (rows,) 1 - cosine} of each module alone, see quantize/sensitivity.py."""
    return sensitivity.costs(_run(checkpoint, recipe), checkpoint.read, codes, tokens, progress)


def _run(checkpoint: Checkpoint, recipe: Recipe) -> Callable[[Any], dict[str, Any]]:
    """The model's outputs, by the operations that it is given."""
    module = architecture(recipe.architecture)
    config = module.Config.read(checkpoint.config)
    model = recipe.model
    return lambda ops: outputs(ops, module, config, model.pooling, model.heads, model.modules)
