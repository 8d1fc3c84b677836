"""Boxes in space: angles, bird's-eye view, rotations relative to the viewing ray."""

import math

import roma
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from geometry.box3d_cases import random_boxes
from geometry.mono3d_cases import random_scene
from roca_nocs.geometry.box3d_overlap import pairwise_overlap
from roca_nocs.geometry.cuboids import (
    BOX_EDGES,
    allocentric_rotation,
    alpha_from_rotation_y,
    bev_iou,
    box3d_iou,
    box_corners,
    boxes_from_corners,
    egocentric_rotation,
    oriented_boxes,
    rotation_from_6d,
    rotation_from_yaw,
    rotation_to_6d,
    rotation_y_from_alpha,
)
from roca_nocs.geometry.yaw_bins import wrap_angle

few = settings(max_examples=12, deadline=None)
seeds = st.integers(0, 10**6)


def close(ours: torch.Tensor, expected: torch.Tensor, atol: float = 1e-9) -> None:
    torch.testing.assert_close(ours, expected, rtol=0, atol=atol)


@few
@given(seeds)
def test_corners_and_boxes_are_inverse(seed: int) -> None:
    boxes = random_boxes(30, seed, spread=20)
    dimensions = boxes.extents.flip(1)
    corners = box_corners(boxes.center, dimensions, boxes.rotation)
    for ours, expected in zip(boxes_from_corners(corners), boxes, strict=True):
        close(ours, expected)
    for ours, expected in zip(
        oriented_boxes(boxes.center, dimensions, boxes.rotation), boxes, strict=True
    ):
        assert torch.equal(ours, expected)
    start, end = corners[:, [list(edge) for edge in BOX_EDGES]].unbind(dim=2)
    lengths = (end - start).norm(dim=2).sort(dim=1).values
    close(lengths, boxes.extents.repeat_interleave(4, dim=1).sort(dim=1).values)


@few
@given(seeds)
def test_overlap_of_corners_and_from_above(seed: int) -> None:
    scenes = [random_scene(20, seed + i) for i in range(2)]
    boxes = []
    for scene in scenes:
        center = scene.center * scene.center.new_tensor([0.02, 0, 0.02])
        boxes.append((center, scene.dimensions, rotation_from_yaw(scene.rotation_y)))
    volume, iou = pairwise_overlap(*(oriented_boxes(*each) for each in boxes))
    assert (iou > 0.05).any()
    for ours, expected in zip(
        box3d_iou(*(box_corners(*each) for each in boxes)), (volume, iou), strict=True
    ):
        close(ours, expected)
    rectangles = [
        torch.stack([c[:, 0], c[:, 2], d[:, 2], d[:, 0], scene.rotation_y], dim=1)
        for (c, d, _), scene in zip(boxes, scenes, strict=True)
    ]
    area, _ = bev_iou(*rectangles)
    # All boxes stand around y = 0: the common height is that of the lower box.
    heights = torch.minimum(boxes[0][1][:, None, 1], boxes[1][1][:, 1])
    close(area * heights, volume, 1e-8)
    # Turned back to front it is the same rectangle.
    turned = rectangles[1] + rectangles[1].new_tensor([0, 0, 0, 0, math.pi])
    close(bev_iou(rectangles[0], turned)[0], area)


def test_overlap_from_above_of_nothing() -> None:
    area, iou = bev_iou(torch.zeros(0, 5), torch.ones(3, 5))
    assert area.shape == iou.shape == (0, 3)


@few
@given(seeds)
def test_alpha_and_rotation_y_are_inverse(seed: int) -> None:
    scene = random_scene(60, seed)
    alpha = alpha_from_rotation_y(scene.rotation_y, scene.center)
    assert (-math.pi <= alpha).all() and (alpha < math.pi).all()
    error = wrap_angle(rotation_y_from_alpha(alpha, scene.center) - scene.rotation_y)
    assert error.abs().max() < 1e-12


def test_alpha_is_what_the_camera_sees() -> None:
    """Turning box and position together about the camera leaves alpha as it is."""
    center = torch.tensor([1.0, 0.3, 12.0], dtype=torch.float64)
    yaw = torch.tensor(0.7, dtype=torch.float64)
    turn = torch.linspace(-1.2, 1.2, 9, dtype=torch.float64)
    turned = rotation_from_yaw(turn) @ center
    alpha = alpha_from_rotation_y(yaw + turn, turned)
    close(alpha, alpha_from_rotation_y(yaw, center).expand(9))


@few
@given(seeds)
def test_allocentric(seed: int) -> None:
    rotation = random_boxes(30, seed).rotation
    scene = random_scene(30, seed)
    intrinsics = scene.projection[:, :, :3]
    random = torch.Generator().manual_seed(seed)
    pixels = 1500 * torch.rand(30, 2, generator=random, dtype=torch.float64) - 100
    allocentric = allocentric_rotation(rotation, pixels, intrinsics)
    close(egocentric_rotation(allocentric, pixels, intrinsics), rotation)
    motion = egocentric_rotation(torch.eye(3, dtype=torch.float64), pixels, intrinsics)
    ones = torch.ones(30, 1, dtype=torch.float64)
    ray = torch.linalg.solve(intrinsics, torch.cat([pixels, ones], dim=1))
    ray = ray / ray.norm(dim=1, keepdim=True)
    close(motion[:, :, 2], ray)
    # The smallest such rotation: its axis is normal to both directions.
    vector = roma.rotmat_to_rotvec(motion)
    close(vector[:, 2], torch.zeros(30, dtype=torch.float64))
    close(vector.norm(dim=1), ray[:, 2].acos(), 1e-7)


@few
@given(seeds)
def test_six_numbers_of_a_rotation(seed: int) -> None:
    rotation = random_boxes(20, seed).rotation
    close(rotation_from_6d(rotation_to_6d(rotation)), rotation)
    random = torch.Generator().manual_seed(seed)
    turned = rotation_from_6d(torch.randn(20, 6, generator=random, dtype=torch.float64))
    close(turned @ turned.mT, torch.eye(3, dtype=torch.float64).expand(20, 3, 3))
    close(torch.linalg.det(turned), torch.ones(20, dtype=torch.float64))


def test_six_zeros_have_finite_gradients() -> None:
    numbers = torch.tensor([[0.0] * 6, [1, 0, 0, 2, 0, 0]], requires_grad=True)
    rotation_from_6d(numbers).sum().backward()
    assert numbers.grad.isfinite().all()
