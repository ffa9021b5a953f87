"""How far outputs are from those wanted: what counts as a difference, and what does not."""

import numpy as np
import torch

from converter.quantize.losses import by_head, loss


def test_padding_and_empty_sparse_vectors_are_no_difference() -> None:
    mask = torch.tensor([[True, True, False], [True, False, False]])
    wanted = {"sentence_embedding": [torch.eye(2, 4)], "sparse_weights": [torch.tensor([[1.0, 2.0, 0.0], [0.0, 0.0, 0.0]])]}
    given = {**wanted, "sparse_weights": [torch.tensor([[1.0, 2.0, 9.0], [0.0, 3.0, 3.0]])]}
    assert by_head(wanted, given, [mask]).tolist() == [[0, 0], [0, 0]]


def test_faint_sparse_vectors_are_no_difference() -> None:
    """What is a hundredth of the usual weights adds nothing to a score, however its cosine turns out."""
    masks = [torch.ones(2, 2, dtype=torch.bool), torch.ones(1, 2, dtype=torch.bool)]
    wanted = {"sparse_weights": [torch.tensor([[1.0, 0.0], [0.01, 0.0]]), torch.tensor([[0.0, 2.0]])]}
    given = {"sparse_weights": [torch.tensor([[1.0, 0.0], [0.0, 0.01]]), torch.tensor([[0.0, 2.0]])]}
    assert loss(wanted, given, masks).tolist() == [0, 0, 0]
    given["sparse_weights"][1] = torch.tensor([[2.0, 0.0]])
    assert loss(wanted, given, masks).tolist() == [0, 0, 1]


def test_of_several_heads_the_worst_of_each_text_counts() -> None:
    wanted = {"sentence_embedding": [torch.eye(2)], "colbert_vecs": [torch.eye(2)[:, None]]}
    given = {"sentence_embedding": [torch.eye(2)[[1, 1]]], "colbert_vecs": [torch.eye(2)[[0, 0], None]]}
    masks = [torch.ones(2, 1, dtype=torch.bool)]
    assert by_head(wanted, given, masks).tolist() == [[1, 0], [0, 1]]
    assert loss(wanted, given, masks).tolist() == [1, 1]


def test_the_loss_is_the_worst_head() -> None:
    masks = [torch.tensor([[True, True], [True, False]])]
    one = {
        "sentence_embedding": [torch.tensor([[1.0, 0.0], [0.0, 1.0]])],
        "sparse_weights": [torch.tensor([[1.0, 0.0], [1.0, 5.0]])],
    }
    other = {
        "sentence_embedding": [torch.tensor([[0.6, 0.8], [0.0, 1.0]])],
        "sparse_weights": [torch.tensor([[1.0, 0.0], [1.0, 0.0]])],
    }
    np.testing.assert_allclose(loss(one, other, masks), [0.4, 0.0], atol=1e-6)
