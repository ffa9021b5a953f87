"""Where the search aims next: lower after what fell short, higher after what passed with room, and between the two."""

import pytest

from converter.quantize.grid import Scheme
from converter.search import Trial, next_target

ALLOWED = 0.001
FIRST = Trial({}, 0.001, 0.002)  # what the options were measured on: twice as far off as their costs predict


def trial(predicted: float, measured: float, passed: bool | None = None) -> Trial:
    return Trial({"layer": Scheme(4, 64)}, predicted, measured, passed=measured <= ALLOWED if passed is None else passed)


@pytest.mark.parametrize(("history", "low", "high"), [
    ([], 0.4 * ALLOWED, 0.5 * ALLOWED),  # what is allowed, by how much worse it came out, with some to spare
    ([trial(0.0005, 0.0010001)], 0.0003, 0.00046),  # what fell short is followed by less,
    ([trial(0.0005, 0.002)], 0.0002, 0.00024),  # by as much as it was off,
    ([trial(0.0005, 0.9)], 0.0, 1e-6),
    ([trial(0.0005, 0.0011), trial(0.0004, 0.0011)], 0.0, 0.66 * 0.0004),  # and by more each time
    ([trial(0.0005, 0.0005)], 0.0006, 0.001),  # what passed is followed by more,
    ([trial(0.0005, 0.0011), trial(0.0003, 0.0005)], 0.0003, 0.0005),  # but less than what fell short
    ([trial(0.0003, 0.0005), trial(0.0005, 0.0011)], 0.0003, 0.0005),
    ([trial(0.0005, 0.0009, passed=False)], 0.0003, 0.0005),  # near enough, but the verdict says no
])  # fmt: skip
def test_the_next_target_is(history: list[Trial], low: float, high: float) -> None:
    target = next_target(FIRST, history, ALLOWED, 6)
    assert target is not None
    assert low < target < high


@pytest.mark.parametrize(("history", "attempts", "over"), [
    ([trial(0.0005, 0.00086)], 6, True),  # near enough to count as the smallest
    ([trial(0.0005, 0.00084)], 6, False),
    ([trial(0.0005, 0.0004)] * 3, 3, True),
    ([trial(0.0005, 0.002)] * 3, 3, False),  # where none passes there are three more
    ([trial(0.0005, 0.002)] * 6, 3, True),
])  # fmt: skip
def test_the_search_is_over(history: list[Trial], attempts: int, over: bool) -> None:
    assert (next_target(FIRST, history, ALLOWED, attempts) is None) == over


def test_where_nothing_passes_the_last_targets_are_lower_by_far() -> None:
    short = [trial(0.0005, 0.0011)] * 6
    targets = [next_target(FIRST, short[:count], ALLOWED, 3) for count in range(1, 6)]
    assert all(targets)
    assert targets[4] < targets[3] / 2.5 < targets[2] / 4  # type: ignore[operator]


@pytest.mark.parametrize("real", [0.0001, 0.0003, 0.0009])  # what is predicted where the limit is met
def test_targets_close_in_on_the_limit(real: float) -> None:
    history = list[Trial]()
    while (target := next_target(FIRST, history, ALLOWED, 12)) is not None:
        history.append(trial(target, ALLOWED * (target / real) ** 2))
    best = max(each.predicted for each in history if each.passed)
    assert 0.9 * real < best <= real
