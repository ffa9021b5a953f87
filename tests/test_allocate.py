"""The allocator: what it promises of its own predictions, on made-up costs and on brute force."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from converter.quantize.allocate import Allocation, Choice, allocate
from converter.quantize.grid import Scheme

BITS = (4, 5, 6, 8)


def model(seed: int, modules: int = 5, rows: int = 7) -> dict[str, list[Choice]]:
    """Costs that fall to a quarter with each bit, of modules of different size and importance."""
    rng = np.random.default_rng(seed)
    found = {}
    for number in range(modules):
        size, base = int(rng.integers(1000, 5000)), rng.lognormal(-6, 1.5, rows)
        choices = [Choice(Scheme(bits, 64), size * bits, base / 4.0 ** (bits - 4)) for bits in BITS]
        found[f"layer.{number}"] = [*choices, Choice(None, size * 16, np.zeros(rows))]
    return found


def brute(choices: dict[str, list[Choice]], goal: float, on: str) -> int:
    """The size of the smallest combination within the goal, of all that there are."""
    sizes, costs = np.zeros(1), np.zeros((1, 1))
    for options in choices.values():
        sizes = np.add.outer(sizes, [choice.size for choice in options]).ravel()
        costs = (costs[:, None] + np.array([choice.costs for choice in options])).reshape(len(sizes), -1)
    return int(sizes[(costs.max(axis=1) if on == "worst" else costs.mean(axis=1)) <= goal].min())


def check(found: Allocation) -> None:
    total = np.sum([choice.costs for choice in found.chosen.values()], axis=0)
    assert found.point.size == sum(choice.size for choice in found.chosen.values())
    assert found.point.worst == pytest.approx(total.max(), abs=1e-12)
    assert found.point.mean == pytest.approx(total.mean(), abs=1e-12)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), goal=st.sampled_from([0.1, 0.01, 0.001, 0.0001]), on=st.sampled_from(["worst", "mean"]))
def test_the_goal_is_kept(seed: int, goal: float, on: str) -> None:
    choices = model(seed)
    found = allocate(choices, goal, on)
    check(found)
    assert getattr(found.point, on) <= goal


def test_little_more_than_the_fewest_bytes_is_taken() -> None:
    cases = [(seed, goal, on) for seed in range(20) for goal in (0.01, 0.001, 0.0001) for on in ("worst", "mean")]
    over = [allocate(model(seed), goal, on).point.size / brute(model(seed), goal, on) for seed, goal, on in cases]
    assert max(over) <= 1.11, "nothing bounds what a greedy way costs, but this is the worst of 1,500 such cases"
    assert np.mean(over) < 1.005


def test_a_looser_goal_never_needs_more() -> None:
    choices = model(1, modules=12)
    sizes = [allocate(choices, goal).point.size for goal in (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] > sizes[-1]


def test_the_curve_only_rises_in_size_and_ends_at_the_best() -> None:
    found = allocate(model(2), 0.0)
    check(found)
    sizes = [point.size for point in found.curve]
    assert sizes == sorted(set(sizes))
    assert found.curve[-1].worst == pytest.approx(0, abs=1e-12)
    assert {choice.scheme for choice in found.chosen.values()} == {None}


def test_a_limit_is_kept_and_used() -> None:
    choices = model(3, modules=12)
    smallest, best = (allocate(choices, goal).point.size for goal in (np.inf, 0.0))
    for limit in np.linspace(smallest, best, 7):
        found = allocate(choices, 0.0, limit=limit)
        check(found)
        assert found.point.size <= limit
    assert allocate(choices, 0.0, limit=(smallest + best) / 2).point.worst < allocate(choices, np.inf).point.worst / 2


def test_what_cannot_be_under_the_limit_is_the_smallest() -> None:
    choices = model(4)
    found = allocate(choices, 0.0, limit=1)
    assert found.point.size == sum(min(choice.size for choice in given) for given in choices.values())


def test_a_module_that_costs_nothing_is_never_raised() -> None:
    choices = model(5)
    choices["unused"] = [Choice(Scheme(bits, 64), 1000 * bits, np.zeros(7)) for bits in BITS]
    assert allocate(choices, 0.0).chosen["unused"].scheme == Scheme(4, 64)
