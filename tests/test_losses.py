"""How far outputs are from those wanted: what counts as a difference, and what does not."""

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
