"""ROIAlign, NMS and box losses."""

from __future__ import annotations

import math

import pytest
import torch
from detectron2.layers import ROIAlign, batched_nms, ciou_loss, diou_loss, nms, roi_align
from omegaconf import OmegaConf
from torchvision.ops import box_iou

RAMP = torch.arange(25, dtype=torch.float32).reshape(1, 1, 5, 5)


def test_aligned_shifts_by_half_a_cell() -> None:
    rois = torch.tensor([[0.0, 1, 1, 3, 3]])
    aligned = ROIAlign((4, 4), 1.0, 0, aligned=True)(RAMP, rois)
    legacy = ROIAlign((4, 4), 1.0, 0, aligned=False)(RAMP, rois)
    # The ramp is 5 y + x; cell k of an aligned box starts half a pixel before the corner.
    centres = 1 + (torch.arange(4) + 0.5) / 2
    expected = 5 * centres[:, None] + centres
    torch.testing.assert_close(legacy[0, 0], expected)
    torch.testing.assert_close(aligned[0, 0], expected - 3)


def test_default_is_aligned_and_sizes_are_flexible() -> None:
    assert ROIAlign((1, 1), 1.0, 0).aligned
    rois = torch.tensor([[0.0, 0, 0, 5, 5]])
    size = OmegaConf.create([2, 3])
    assert ROIAlign(size, 1.0, 0)(RAMP, rois).shape == (1, 1, 2, 3)


def test_scale_and_batch_index() -> None:
    features = torch.stack([torch.zeros(1, 4, 4), torch.ones(1, 4, 4)])
    rois = torch.tensor([[1.0, 0, 0, 8, 8], [0.0, 0, 0, 8, 8]])
    pooled = ROIAlign((2, 2), 0.5, 2)(features, rois)
    assert pooled.flatten(1).tolist() == [[1] * 4, [0] * 4]


def test_boxes_follow_the_dtype_of_the_features() -> None:
    pooled = ROIAlign((2, 2), 1.0, 2)(RAMP.double(), torch.tensor([[0.0, 1, 1, 3, 3]]))
    assert pooled.dtype == torch.float64


def test_roi_align_empty_and_malformed() -> None:
    layer = ROIAlign((2, 2), 1.0, 0)
    features = RAMP.clone().requires_grad_()
    pooled = layer(features, torch.zeros(0, 5))
    assert pooled.shape == (0, 1, 2, 2)
    pooled.sum().backward()
    assert features.grad.abs().sum() == 0
    with pytest.raises(AssertionError):
        layer(RAMP, torch.zeros(1, 4))


def test_roi_align_function_is_available() -> None:
    pooled = roi_align(RAMP, torch.tensor([[0.0, 1, 1, 3, 3]]), (1, 1), 1.0, 1, True)
    assert pooled.item() == pytest.approx(5 * 1.5 + 1.5)


def overlapping() -> tuple[torch.Tensor, torch.Tensor]:
    boxes = torch.tensor([[0.0, 0, 10, 10], [1, 0, 11, 10], [20, 20, 30, 30], [0, 0, 10, 9]])
    return boxes, torch.tensor([0.5, 0.9, 0.3, 0.7])


def test_nms() -> None:
    boxes, scores = overlapping()
    assert nms(boxes, scores, 0.5).tolist() == [1, 2]


def test_groups_do_not_suppress_each_other() -> None:
    boxes, scores = overlapping()
    kept = batched_nms(boxes, scores, torch.tensor([0, 1, 0, 0]), 0.5)
    assert kept.tolist() == [1, 3, 2]


def test_batched_nms_in_half_precision() -> None:
    boxes, scores = overlapping()
    groups = torch.tensor([0, 700, 0, 0])
    # With float16 offsets the groups would collide: 700 * 31 is beyond its integers.
    assert batched_nms(boxes.half(), scores, groups, 0.5).tolist() == [1, 3, 2]


def test_batched_nms_empty_and_malformed() -> None:
    kept = batched_nms(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.long), 0.5)
    assert kept.shape == (0,) and kept.dtype == torch.int64
    with pytest.raises(AssertionError):
        batched_nms(torch.zeros(1, 5), torch.zeros(1), torch.zeros(1), 0.5)


def random_boxes(seed: int, count: int = 12) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(count, 2, generator=generator) * 50
    return torch.cat([corner, corner + 1 + torch.rand(count, 2, generator=generator) * 40], dim=1)


@pytest.mark.parametrize("function", [ciou_loss, diou_loss])
def test_iou_losses_of_equal_boxes_are_zero(function: object) -> None:
    boxes = random_boxes(0)
    torch.testing.assert_close(function(boxes, boxes), torch.zeros(12), atol=1e-5, rtol=0)


def test_iou_losses_by_hand() -> None:
    first, second = torch.tensor([[0.0, 0, 2, 2]]), torch.tensor([[1.0, 0, 3, 4]])
    iou = 2 / (4 + 8 - 2)
    distance = (1 + 1) / (9 + 16)
    diou = 1 - iou + distance
    torch.testing.assert_close(diou_loss(first, second), torch.tensor([diou]))
    v = 4 / math.pi**2 * (math.atan(2 / 4) - math.atan(1)) ** 2
    ciou = diou + v * v / (1 - iou + v)
    torch.testing.assert_close(ciou_loss(first, second), torch.tensor([ciou]))


@pytest.mark.parametrize("function", [ciou_loss, diou_loss])
def test_iou_losses_reduce(function: object) -> None:
    first, second = random_boxes(1), random_boxes(2)
    each = function(first, second, reduction="none")
    assert (each >= 1 - box_iou(first, second).diagonal() - 1e-5).all()
    torch.testing.assert_close(function(first, second, reduction="sum"), each.sum())
    torch.testing.assert_close(function(first, second, reduction="mean"), each.mean())


@pytest.mark.parametrize("function", [ciou_loss, diou_loss])
def test_iou_losses_of_nothing(function: object) -> None:
    empty = torch.zeros(0, 4, requires_grad=True)
    for reduction in ("mean", "sum"):
        loss = function(empty, torch.zeros(0, 4), reduction=reduction)
        assert loss.item() == 0
        loss.backward()


@pytest.mark.parametrize("function", [ciou_loss, diou_loss])
@pytest.mark.parametrize("box", [[2.0, 0, 1, 1], [0.0, 2, 1, 1]])
def test_iou_losses_refuse_inverted_boxes(function: object, box: list[float]) -> None:
    with pytest.raises(AssertionError, match="bad box"):
        function(torch.tensor([box]), torch.tensor([[0.0, 0, 1, 1]]))
