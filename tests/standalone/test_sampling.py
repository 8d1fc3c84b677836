"""Random choice of training samples."""

from __future__ import annotations

import torch
from detectron2.modeling.sampling import subsample_labels
from hypothesis import given
from hypothesis import strategies as st


@given(
    st.lists(st.integers(-1, 4), max_size=60),
    st.integers(0, 40),
    st.sampled_from([0.0, 0.25, 0.5, 1.0]),
    st.sampled_from([0, 4]),
)
def test_counts_and_membership(
    values: list[int], num_samples: int, fraction: float, background: int
) -> None:
    labels = torch.tensor(values, dtype=torch.long)
    positive, negative = subsample_labels(labels, num_samples, fraction, background)
    is_positive = (labels != -1) & (labels != background)
    assert is_positive[positive].all() and (labels[negative] == background).all()
    assert len(set(positive.tolist())) == len(positive)
    assert len(set(negative.tolist())) == len(negative)
    num_positive = min(int(num_samples * fraction), int(is_positive.sum()))
    num_negative = min(num_samples - num_positive, int((labels == background).sum()))
    assert (len(positive), len(negative)) == (num_positive, num_negative)


def test_draws_one_permutation_for_positives_and_then_one_for_negatives() -> None:
    labels = torch.tensor([1, 0, -1, 0, 2, 0, 3, 0, 1])
    torch.manual_seed(3)
    positive, negative = subsample_labels(labels, 6, 0.5, 0)
    torch.manual_seed(3)
    first, second = torch.randperm(4), torch.randperm(4)
    assert positive.tolist() == torch.tensor([0, 4, 6, 8])[first[:3]].tolist()
    assert negative.tolist() == torch.tensor([1, 3, 5, 7])[second[:3]].tolist()


def test_nothing_to_choose_from() -> None:
    for labels in (torch.zeros(0, dtype=torch.long), torch.full((5,), -1)):
        positive, negative = subsample_labels(labels, 4, 0.5, 0)
        assert positive.shape == negative.shape == (0,)
        assert positive.dtype == negative.dtype == torch.int64
