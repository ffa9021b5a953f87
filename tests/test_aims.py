"""Where the search aims next: lower after what fell short, higher after what passed with room, and between the two."""

from itertools import islice

import numpy as np
import pytest

from converter.aims import Aims

ALLOWED = 0.001


def aims(effort: str = "max") -> Aims:
    return Aims(effort, ALLOWED, 2.0, whole=False)


def test_the_first_is_what_is_allowed_by_the_guess_with_some_to_spare() -> None:
    assert 0.4 * ALLOWED < next(iter(aims())) < 0.5 * ALLOWED


@pytest.mark.parametrize("error", [0.0010001, 0.002, 0.9])
def test_what_fell_short_is_followed_by_less(error: float) -> None:
    given = aims()
    first, second = islice(_each(given, error, passes=False), 2)
    assert 0 < second < first


def test_what_passed_is_followed_by_more_unless_it_is_near_enough() -> None:
    given = aims()
    first, second = islice(_each(given, 0.5 * ALLOWED, passes=True), 2)
    assert second > first
    assert (given.done(0.5 * ALLOWED), given.done(0.99 * ALLOWED)) == (False, True)


def test_between_what_passed_and_what_did_not_it_is_never_outside_again() -> None:
    given, real = aims(), 0.0003  # what is foretold at which the limit is met
    low, high = 0.0, np.inf
    for aim in given:
        assert low < aim < high
        error, passes = ALLOWED * (aim / real) ** 3, aim <= real
        given.measured(aim, error, passes)
        low, high = (aim, high) if passes else (low, aim)
    assert high < np.inf
    assert 0.8 * real < low


def test_where_nothing_passes_the_last_ones_aim_by_far_lower_and_there_is_an_end() -> None:
    found = list(_each(aims("fast"), 0.0011, passes=False))
    assert len(found) == 7
    assert found[-1] < found[-2] / 6 < found[-3] / 12
    passed = list(_each(aims("fast"), 0.5 * ALLOWED, passes=True))
    assert len(passed) == 4


def test_what_may_be_left_whole_begins_anew_with_what_fell_short() -> None:
    given = aims()
    given.measured(0.0003, 0.002, passes=False)
    before = given.aim
    given.leave_whole(4.0)
    assert given.aim == pytest.approx(4 * before)
    given.measured(given.aim, 0.0005, passes=True)
    assert given.aim > 4 * before, "by what was foretold of few bits, less would have fallen short"
    assert len(list(given)) > 3, "there are attempts again"


def test_a_plan_that_is_no_smaller_than_what_passed_is_followed_by_a_smaller() -> None:
    given = aims()
    given.measured(0.0003, 0.0005, passes=True)
    given.needless(0.0006)
    assert 0.0006 < given.aim < np.inf
    given.measured(0.0004, 0.00084, passes=True)
    assert 0.0006 < given.aim < np.inf, "nothing has fallen short yet"
    given.measured(given.aim, 0.0012, passes=False)
    assert 0.0006 < given.aim < 0.00084


def _each(given: Aims, error: float, *, passes: bool):  # type: ignore[no-untyped-def]
    """The aims, where every attempt is measured at `error`."""
    for aim in given:
        yield aim
        given.measured(aim, error, passes)
