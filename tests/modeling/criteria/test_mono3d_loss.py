"""Losses of 3D boxes: rows that do not count, gradients, degenerate batches, corner distances."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd import gradcheck

from modeling.mono3d.random_batches import BINS, CLASSES, random_ground_truth
from roca_nocs.geometry.cuboids import rotation_from_yaw
from roca_nocs.modeling.criteria.mono3d_loss import (
    PosedBoxes,
    anchor_box_loss,
    box3d_regression_loss,
    box_confidence,
    category_loss,
    disentangled_losses,
    objectness_loss,
    uncertainty_loss,
    yaw_losses,
)
from roca_nocs.modeling.mono3d.selection import select_class_from_prediction

Tensors = dict[str, torch.Tensor]
SHAPE = (2, 9)
PROJECTION = torch.tensor([[500.0, 0, 60, 4], [0, 510, 60, 0.2], [0, 0, 1, 0.003]])


def randn(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def rows(seed: int) -> tuple[Tensors, Tensors, torch.Tensor, torch.Tensor]:
    """Head outputs, targets, mask of the rows with a 3D box and mask of the valid rows."""
    outputs = {
        "bbox3d": randn(seed, *SHAPE, CLASSES, 6),
        "yaw_logit": randn(seed + 1, *SHAPE, CLASSES, BINS),
        "yaw_resi": randn(seed + 2, *SHAPE, CLASSES, BINS),
        "category_logit": randn(seed + 3, *SHAPE, CLASSES + 1),
        "uncertainty": randn(seed + 4, *SHAPE, CLASSES).abs(),
        "depth": randn(seed + 5, *SHAPE).exp(),
        "dimensions": randn(seed + 6, *SHAPE, 3).exp(),
        "rotation": rotation_from_yaw(randn(seed + 7, *SHAPE)),
    }
    random = torch.Generator().manual_seed(seed)
    gt = random_ground_truth(math.prod(SHAPE), random)
    targets = {name: value.unflatten(0, SHAPE) for name, value in gt.items()}
    targets["category"] = torch.randint(CLASSES + 1, SHAPE, generator=random)
    targets["numbers"] = randn(seed + 8, *SHAPE, 6)
    targets["yaw_bin"] = torch.randint(BINS, SHAPE, generator=random)
    targets["residual"] = randn(seed + 9, *SHAPE)
    valid = torch.arange(SHAPE[1]) < torch.tensor([[6], [4]])
    mask = valid & (targets["category"] < CLASSES)
    return outputs, targets, mask, valid


def all_losses(
    outputs: Tensors, targets: Tensors, mask: torch.Tensor, valid: torch.Tensor
) -> Tensors:
    selected = select_class_from_prediction(outputs, targets["category"], targets["yaw_bin"])
    uncertainty = selected["uncertainty"].squeeze(-1)
    count = valid.sum()
    own = {"mask": mask, "normalizer": count, "uncertainty": uncertainty}
    gt = PosedBoxes(
        targets["bbox3d"][..., :2],
        targets["bbox3d"][..., 2],
        targets["bbox3d"][..., 3:],
        targets["rotation"],
    )
    pred = PosedBoxes(
        selected["bbox3d"][..., :2],
        outputs["depth"],
        outputs["dimensions"],
        outputs["rotation"],
    )
    return {
        "box3d": box3d_regression_loss(selected["bbox3d"], targets["numbers"], **own),
        **dict(
            zip(
                ("residual", "bin"),
                yaw_losses(
                    selected["yaw_logit"],
                    selected["yaw_resi"].squeeze(-1),
                    targets["yaw_bin"],
                    targets["residual"],
                    **own,
                ),
                strict=True,
            )
        ),
        "category": category_loss(
            outputs["category_logit"], torch.where(valid, targets["category"], -1)
        ),
        "uncertainty": uncertainty_loss(uncertainty, mask, count),
        **disentangled_losses(pred, gt, PROJECTION, mask, uncertainty=uncertainty),
        **{
            f"ordered_{name}": value
            for name, value in disentangled_losses(
                pred, gt, PROJECTION, mask, ordered=True, inverse_depth=True
            ).items()
        },
    }


def values_and_gradients(outputs: Tensors, *more: object) -> tuple[Tensors, Tensors]:
    outputs = {name: value.clone().requires_grad_() for name, value in outputs.items()}
    losses = all_losses(outputs, *more)
    sum(losses.values()).backward()
    return {k: v.detach() for k, v in losses.items()}, {k: v.grad for k, v in outputs.items()}


def spoil(tensors: Tensors, rows_out: torch.Tensor, garbage: float) -> Tensors:
    spoiled = {}
    for name, value in tensors.items():
        where = rows_out.reshape(*SHAPE, *[1] * (value.dim() - 2))
        fill = garbage if value.is_floating_point() else -7
        spoiled[name] = value if value.dtype == torch.bool else torch.where(where, fill, value)
    return spoiled


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([math.nan, math.inf, -math.inf, 1e38, 3.0]))
def test_rows_that_do_not_count(seed: int, garbage: float) -> None:
    outputs, targets, mask, valid = rows(seed)
    expected, gradients = values_and_gradients(outputs, targets, mask, valid)
    assert all(value.isfinite() for value in expected.values())
    ours, own = values_and_gradients(
        spoil(outputs, ~valid, garbage), spoil(targets, ~valid, garbage), mask, valid
    )
    for name, value in expected.items():
        assert torch.equal(ours[name], value), name
    for name, gradient in gradients.items():
        assert torch.equal(own[name], gradient), name
        assert not gradient[~valid].any()


def test_no_rows_at_all() -> None:
    outputs, targets, mask, _ = rows(0)
    nothing = torch.zeros_like(mask)
    losses, gradients = values_and_gradients(outputs, targets, nothing, nothing)
    assert all(value == 0 for value in losses.values())
    assert not any(gradient.any() for gradient in gradients.values())


def test_tensors_without_rows() -> None:
    empty = PosedBoxes(torch.zeros(0, 2), torch.zeros(0), torch.ones(0, 3), torch.zeros(0, 3, 3))
    mask = torch.zeros(0, dtype=torch.bool)
    losses = disentangled_losses(empty, empty, PROJECTION, mask, uncertainty=torch.zeros(0))
    assert all(value == 0 for value in losses.values()) and len(losses) == 6
    index = torch.zeros(0, dtype=torch.int64)
    assert box3d_regression_loss(torch.zeros(0, 6), torch.zeros(0, 6), mask, 0) == 0
    both = yaw_losses(torch.zeros(0, BINS), torch.zeros(0), index, torch.zeros(0), mask, 0)
    assert both == (0, 0) and category_loss(torch.zeros(0, CLASSES + 1), index) == 0


def test_gradients_are_right() -> None:
    outputs, targets, mask, valid = rows(4)
    targets = {k: v.double() if v.is_floating_point() else v for k, v in targets.items()}
    names = list(outputs)

    def total(*values: torch.Tensor) -> tuple[torch.Tensor, ...]:
        losses = all_losses(dict(zip(names, values, strict=True)), targets, mask, valid)
        return tuple(losses.values())

    inputs = tuple(value.clone().requires_grad_() for value in outputs.values())
    assert gradcheck(total, inputs, eps=1e-7, atol=1e-4, fast_mode=True)


@pytest.mark.parametrize("iou", [False, True])
def test_anchor_losses(iou: bool) -> None:
    labels = torch.tensor([[1, 0, -1, 1], [-1, -1, 0, 0]], dtype=torch.int8)
    deltas, targets = randn(0, 2, 4, 4), randn(1, 2, 4, 4)
    logits, overlap = randn(2, 2, 4), randn(3, 2, 4).abs().clamp(max=1)
    options = {"iou": overlap} if iou else {}
    weight = overlap if iou else torch.ones_like(overlap)
    positive, drawn = labels == 1, labels >= 0
    box = anchor_box_loss(deltas, targets, labels, 8, **options)
    distance = torch.nn.functional.smooth_l1_loss(deltas, targets, beta=0.5, reduction="none")
    torch.testing.assert_close(box, (distance.sum(2) * weight)[positive].sum() / 16)
    loss = objectness_loss(logits, labels, 8, **options)
    wanted = overlap if iou else positive.double()
    entropy = -(wanted * logits.sigmoid().log() + (1 - wanted) * (-logits).sigmoid().log())
    torch.testing.assert_close(loss, (entropy * weight)[drawn].sum() / 16)

    # What stands in other rows does not matter.
    for garbage in (math.nan, math.inf):
        again = deltas.masked_fill(~positive[..., None], garbage).requires_grad_()
        other = targets.masked_fill(~positive[..., None], garbage)
        again_logits = logits.masked_fill(~drawn, garbage).requires_grad_()
        if iou:
            options = {"iou": overlap.masked_fill(~drawn, garbage)}
        assert torch.equal(anchor_box_loss(again, other, labels, 8, **options), box)
        assert torch.equal(objectness_loss(again_logits, labels, 8, **options), loss)
        anchor_box_loss(again, other, labels, 8, **options).backward()
        objectness_loss(again_logits, labels, 8, **options).backward()
        assert again.grad.isfinite().all() and again_logits.grad.isfinite().all()


def test_rows_weigh_the_same_in_every_batch() -> None:
    """The normaliser counts proposals, so that one more foreground row does not dilute others."""
    pred, target = randn(0, 4, 6), randn(1, 4, 6)
    one = box3d_regression_loss(pred, target, torch.tensor([True, False, False, False]), 4)
    others = box3d_regression_loss(pred, target, torch.tensor([False, True, True, True]), 4)
    both = box3d_regression_loss(pred, target, torch.ones(4, dtype=torch.bool), 4)
    torch.testing.assert_close(one + others, both)


def posed(seed: int, count: int = 12) -> PosedBoxes:
    random = torch.Generator().manual_seed(seed)
    gt = random_ground_truth(count, random)
    box = gt["bbox3d"].double()
    rotation = rotation_from_yaw(gt["alpha"].double().squeeze(1))
    return PosedBoxes(box[:, :2], box[:, 2], box[:, 3:], rotation)


def test_groups_are_disentangled() -> None:
    """An error in one group shows in its own loss and in the joint one only."""
    gt, other = posed(0), posed(1)
    mask, projection = torch.ones(12, dtype=torch.bool), PROJECTION.double()
    groups = ("center_2d", "depth", "dimensions", "rotation")
    for group, name in zip(groups, ("loss_xy", "loss_z", "loss_dims", "loss_pose"), strict=True):
        pred = gt._replace(**{group: getattr(other, group)})
        losses = disentangled_losses(pred, gt, projection, mask)
        wrong = {key for key, value in losses.items() if value > 1e-9}
        assert wrong == {name, "loss_joint"}


def test_front_and_back() -> None:
    """Corners without order do not tell them apart; corners in order do."""
    gt = posed(2)
    turn = rotation_from_yaw(torch.tensor(math.pi, dtype=torch.float64))
    pred = gt._replace(rotation=gt.rotation @ turn)
    mask, projection = torch.ones(12, dtype=torch.bool), PROJECTION.double()
    assert disentangled_losses(pred, gt, projection, mask)["loss_pose"] < 1e-9
    assert disentangled_losses(pred, gt, projection, mask, ordered=True)["loss_pose"] > 0.1


def test_infinite_predictions_are_left_out() -> None:
    gt, pred = posed(3), posed(4)
    kept = torch.arange(12) != 5
    mask, projection = torch.ones(12, dtype=torch.bool), PROJECTION.double()
    expected = disentangled_losses(pred, gt, projection, kept)
    depth = pred.depth.masked_fill(~kept, math.inf).requires_grad_()
    losses = disentangled_losses(pred._replace(depth=depth), gt, projection, mask)
    for name, value in expected.items():
        torch.testing.assert_close(losses[name], value)
    sum(losses.values()).backward()
    assert depth.grad.isfinite().all() and depth.grad[5] == 0


def test_uncertainty() -> None:
    uncertainty = torch.tensor([-3.0, 0.01, 2.0])
    torch.testing.assert_close(
        box_confidence(uncertainty), torch.tensor([0.01, 0.01, 2.0]).neg().exp()
    )
    mask = torch.tensor([True, False, True])
    torch.testing.assert_close(uncertainty_loss(uncertainty, mask, 4), torch.tensor(2.01 / 4))
    pred, target = randn(0, 3, 6), randn(1, 3, 6)
    plain = [box3d_regression_loss(pred, target, torch.arange(3) == row, 3) for row in range(3)]
    weighted = box3d_regression_loss(pred, target, mask, 3, uncertainty=uncertainty.double())
    expected = math.sqrt(2) * (plain[0] * math.exp(-0.01) + plain[2] * math.exp(-2))
    torch.testing.assert_close(weighted, expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_single(dtype: torch.dtype) -> None:
    pred, target = randn(0, 8, 6).to(dtype), randn(1, 8, 6).float()
    mask = torch.ones(8, dtype=torch.bool)
    loss = box3d_regression_loss(pred, target, mask, 8)
    assert loss.dtype == torch.float32
    assert torch.equal(loss, box3d_regression_loss(pred.float(), target, mask, 8))
    bins, residual = torch.arange(8), randn(2, 8).to(dtype)
    logits = randn(3, 8, BINS).to(dtype)
    for half, single in zip(
        yaw_losses(logits, residual, bins, target[:, 0], mask, 8),
        yaw_losses(logits.float(), residual.float(), bins, target[:, 0], mask, 8),
        strict=True,
    ):
        assert half.dtype == torch.float32 and torch.equal(half, single)
