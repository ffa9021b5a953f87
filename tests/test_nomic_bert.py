"""The Nomic BERT definition, through both runtimes, against transformers' own."""

import numpy as np
import pytest
from conftest import made, standin
from support import upstream

from shim import load

NAME = "nomic-embed-text-v1.5"
TEXTS = ["one", "a rather longer text about rivers and their mouths", "двенадцать месяцев", "x y " * 700]


@pytest.mark.parametrize(("target", "bits", "tolerance"), [("onnx", 32, 2e-6), ("onnx", 16, 2e-3), ("mlx", 16, 2e-3)])
def test_vectors_are_those_of_transformers(target: str, bits: int, tolerance: float) -> None:
    model = load(made(NAME, target, bits)[0])
    expected = upstream.vectors(standin(NAME), [*TEXTS, "search_query: Nile"], "mean", 8192)
    assert np.abs(model.embed(TEXTS).dense - expected[:-1]).max() < tolerance
    assert np.abs(model.embed(["Nile"], task="retrieval.query").dense - expected[-1:]).max() < tolerance
    assert (expected @ expected.T - np.eye(len(expected))).max() < 0.98, "texts all alike: this would prove nothing"
