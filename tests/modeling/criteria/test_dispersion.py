"""The dispersion loss by hand, and on regions without cells or labels."""

import pytest
import torch

from roca_nocs.modeling.criteria.dispersion import (
    DispersionLoss,
    dispersion,
    mean_distribution,
    target_distribution,
)

BINS = 4


def one_hot_logits(bins: torch.Tensor) -> torch.Tensor:
    """(R, 3, B, S, S) logits that choose bins (R, 3, S, S)."""
    logits = torch.nn.functional.one_hot(bins, BINS).movedim(-1, 2).float() * 100
    return logits.requires_grad_()


def test_distributions_by_hand() -> None:
    bins = torch.tensor([[[0, 0], [1, 3]]]).expand(3, 2, 2)[None]
    mask = torch.tensor([[[True, True], [True, False]]])
    expected = torch.tensor([2 / 3, 1 / 3, 0, 0]).expand(1, 3, BINS)
    torch.testing.assert_close(target_distribution(bins, mask, BINS), expected)
    probabilities = one_hot_logits(bins).softmax(dim=2)
    torch.testing.assert_close(mean_distribution(probabilities, mask), expected)
    even = torch.full((1, 3, BINS), 1 / BINS)
    distance = (expected - even)[0, 0].norm().expand(1)
    torch.testing.assert_close(dispersion(expected), distance)
    torch.testing.assert_close(dispersion(expected, even), distance)
    assert dispersion(expected, reference="axes").item() == 0
    with pytest.raises(ValueError, match="reference"):
        dispersion(expected, reference="pixels")


def test_loss_is_zero_at_the_target_wherever_the_bins_are() -> None:
    torch.manual_seed(0)
    coordinates = torch.rand(2, 3, 6, 6)
    bins = (coordinates * BINS).long()
    mask = torch.ones(2, 6, 6, dtype=torch.bool)
    labelled = torch.tensor([True, True])
    shuffled = bins.flatten(2)[:, :, torch.randperm(36)].unflatten(2, (6, 6))
    loss = DispersionLoss(weight=1.0)
    assert loss(one_hot_logits(shuffled), coordinates, mask, labelled)[
        "loss_nocs_dispersion"
    ].item() == pytest.approx(0, abs=1e-6)
    wrong = loss(one_hot_logits(bins * 0), coordinates, mask, labelled)["loss_nocs_dispersion"]
    assert wrong > 0.5


def test_unlabelled_regions_and_untargeted_want_all_bins() -> None:
    bins = torch.zeros(1, 3, 4, 4, dtype=torch.int64)
    logits = one_hot_logits(bins)
    nothing = torch.zeros(1, 3, 4, 4), torch.zeros(1, 4, 4, dtype=torch.bool)
    unlabelled = DispersionLoss(weight=1.0)(logits, *nothing, torch.tensor([False]))
    expected = torch.tensor([3 / 4, -1 / 4, -1 / 4, -1 / 4]).norm()
    torch.testing.assert_close(unlabelled["loss_nocs_dispersion"], expected)
    everywhere = torch.ones(1, 4, 4, dtype=torch.bool)
    even = DispersionLoss(targeted=False, weight=0.5)(
        logits, nothing[0], everywhere, torch.tensor([True])
    )
    torch.testing.assert_close(even["loss_nocs_dispersion"], expected / 2)


@pytest.mark.parametrize("count", [0, 2])
def test_nothing_to_judge(count: int) -> None:
    logits = torch.randn(count, 3, BINS, 4, 4, requires_grad=True)
    mask = torch.zeros(count, 4, 4, dtype=torch.bool)
    loss = DispersionLoss()(
        logits, torch.zeros(count, 3, 4, 4), mask, torch.ones(count, dtype=torch.bool)
    )["loss_nocs_dispersion"]
    assert loss.item() == 0
    loss.backward()
    assert logits.grad is not None and logits.grad.isfinite().all()


def test_regression_has_no_bins() -> None:
    with pytest.raises(ValueError, match="bins"):
        DispersionLoss()(torch.rand(1, 3, 4, 4), *[torch.ones(1)] * 3)
