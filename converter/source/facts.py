"""A fact that a checkpoint states of itself, and the file that states it."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Fact:
    """value: what is stated. file: where, relative to the checkpoint's directory."""

    value: Any
    file: str


Facts = dict[str, Fact]
