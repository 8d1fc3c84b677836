"""Losses: empty and perfect input, weights, symmetric targets, class weights."""

import math
from collections.abc import Callable

import pytest
import roma
import torch

from roca_nocs import losses
from roca_nocs.geometry.symmetry import symmetry_rotations

WEIGHTED = [losses.l1, losses.l2, losses.smooth_l1]
MASKED = [
    losses.masked_l1,
    losses.masked_log_l1,
    losses.inverse_huber,
    losses.masked_cosine_distance,
]


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).requires_grad_()


@pytest.mark.parametrize("loss", WEIGHTED)
def test_weighted_losses_of_nothing(loss: Callable[..., torch.Tensor]) -> None:
    for count, weights in ((0, None), (0, torch.zeros(0)), (3, torch.zeros(3))):
        pred = random(count, 3)
        value = loss(pred, torch.ones(count, 3), weights)
        assert value.item() == 0
        (gradient,) = torch.autograd.grad(value, pred)
        assert not gradient.any()


@pytest.mark.parametrize("loss", MASKED)
def test_masked_losses_of_nothing(loss: Callable[..., torch.Tensor]) -> None:
    for count, weights in ((0, None), (0, torch.zeros(0)), (2, None), (2, torch.zeros(2))):
        pred = random(count, 3, 4, 4)
        mask = torch.zeros(count, 1, 4, 4, dtype=torch.bool)
        value = loss(pred, torch.ones_like(pred), mask, weights)
        assert value.item() == 0
        (gradient,) = torch.autograd.grad(value, pred)
        assert not gradient.any()


@pytest.mark.parametrize("loss", [losses.l1, losses.l2, losses.smooth_l1])
def test_equal_weights_change_nothing_and_zero_weights_leave_out(
    loss: Callable[..., torch.Tensor],
) -> None:
    pred, target = random(4, 3), random(4, 3, seed=1)
    torch.testing.assert_close(loss(pred, target, torch.full((4,), 0.3)), loss(pred, target))
    some = loss(pred, target, torch.tensor([1.0, 0, 1, 0]))
    torch.testing.assert_close(some, loss(pred[::2], target[::2]))


def test_inverse_huber() -> None:
    pred = torch.tensor([0.5, 1.0, 10.0, 99.0]).reshape(1, 1, 2, 2).requires_grad_()
    mask = torch.tensor([True, True, True, False]).reshape(1, 1, 2, 2)
    value = losses.inverse_huber(pred, torch.zeros(1, 1, 2, 2), mask)
    # c = 2: linear below it, (d^2 + c^2) / (2 c) above.
    assert value.item() == pytest.approx((0.5 + 1 + 104 / 4) / 3)
    perfect = losses.inverse_huber(pred, pred.detach(), mask)
    assert perfect.item() == 0
    (gradient,) = torch.autograd.grad(perfect, pred)
    assert gradient.isfinite().all()


def test_mask_losses() -> None:
    target = torch.zeros(2, 1, 4, 4)
    target[0, 0, :2] = 1
    logits = torch.where(target > 0, 20.0, -20.0)
    assert losses.mask_bce(logits, target).item() == pytest.approx(0, abs=1e-6)
    assert losses.mask_iou(logits.sigmoid(), target).item() == pytest.approx(0, abs=1e-5)
    # Eight of sixteen pixels overlap; the empty instance adds nothing.
    everything = torch.ones(2, 1, 4, 4)
    assert losses.mask_iou(everything, target).item() == pytest.approx(0.5 / 2)
    assert losses.mask_iou(everything, target, torch.tensor([1.0, 0])).item() == pytest.approx(0.5)
    assert losses.mask_iou(everything[:0], target[:0]).item() == 0
    assert losses.mask_bce(logits[:0], target[:0], torch.zeros(0)).item() == 0


def test_rotation_angle() -> None:
    turn = roma.rotvec_to_rotmat(torch.tensor([[0.0, 0.7, 0.0]]))
    assert losses.rotation_angle(turn, torch.eye(3)[None]).item() == pytest.approx(0.7, abs=1e-5)
    assert losses.rotation_angle(turn, turn).item() == pytest.approx(math.acos(0.99))


@pytest.mark.parametrize("tag", range(4))
def test_symmetric_targets_accept_every_turned_pose(tag: int) -> None:
    torch.manual_seed(tag)
    count = 36
    ids = torch.full((count,), tag)
    rotation = roma.random_rotmat(count)
    scale = torch.rand(count, 3) + 0.5
    points = torch.randn(count, 3, 4, 4)
    mask = (torch.rand(count, 1, 4, 4) > 0.3).float()
    group = symmetry_rotations(torch.tensor(tag))
    pred_rotation = rotation @ group
    target = losses.symmetric_rotation_target(pred_rotation, rotation, ids)
    torch.testing.assert_close(target, pred_rotation, rtol=0, atol=1e-5)
    nocs = (pred_rotation.mT @ points.flatten(2) / scale[..., None]).reshape(points.shape)
    target = losses.symmetric_nocs_target(nocs, points, rotation, scale, mask, ids)
    torch.testing.assert_close(target, nocs, rtol=0, atol=1e-4)


def test_symmetric_targets_without_symmetry_and_without_instances() -> None:
    torch.manual_seed(0)
    rotation, other = roma.random_rotmat(3), roma.random_rotmat(3)
    none = torch.zeros(3, dtype=torch.int64)
    torch.testing.assert_close(
        losses.symmetric_rotation_target(other, rotation, none), rotation, rtol=0, atol=1e-6
    )
    points = torch.zeros(0, 3, 4, 4)
    target = losses.symmetric_nocs_target(
        points, points, rotation[:0], torch.ones(0, 3), points[:, :1], none[:0]
    )
    assert target.shape == points.shape
    assert losses.symmetric_rotation_target(other[:0], rotation[:0], none[:0]).shape == (0, 3, 3)


def test_class_weights() -> None:
    weights = losses.class_weights_from_counts(torch.tensor([10, 100, 1000]))
    expected = [1, 1, 0.5, 1 / 3]
    assert weights.tolist() == pytest.approx(expected)
    # One occurrence counts as two; a class without any changes nothing.
    weights = losses.class_weights_from_counts(torch.tensor([1, 0, 8]))
    assert weights.tolist() == pytest.approx([1, 1, 1, 1 / 3])
    assert losses.class_weights_from_counts(torch.tensor([0, 0])).tolist() == [1, 1, 1]
    assert losses.class_weights_from_counts(torch.tensor([])).tolist() == [1]


def test_selected_class_weights() -> None:
    weights = torch.tensor([9.0, 1.0, 2.0, 3.0])
    classes = torch.tensor([0, 2, 3, 1])
    assert losses.select_class_weights(weights, classes).tolist() == [1, 3, 9, 2]


def test_weighted_cross_entropy() -> None:
    logits, classes = random(5, 4), torch.tensor([0, 3, 2, 1, 0])
    weights = torch.tensor([1.0, 0.5, 0.25, 2.0])
    ours = losses.cross_entropy(logits, classes, weights[classes])
    torch.testing.assert_close(ours, torch.nn.functional.cross_entropy(logits, classes, weights))
    assert losses.cross_entropy(logits[:0], classes[:0], weights[:0]).item() == 0
