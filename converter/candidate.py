"""A candidate: the codes of a plan, module by module, that an artifact would be made of."""

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from converter.quantize.grid import Codes, Grid, Scheme, round_to_nearest
from converter.source.checkpoint import Checkpoint
from shim.artifact import Record

if TYPE_CHECKING:  # both import torch
    from torch import Tensor

    from converter.int8.shared_inputs import Integers

Plan = dict[str, Scheme]  # of each module that is quantized, how it is stored


class PlanCodes(Mapping[str, Codes]):
    """{module: Codes} of a plan, made or read when asked for: all of them together are as large as an artifact."""

    plan: Plan

    @abstractmethod
    def parts(self, name: str) -> Iterator[Codes]:
        """The codes of a module, some of its rows at a time."""

    def __getitem__(self, name: str) -> Codes:
        if name not in self.plan:
            raise KeyError(name)
        return Codes.join(list(self.parts(name)))

    def __iter__(self) -> Iterator[str]:
        return iter(self.plan)

    def __len__(self) -> int:
        return len(self.plan)


class RoundedCodes(PlanCodes):
    """Rounded to nearest, straight from the checkpoint."""

    def __init__(self, checkpoint: Checkpoint, plan: Plan, grid: Grid):
        self.checkpoint, self.plan, self.grid = checkpoint, plan, grid

    def parts(self, name: str) -> Iterator[Codes]:
        return (round_to_nearest(part, self.plan[name], self.grid) for part in self.checkpoint.chunks(f"{name}.weight"))


class HeldCodes(PlanCodes):
    """Codes that are in memory."""

    def __init__(self, codes: dict[str, Codes]):
        self.codes, self.plan = codes, {name: codes.scheme for name, codes in codes.items()}

    def parts(self, name: str) -> Iterator[Codes]:
        return iter([self.codes[name]])


@dataclass(frozen=True)
class Candidate:
    """What an artifact would be made of.

    record: `quantization.json`, nothing for none. integers: what an ONNX graph whose products are in integers has besides.
    by_block: inputs of quantized layers are rounded to 8 bits where the target can, too, a scale for each group of weights.
    outputs: what the model gives with these codes on the calibration texts, where making them has shown that.
    """

    codes: PlanCodes
    record: Record = field(default_factory=Record)
    integers: "Integers | None" = None
    by_block: bool = False
    outputs: "dict[str, list[Tensor]]" = field(default_factory=dict)

    @property
    def plan(self) -> Plan:
        return self.codes.plan


@dataclass(frozen=True)
class Judged:
    """What measuring an artifact said: whether it passes, and the 1 - cosine that counts."""

    passed: bool
    loss: float


Judge = Callable[[Candidate], Judged | None]  # writes and measures a candidate; None where nothing is measured
