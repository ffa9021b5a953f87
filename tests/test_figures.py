"""Figures of tasks, against what a hand computes, and the interval of a difference, against its known distribution."""

import math

import numpy as np
import pytest

from converter.evaluation import figures
from converter.evaluation.figures import Answers
from converter.evaluation.sets import Pairs, Retrieval
from shim.errors import UsageError


def answers(vectors: dict[tuple[str, str], list[float]]) -> Answers:
    return Answers({key: np.array(vector, np.float32) for key, vector in vectors.items()})


def test_retrieval_is_what_a_hand_computes() -> None:
    """Of the first query the relevant documents are second and third, of the other one first; k of nDCG and recall is 10."""
    data = Retrieval("hand", {"p": "p", "q": "q"}, {key: key for key in "abc"}, {"p": ["b", "c"], "q": ["a"]})
    places = {"a": [1.0, 0.0], "b": [0.8, 0.6], "c": [0.6, 0.8]}
    queries: dict[tuple[str, str], list[float]] = {(figures.QUERY, key): [1.0, 0.0] for key in "pq"}
    side = answers(queries | {(figures.DOCUMENT, key): place for key, place in places.items()})
    moved = answers(queries | {(figures.DOCUMENT, key): places[other] for key, other in zip("abc", "cab", strict=True)})
    found = {record.metric: record for record in figures.retrieval(data, side, moved)}
    ideal = 1 + 1 / math.log2(3)
    before = (1 / math.log2(3) + 1 / math.log2(4)) / ideal
    after = (1 + 1 / math.log2(3)) / ideal  # b, c, a
    assert found["ndcg@10"].original == pytest.approx((before + 1) / 2)
    assert found["ndcg@10"].artifact == pytest.approx((after + 1 / math.log2(4)) / 2)
    assert found["ndcg@10"].difference == pytest.approx((after - before + 1 / math.log2(4) - 1) / 2)
    assert found.keys() == {"ndcg@10", "recall@10"}, "recall@100 of three documents says nothing"
    assert found["recall@10"].original == found["recall@10"].artifact == 1
    assert found["ndcg@10"].n == 2


def test_reranking_is_what_a_hand_computes() -> None:
    texts = {key: key for key in "abcd"}
    data = Retrieval("hand", {"p": "?"}, texts, {"p": ["b", "z"]}, {"p": ["a", "c"]})
    scores = {("?", "a"): 3.0, ("?", "b"): 2.0, ("?", "c"): 1.0}
    first = Answers(scores | {("?", "b"): 9.0})
    found = {record.metric: record for record in figures.reranking(data, Answers(scores), first)}
    assert found["ndcg@10"].original == pytest.approx(1 / math.log2(3))
    assert found["mrr@10"].original == 0.5
    assert found["ndcg@10"].artifact == found["mrr@10"].artifact == 1


def test_the_interval_is_that_of_a_mean_and_paired() -> None:
    """Of n differences it is mean ± 1.96 standard errors, however much the queries differ among each other."""
    rng = np.random.default_rng(1)
    original = rng.uniform(0, 1, 400)
    change = rng.normal(0.02, 0.05, 400)
    found = figures._by_query("a", "ndcg@10", original.tolist(), (original + change).tolist())
    error = 1.96 * change.std() / 20
    assert found.low == pytest.approx(change.mean() - error, abs=0.1 * error)
    assert found.high == pytest.approx(change.mean() + error, abs=0.1 * error)
    assert found == figures._by_query("a", "ndcg@10", original.tolist(), (original + change).tolist()), "the seed is fixed"
    same = figures._by_query("a", "ndcg@10", original.tolist(), original.tolist())
    assert (same.difference, same.low, same.high) == (0, 0, 0)


def test_the_interval_of_a_correlation_holds_its_difference() -> None:
    rng = np.random.default_rng(2)
    gold = rng.normal(size=300)
    sides = []
    for noise in (0.3, 1.0):
        angles = gold + noise * rng.normal(size=300)
        other = {f"b{row}": [math.cos(angle), math.sin(angle)] for row, angle in enumerate((angles - angles.max()) / 20)}
        sides.append(
            answers(
                {(figures.SIMILARITY, key): vector for key, vector in other.items()} | {(figures.SIMILARITY, "a"): [1.0, 0.0]}
            )
        )
    pairs = Pairs("made", [("a", f"b{row}", float(score)) for row, score in enumerate(gold)])
    [found] = figures.similarity(pairs, *sides)
    assert found.original > 0.9 > found.artifact > 0.5
    assert found.low < found.difference < found.high < 0
    assert found.high - found.low < 0.2


def test_models_for_which_all_pairs_are_alike_are_told_of() -> None:
    side = answers({(figures.SIMILARITY, text): [1.0, 0.0] for text in "ab"})
    with pytest.raises(UsageError, match="same: all pairs are equally similar"):
        figures.similarity(Pairs("same", [("a", "b", 1.0), ("b", "a", 2.0)]), side, side)
