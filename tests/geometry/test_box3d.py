"""Corners of posed boxes, and the three forms of their IoU."""

import pytest
import torch

from geometry.box3d_cases import random_boxes
from roca_nocs.geometry.box3d import IOU_MODES, corners, elementwise_iou
from roca_nocs.geometry.pose import compose_pose
from roca_nocs.geometry.symmetry import axis_rotations


def posed(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Extents of unit diagonal and poses whose scale is within the matrix."""
    boxes = random_boxes(count, seed, spread=0.3)
    diagonal = boxes.extents.norm(dim=1, keepdim=True)
    pose = compose_pose(boxes.center, boxes.rotation, diagonal.expand(-1, 3))
    return boxes.extents / diagonal, pose


def test_corners() -> None:
    extents = torch.tensor([2.0, 4.0, 6.0])
    pose = compose_pose(torch.tensor([10.0, 0.0, 0.0]), torch.eye(3), torch.full((3,), 2.0))
    points = corners(extents, pose)
    assert points.shape == (8, 3)
    assert points[0].tolist() == [12, 4, 6]
    assert points[1].tolist() == [12, 4, -6]
    assert points[2].tolist() == [8, 4, 6]
    assert points[4].tolist() == [12, -4, 6]
    assert points[7].tolist() == [8, -4, -6]
    many = corners(*posed(5, 0))
    assert many.shape == (5, 8, 3)
    torch.testing.assert_close(many.mean(dim=1), posed(5, 0)[1][:, :3, 3])


@pytest.mark.parametrize("mode", ["aabb", "obb"])
def test_equal_boxes_and_all_pairs(mode: str) -> None:
    extents, pose = posed(6, 1)
    iou = elementwise_iou(extents[:, None], pose[:, None], extents, pose, mode=mode)
    assert iou.shape == (6, 6)
    torch.testing.assert_close(iou.diagonal(), torch.ones(6).double(), rtol=0, atol=1e-9)
    torch.testing.assert_close(iou, iou.mT, rtol=0, atol=1e-12)
    assert (0 <= iou).all() and (iou <= 1).all()
    single = elementwise_iou(extents[2], pose[2], extents[4], pose[4], mode=mode)
    torch.testing.assert_close(single, iou[2, 4])


def test_the_published_form_is_not_a_number_on_the_diagonal_of_space() -> None:
    extents = torch.ones(3, 3)
    centers = torch.tensor([[0.0, 0.0, 0.0], [1.0, 1.0, 1.0], [0.0, 0.0, 5.0]])
    pose = compose_pose(centers, torch.eye(3).expand(3, 3, 3), torch.ones(3, 3))
    iou = elementwise_iou(extents, pose, extents, pose, mode="nocs")
    assert iou.isnan().tolist() == [True, True, False]
    assert iou[2] == 1
    # The maximum over rotations leaves NaN out, as the published code does.
    everywhere = torch.ones(3, dtype=torch.bool)
    iou = elementwise_iou(extents, pose, extents, pose, mode="nocs", symmetric=everywhere)
    assert iou.isfinite().all()


@pytest.mark.parametrize("mode", IOU_MODES)
def test_symmetric_pairs_take_the_best_of_twenty_turns(mode: str) -> None:
    extents, pose = posed(5, 2)
    other_extents, other_pose = posed(5, 3)
    symmetric = torch.tensor([True, False, True, True, False])
    iou = elementwise_iou(extents, pose, other_extents, other_pose, mode=mode, symmetric=symmetric)
    for pair in range(5):
        turns = axis_rotations("y", 20) if symmetric[pair] else axis_rotations("y", 1)
        turned = pose[pair].repeat(len(turns), 1, 1)
        turned[:, :3, :3] = turned[:, :3, :3] @ turns
        each = elementwise_iou(
            extents[pair], turned, other_extents[pair], other_pose[pair], mode=mode
        )
        torch.testing.assert_close(iou[pair], each.max(), rtol=0, atol=1e-12)


def test_no_volume() -> None:
    pose = torch.eye(4)[None]
    for mode in ("aabb", "obb"):
        iou = elementwise_iou(torch.zeros(1, 3), pose, torch.zeros(1, 3), pose, mode=mode)
        assert iou.tolist() == [0]


def test_no_pairs_and_unknown_mode() -> None:
    extents, pose = posed(0, 0)
    for mode in IOU_MODES:
        symmetric = torch.zeros(0, dtype=torch.bool)
        iou = elementwise_iou(extents, pose, extents, pose, mode=mode, symmetric=symmetric)
        assert iou.shape == (0,)
    with pytest.raises(ValueError, match="unknown mode 'giou'"):
        elementwise_iou(extents, pose, extents, pose, mode="giou")
