"""What the next attempt may be foretold, by what was foretold of those before it and what was then measured."""

from collections.abc import Iterator

import numpy as np

ATTEMPTS = {"fast": 4, "balanced": 3, "max": 6}  # aims, at most; more, as LAST has it, where none of them passed
SPARE = 0.92  # part of the allowed 1 - cosine that an attempt aims at
# Of an aim that fell short is the next one's, at most: the first time, the second, and later. What is left whole costs more.
FURTHER = {False: (0.9, 0.65, 0.5), True: (0.95, 0.85, 0.7)}  # by whether tensors may be left whole
BEYOND = 1.4  # times what is foretold of a plan that is no smaller than the best is aimed at after it, at most
LAST = (1.2, 2.0, 6.0)  # by so much lower the attempts aim where none passed: what was foretold did not come true
HOPELESS = 2.0  # times what is aimed at is foretold of the widest codes, over which they are not tried
GROWTH = 0.6  # power of the room that a passing attempt left, by which the next aims higher: errors grow faster than foretold
NEAR = 0.85  # part of what is allowed that must be used up before a passing artifact counts as the smallest


class Aims:
    """Iterated over, it gives the 1 - cosine that the next plan may be foretold, until the attempts are used up.

    allowed: the 1 - cosine that may be measured of an attempt. farther: times what is foretold is measured, as a guess.
    whole: whether tensors may be left whole. hopeless: what may be foretold of the widest codes that are still tried.
    """

    def __init__(self, effort: str, allowed: float, farther: float, whole: bool):
        self.allowed, self.whole = allowed, whole
        self.aim = SPARE * allowed / farther
        self.hopeless = np.inf
        self.lower = self.schedule = [*[1.0] * ATTEMPTS[effort], *LAST]
        self.passed, self.failed = [0.0], [np.inf]  # what was foretold of attempts
        self.found = False  # whether any passed

    def __iter__(self) -> Iterator[float]:
        while self.lower and not (self.lower[0] > 1 and self.found):
            self.hopeless = HOPELESS * self.aim
            self.aim, self.lower = self.aim / self.lower[0], self.lower[1:]
            yield self.aim

    def measured(self, foretold: float, error: float, passes: bool) -> None:
        """Of an attempt; from then on between those that passed and those that did not, where there are both."""
        self.found |= passes
        self.aim = foretold * (SPARE * self.allowed / max(error, 1e-12)) ** (GROWTH if passes else 1.0)
        if passes:
            self.passed.append(foretold)
        else:
            self.aim = min(self.aim, FURTHER[self.whole][min(len(self.failed), 3) - 1] * foretold)
            self.failed.append(foretold)
        if self.found and not max(self.passed) < self.aim < min(self.failed):
            self.aim = self._between()

    def needless(self, foretold: float) -> None:
        """A plan is no smaller than one that passed: what was raised for less made other things needless."""
        self.passed.append(foretold)
        self.aim = min(self._between(), BEYOND * foretold)

    def learnt(self) -> None:
        """What texts cost for which too little was foretold is known now."""
        self.aim *= FURTHER[False][0]

    def leave_whole(self, times: float) -> None:
        """From now on tensors may be left whole, and what is foretold is `times` what it was."""
        self.aim *= times
        self.whole, self.failed, self.lower = True, [np.inf], self.schedule[2:]

    def done(self, error: float) -> bool:
        """Whether what passed at this 1 - cosine is as small as can be found."""
        return error >= NEAR * self.allowed

    def _between(self) -> float:
        low, high = max(self.passed), min(self.failed)
        return float(np.sqrt(low * high)) if high < np.inf else BEYOND * low
