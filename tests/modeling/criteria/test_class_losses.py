"""Ranks and the three classification losses, against formulas written out."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from roca_nocs.modeling.criteria.ia_bce import (
    align_loss,
    alignment_quality,
    focal_loss,
    ia_bce,
    local_rank,
)

MATCHED = torch.tensor([0, 0, 1]), torch.tensor([2, 0, 4]), torch.tensor([1, 3, 0])
QUALITY = torch.tensor([0.9, 0.01, 0.3], dtype=torch.float64)


def logits() -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return 3 * torch.randn(2, 5, 4, generator=generator, dtype=torch.float64)


@settings(max_examples=30)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 4)), max_size=12))
def test_rank_counts_the_better_ones(pairs: list[tuple[int, int]]) -> None:
    groups = torch.tensor([group for group, _ in pairs], dtype=torch.int64)
    quality = torch.tensor([float(q) for _, q in pairs])
    expected = [
        sum(
            other_group == group and (other > q or (other == q and j < i))
            for j, (other_group, other) in enumerate(pairs)
        )
        for i, (group, q) in enumerate(pairs)
    ]
    assert local_rank(quality, groups).tolist() == expected


def test_quality_is_a_constant_above_its_bound() -> None:
    x = torch.tensor([-30.0, 0.0, 30.0], requires_grad=True)
    iou = torch.tensor([0.5, 0.25, 0.0], requires_grad=True)
    quality = alignment_quality(x, iou, 0.25)
    assert not quality.requires_grad
    expected = [0.01, 0.5**0.25 * 0.25**0.75, 0.01]
    torch.testing.assert_close(quality, torch.tensor(expected))


def test_align_loss() -> None:
    x = logits()
    p = x.sigmoid()
    target = torch.zeros_like(x).index_put(MATCHED, QUALITY)
    bce = F.binary_cross_entropy_with_logits(x, target, reduction="none")
    expected = ((target - p).abs() ** 1.5 * bce).sum(-1)
    torch.testing.assert_close(align_loss(x, MATCHED, QUALITY, 1.5), expected)


def test_ia_bce() -> None:
    x = logits()
    p = x.sigmoid()
    target = torch.zeros_like(x).index_put(MATCHED, QUALITY)
    bce = F.binary_cross_entropy_with_logits(x, target, reduction="none")
    factor = (p**2).index_put(MATCHED, torch.ones_like(QUALITY))
    torch.testing.assert_close(ia_bce(x, MATCHED, QUALITY, 2.0), (factor * bce).sum(-1))


def test_focal_loss() -> None:
    x = logits()
    target = torch.zeros_like(x).index_put(MATCHED, torch.ones_like(QUALITY))
    bce = F.binary_cross_entropy_with_logits(x, target, reduction="none")
    p_t = torch.where(target == 1, x.sigmoid(), 1 - x.sigmoid())
    alpha_t = torch.where(target == 1, 0.3, 0.7)
    expected = (alpha_t * (1 - p_t) ** 2 * bce).sum(-1)
    torch.testing.assert_close(focal_loss(x, MATCHED, 0.3, 2.0), expected)


@pytest.mark.parametrize("function", ["ia_bce", "align_loss", "focal_loss"])
def test_gradients(function: str) -> None:
    def loss(x: torch.Tensor) -> torch.Tensor:
        if function == "focal_loss":
            return focal_loss(x, MATCHED, 0.25, 2.0)
        return {"ia_bce": ia_bce, "align_loss": align_loss}[function](x, MATCHED, QUALITY, 2.0)

    assert torch.autograd.gradcheck(loss, logits().requires_grad_())
