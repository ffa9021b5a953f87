"""The metrics, against values worked out by hand, and the verdict, made to fail."""

import numpy as np
import pytest

from converter.corpus import Text
from converter.proof import metrics
from shim.errors import NotFiniteError
from shim.parity import Bar, Spread

TEXTS = [Text(str(index), lang, "sentence", "x") for index, lang in enumerate(("en", "en", "ru", "zh"))]


def unit(*rows: list[float]) -> np.ndarray:
    array = np.array(rows, np.float32)
    return array / np.linalg.norm(array, axis=1, keepdims=True)


REFERENCE = unit([1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0])


def test_cosines_by_hand() -> None:
    a = np.array([[3, 4], [1, 0], [1, 0], [0, 0]], np.float32)
    b = np.array([[3, 4], [0, 2], [-5, 0], [1, 1]], np.float32)
    np.testing.assert_allclose(metrics.cosines(a, b), [1, 0, -1, 0], atol=1e-12)


def test_pairwise_mean_by_hand() -> None:
    # Pairs of REFERENCE: 0, 0, 1/sqrt(2), 0, 1/sqrt(2), 0.
    assert metrics.pairwise_mean(REFERENCE) == pytest.approx(2 / 6 / 2**0.5, abs=1e-6)


def test_neighbour_agreement_by_hand() -> None:
    assert metrics.neighbour_agreement(REFERENCE, REFERENCE, 1) == 1
    # Row 3 leaves its neighbour 0 for 2; rows 0, 1 and 2 then have 1 (first of equals), 3 and 3 instead of 3, 3 and 0.
    moved = unit([1, 0, 0], [0, 1, 0], [0, 0, 1], [0, 1, 1.1])
    assert metrics.neighbour_agreement(REFERENCE, moved, 1) == 0.25


def test_one_bad_text_fails_the_verdict_however_good_the_mean() -> None:
    candidate = REFERENCE.copy()
    candidate[2] = unit([0, 0.05, 1])[0]
    report, scores = metrics.dense_report(REFERENCE, candidate, TEXTS)
    assert report.worst == pytest.approx(1 / (1 + 0.05**2) ** 0.5, abs=1e-6)
    assert report.worst_text == "2"
    np.testing.assert_allclose(scores, [1, 1, report.worst, 1])
    assert report.by_language == {"en": pytest.approx(1), "ru": report.worst, "zh": pytest.approx(1)}
    assert not Bar(0.999).passes({"dense": report})
    assert Bar(0.998).passes({"dense": report})
    assert not Bar(0.999).passes(
        {"dense": Spread(worst=1.0, p01=1.0, mean=1.0), "sparse": Spread(worst=0.5, p01=1.0, mean=1.0)}
    )
    assert not Bar(0.999).passes({})


def test_subtracting_the_mean_shows_what_a_common_direction_hides() -> None:
    """Vectors that are nearly all one direction have a cosine near 1 with anything like them."""
    rng = np.random.default_rng(0)
    common = np.array([10, 0, 0, 0], np.float32)
    reference = unit(*(common + rng.normal(0, 0.1, (4, 4))))
    candidate = unit(*(common + rng.normal(0, 0.1, (4, 4))))
    report, _ = metrics.dense_report(reference, candidate, TEXTS)
    assert report.worst > 0.999
    assert report.centred.worst < 0.9
    assert "look alike" in metrics.notes("dense", report)[0]
    assert metrics.notes("dense", metrics.dense_report(REFERENCE, REFERENCE, TEXTS)[0]) == []


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_vector_that_is_not_finite_is_an_error(value: float) -> None:
    candidate = REFERENCE.copy()
    candidate[1, 1] = value
    with pytest.raises(NotFiniteError, match="text 1"):
        metrics.dense_report(REFERENCE, candidate, TEXTS)


def test_one_text_proves_little_and_is_said_to() -> None:
    report, _ = metrics.dense_report(REFERENCE[:1], REFERENCE[:1], TEXTS[:1])
    assert "proves little" in metrics.notes("dense", report)[0]
