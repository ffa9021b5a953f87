"""Calibration: what the calibration texts say of a plan - its codes, what each module costs, how far off the outputs are."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from types import MappingProxyType
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from converter import cache
from converter.candidate import Candidate, Plan, PlanCodes, RoundedCodes
from converter.job import Job
from converter.proof.measure import Progress
from converter.quantize import sensitivity
from converter.quantize.allocate import Choice
from converter.quantize.asymmetric import AsymmetricOps
from converter.quantize.embeddings import WHOLE, GaussNewton, gauss_newton, quantized
from converter.quantize.gptq import gptq, relative, searched
from converter.quantize.grid import Codes, Scheme
from converter.quantize.layerwise import Hessian, LayerwiseOps
from converter.quantize.losses import VECTORS, by_head, masks_of
from converter.store import CodeStore, has
from shim.architectures import architecture
from shim.artifact import Record
from shim.pooling import outputs
from shim.text import Tokens

TABLE_TOKENS = 10_000  # about so many tokens show what an error in a table does
FARTHEST = 4  # the farthest texts get a fourth of the tokens on which each module's cost is measured
Options = dict[str, list[Choice]]  # of each module, the ways to store it
Outputs = dict[str, list[Tensor]]  # of each head, what the model gives for each batch


@dataclass
class Calibration:
    """What a job's calibration texts say. tokens: those texts, in batches.

    A context: its part of the cache is removed at the end, and kept where the work was interrupted, for the next time.
    Cached codes are keyed by everything that they depend on.
    """

    job: Job
    tokens: list[Tokens]
    progress: Progress

    def __post_init__(self) -> None:
        self.claims: dict[str, cache.Claim] = {}  # by folder of the cache

    def __enter__(self) -> Self:
        return self

    def __exit__(self, raised: type[BaseException] | None, *_: object) -> None:
        for claim in self.claims.values():
            if raised:
                claim.close()
            else:
                claim.remove()

    def candidate(self, plan: Plan, record: Record) -> Candidate:
        """The plan with its best codes: rounded to nearest with `fast` effort, else by GPTQ, with `max` beside the original."""
        if self.job.effort == "fast":
            return Candidate(RoundedCodes(self.job.checkpoint, plan, self.job.target.GRID), record)
        made = self.quantize(plan, asymmetric=self.job.effort == "max")
        return Candidate(made.codes, record, outputs=made.outputs)

    def options(self, plan: Plan, ways: Mapping[str, Sequence[Scheme | None]]) -> tuple[Options, Outputs]:
        """Each module of the plan in each of its ways, with what that costs every text; and what the plan gives on the texts.

        ways: of each module its schemes, None for full precision. A scheme costs what the plan's own costs, times the ratio of
        what GPTQ lessens for the two.
        """
        others = {name: [scheme for scheme in given if scheme not in (None, plan[name])] for name, given in ways.items()}
        if self.job.effort == "fast":
            made = Quantized(RoundedCodes(self.job.checkpoint, plan, self.job.target.GRID), {}, {})
        else:
            made = self.quantize(plan, {name: given for name, given in others.items() if given})
        costs = self.costs(made.codes, self.tokens)
        shapes = self.job.checkpoint.matrices

        def choice(name: str, scheme: Scheme | None) -> Choice:
            ratio = 0.0 if scheme is None else made.ratios.get(name, {}).get(scheme, 1.0)
            return Choice(scheme, self.job.target.stored(shapes[f"{name}.weight"], scheme), costs[name] * ratio)

        return {name: [choice(name, scheme) for scheme in given] for name, given in ways.items()}, made.outputs

    def with_farthest(self, options: Options, candidate: Candidate, losses: np.ndarray) -> Options:
        """The options with rows for the texts that came out farthest off, of which the rows before predicted too little.

        losses: (texts,) what the rows of each text come to for the candidate's plan.
        """
        most = sensitivity.affordable(len(candidate.plan), self._layers(candidate.plan)) // FARTHEST
        texts, losses = sensitivity.farthest(self.tokens, losses, most)
        costs = self.costs(candidate.codes, texts)
        summed = np.sum(list(costs.values()), axis=0).reshape(-1, len(losses)).max(axis=0)  # of the worst head
        found = {}
        for name, given in options.items():
            rows = (costs[name].reshape(-1, len(losses)) * (losses / np.maximum(summed, 1e-12))).ravel()
            own = max(next(each.costs.sum() for each in given if each.scheme == candidate.plan[name]), 1e-30)
            found[name] = [replace(each, costs=np.append(each.costs, rows * (each.costs.sum() / own))) for each in given]
        return found

    def losses(self, candidate: Candidate, exact: Outputs) -> np.ndarray:
        """(heads, texts) 1 - cosine of the calibration texts; exact: what the original gives."""
        return self.distance(candidate.outputs or self.outputs(candidate.codes), exact)

    def distance(self, given: Outputs, exact: Outputs) -> np.ndarray:
        """(heads, texts) 1 - cosine between two models' outputs on the calibration texts."""
        return by_head(exact, given, masks_of(self.tokens))

    def outputs(self, codes: PlanCodes | None = None) -> Outputs:
        """What the model gives on the calibration texts; codes: in place of its weights, where there are."""

        def replaced(name: str, weight: Tensor, _: Hessian | None) -> Tensor:
            if codes is None or name not in codes:
                return weight
            del weight  # a word table is a gigabyte
            return torch.from_numpy(codes[name].dequantize())

        with torch.inference_mode():
            found = self.run(LayerwiseOps(self.job.checkpoint.read, self.tokens, replaced))
        return {name: parts for name, parts in found.items() if name in VECTORS}

    def costs(self, codes: PlanCodes, tokens: list[Tokens]) -> dict[str, np.ndarray]:
        """{module: (rows,) 1 - cosine} of each module's codes alone, see quantize/sensitivity.py."""
        shown = partial(self.progress, "sensitivity")
        return sensitivity.costs(self.run, self.job.checkpoint.read, codes, tokens, self._layers(codes.plan), shown)

    def run(self, ops: Any) -> dict[str, Any]:
        """The model's outputs, by the operations that it is given."""
        module, model = architecture(self.job.recipe.architecture), self.job.recipe.model
        config = module.Config.read(self.job.checkpoint.config)
        return outputs(ops, module, config, model.pooling, model.heads, model.modules, model.splade)

    def quantize(
        self, plan: Plan, others: Mapping[str, list[Scheme]] = MappingProxyType({}), asymmetric: bool = False
    ) -> "Quantized":
        """Codes of the plan: layers by GPTQ, each on what the quantized layers before it give; tables by what their errors do.

        asymmetric: layers are asked to give what the original gives (see quantize/asymmetric.py), in twice the time and memory.
        others: schemes that are compared with the plan's own. Codes that the cache has are taken from there: an interrupted
        run goes on where it was, and another plan makes only what differs.
        """
        checkpoint, grid = self.job.checkpoint, self.job.target.GRID
        layers = self.folder("asymmetric", list(map(str, plan.items()))) if asymmetric else self.folder("gptq")
        folders = layers, self.folder("tables")
        store, ratios = CodeStore(plan), {}
        if not others and all(any(has(folder, *item) for folder in folders) for item in plan.items()):
            for name, scheme in plan.items():
                store.open(name, next(folder for folder in folders if has(folder, name, scheme)))
            return Quantized(store, {}, {})
        tables = self._tables()

        def replaced(name: str, weight: Tensor, hessian: Hessian | None) -> Tensor:
            if name not in plan:
                return weight
            scheme, schemes, folder = plan[name], others.get(name, []), folders[hessian is None]

            def make() -> Codes:
                if hessian:
                    return gptq(weight, hessian(), scheme, grid)
                return quantized(weight, tables[name], scheme, grid) if name in tables else searched(weight, scheme, grid)

            def compare() -> dict[str, np.ndarray]:
                square = hessian() if hessian else tables[name].shared if name in tables else None
                return {"ratios": np.array(list(relative(weight, square, schemes, scheme, grid).values()))}

            codes = store.add(name, make, folder)
            if schemes:
                key = ["ratios", name, str(scheme), [str(other) for other in schemes]]
                ratios[name] = dict(zip(schemes, cache.arrays(folder, key, compare)["ratios"].tolist(), strict=True))
            self.progress("quantize", len(store.places), len(plan))
            weight = torch.empty(0)  # lets go of a word table before there is another
            return torch.from_numpy(codes.dequantize())

        with torch.inference_mode():
            settings = checkpoint.read, self.tokens, replaced
            given = self.run(AsymmetricOps(*settings, self.run) if asymmetric else LayerwiseOps(*settings))
            for name in plan.keys() - store.places.keys():  # carried along for other loaders; ours computes nothing with it
                replaced(name, torch.from_numpy(checkpoint.read(f"{name}.weight")), None)
        return Quantized(store, ratios, {name: parts[: len(self.tokens)] for name, parts in given.items() if name in VECTORS})

    def folder(self, *what: object) -> str:
        """The part of the cache for what is made of this checkpoint on these texts for this job, as `what` says."""
        job = self.job
        versions = [cache.code(), torch.__version__]
        key = [*versions, str(job.recipe.model), job.checkpoint.files, str(job.target.GRID), job.goal, *what]
        digest = hashlib.sha256(json.dumps(key).encode())
        for batch in self.tokens:
            digest.update(batch.input_ids.tobytes())
        found = f"quantize/{digest.hexdigest()}"
        if found not in self.claims:
            self.claims[found] = cache.Claim(found)
        return found

    def _tables(self) -> dict[str, GaussNewton]:
        """Of each table what quantize/embeddings.py finds; nothing for a model that is too large to be held whole."""
        checkpoint = self.job.checkpoint
        if sum(int(np.prod(tensor.shape)) for tensor in checkpoint.tensors.values()) > WHOLE:
            return {}

        def make() -> dict[str, np.ndarray]:
            weights = {name: torch.from_numpy(checkpoint.read(name)) for name in checkpoint.tensors}
            found = gauss_newton(weights, self.run, sensitivity.some(self.tokens, TABLE_TOKENS)[0])
            return {f"{name}:{key}": part.numpy() for name, each in found.items() for key, part in vars(each).items()}

        stored = cache.arrays(self.folder("tables"), "slopes", make)
        parts = [part.name for part in fields(GaussNewton)]
        names = {name.split(":")[0] for name in stored}
        return {name: GaussNewton(*(torch.from_numpy(stored[f"{name}:{part}"]) for part in parts)) for name in names}

    def _layers(self, plan: Plan) -> list[tuple[int, int]]:
        """The (out, in) shapes of the plan's linear layers."""
        checkpoint = self.job.checkpoint
        weights = (f"{name}.weight" for name in plan)
        return [checkpoint.matrices[name] for name in weights if name not in checkpoint.tables]


@dataclass(frozen=True)
class Quantized:
    """Codes of a plan; what other schemes cost of that, {module: {Scheme: ratio}}; what the model gives with the codes."""

    codes: PlanCodes
    ratios: dict[str, dict[Scheme, float]]
    outputs: Outputs
