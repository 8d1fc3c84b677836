"""Projections, projected boxes, and how both follow the image."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from geometry.mono3d_cases import random_scene
from roca_nocs.geometry.cuboids import box_corners, rotation_from_yaw, yaw_from_rotation
from roca_nocs.geometry.projection import (
    back_project_points,
    clip_boxes,
    crop_projection,
    flip_centers,
    flip_projection,
    flip_rotation,
    flip_yaw,
    project_box,
    project_points,
    projection_from_intrinsics,
    resize_projection,
    truncation,
)

few = settings(max_examples=12, deadline=None)
seeds = st.integers(0, 10**6)
CAMERA = torch.tensor([[700.0, 0, 600, 40], [0, 710, 180, 0.2], [0, 0, 1, 0.003]]).double()


def close(ours: torch.Tensor, expected: torch.Tensor, atol: float = 1e-9) -> None:
    torch.testing.assert_close(ours, expected, rtol=1e-9, atol=atol)


@few
@given(seeds, st.floats(-30, 30))
def test_back_projection_inverts_projection(seed: int, skew: float) -> None:
    scene = random_scene(40, seed)
    projection = scene.projection.clone()
    projection[:, 0, 1] = skew
    pixels, depth = project_points(scene.center[:, None], projection)
    close(back_project_points(pixels, depth, projection).squeeze(1), scene.center)


def test_points_behind_have_no_pixel() -> None:
    pixels, depth = project_points(torch.tensor([[0.0, 0, 2], [0, 0, -1], [0, 0, 0]]), CAMERA)
    assert pixels[0].isfinite().all() and pixels[1].isnan().all()
    assert depth[1] < 0 < depth[0] and depth[2] > 0


@few
@given(seeds, st.floats(0.2, 4), st.floats(0.2, 4), st.floats(-300, 300), st.floats(-300, 300))
def test_resize_and_crop(seed: int, sx: float, sy: float, x: float, y: float) -> None:
    scene = random_scene(40, seed)
    points, projection = scene.center[:, None], scene.projection
    pixels, depth = project_points(points, projection)
    for moved, expected in (
        (resize_projection(projection, sx, sy), pixels * pixels.new_tensor([sx, sy])),
        (crop_projection(projection, x, y), pixels - pixels.new_tensor([x, y])),
    ):
        again, same = project_points(points, moved)
        close(again, expected, 1e-8)
        assert torch.equal(same, depth)


@few
@given(seeds)
def test_flip(seed: int) -> None:
    """The flipped label is the label of the mirrored solid, in pixels and in space."""
    scene = random_scene(40, seed)
    width = scene.size[0]
    rotation = rotation_from_yaw(scene.rotation_y)
    corners = box_corners(scene.center, scene.dimensions, rotation)
    mirrored = box_corners(flip_centers(scene.center), scene.dimensions, flip_rotation(rotation))
    # The width axis of the box is mirrored: corners swap with those across it.
    close(mirrored[:, [4, 5, 6, 7, 0, 1, 2, 3]], flip_centers(corners))
    assert torch.linalg.det(flip_rotation(rotation)).sub(1).abs().max() < 1e-12
    close(flip_rotation(rotation), rotation_from_yaw(flip_yaw(scene.rotation_y)), 1e-12)
    heading = yaw_from_rotation(flip_rotation(rotation))
    close(
        torch.stack([heading.cos(), heading.sin()]),
        torch.stack([(math.pi - scene.rotation_y).cos(), (math.pi - scene.rotation_y).sin()]),
    )
    flipped = flip_projection(scene.projection, width)
    x1, y1, x2, y2 = project_box(corners, scene.projection).unbind(1)
    expected = torch.stack([width - x2, y1, width - x1, y2], dim=1)
    torch.testing.assert_close(project_box(mirrored, flipped), expected, rtol=1e-8, atol=1e-6)
    close(flip_projection(flipped, width), scene.projection)


@few
@given(seeds)
def test_projected_box_holds_the_visible_part(seed: int) -> None:
    scene = random_scene(60, seed)
    # Many of these boxes reach behind the camera.
    center = scene.center * scene.center.new_tensor([0.1, 0.1, 0.02])
    rotation = rotation_from_yaw(scene.rotation_y)
    box = project_box(box_corners(center, scene.dimensions, rotation), scene.projection, near=0.1)
    random = torch.Generator().manual_seed(seed)
    inside = 2 * torch.rand(60, 400, 3, generator=random, dtype=torch.float64) - 1
    # Half of the samples lie on the twelve edges, where the extremes are.
    inside[:, ::2] = inside[:, ::2].sign()
    axis = torch.arange(200) % 3
    inside[:, torch.arange(0, 400, 2), axis] = (
        2 * torch.rand(60, 200, generator=random).double() - 1
    )
    own = inside * scene.dimensions.flip(1)[:, None] / 2
    points = (own @ rotation.mT) + center[:, None]
    pixels, depth = project_points(points, scene.projection)
    visible = depth >= 0.1
    assert visible.any(dim=1).sum() > 20 and not visible.all(dim=1).all()
    low, high = box[:, None, :2], box[:, None, 2:]
    slack = 1e-6 * (1 + pixels.abs())
    within = ((pixels >= low - slack) & (pixels <= high + slack)).all(dim=-1)
    assert (within | ~visible).all()


def test_box_before_the_near_plane() -> None:
    center = torch.tensor([[0.0, 0, -5], [0, 0, 10]], dtype=torch.float64)
    rotation = torch.eye(3, dtype=torch.float64).expand(2, 3, 3)
    corners = box_corners(center, torch.ones(2, 3, dtype=torch.float64), rotation)
    corners.requires_grad_()
    boxes = project_box(corners, CAMERA)
    assert boxes[0].isnan().all() and boxes[1].isfinite().all()
    boxes[1].sum().backward()
    assert corners.grad.isfinite().all()
    assert project_box(torch.zeros(0, 8, 3), CAMERA.float()).shape == (0, 4)


def test_truncation() -> None:
    boxes = torch.tensor([[-50.0, 0, 50, 10], [0, 0, 10, 10], [200, 0, 300, 10], [5, 5, 5, 5]])
    assert truncation(boxes, (100, 50)).tolist() == [0.5, 0, 1, 0]
    assert clip_boxes(boxes, (100, 50))[2].tolist() == [100, 0, 100, 10]


def test_intrinsics_have_no_fourth_column() -> None:
    projection = projection_from_intrinsics(CAMERA[:, :3])
    assert torch.equal(projection[:, :3], CAMERA[:, :3]) and not projection[:, 3].any()


@pytest.mark.parametrize("yaw", [0.0, -math.pi / 2, math.pi / 3])
def test_heading_of_a_turned_box(yaw: float) -> None:
    rotation = rotation_from_yaw(torch.tensor(yaw, dtype=torch.float64))
    # The length axis points to +x at 0 and away from the camera at -pi / 2.
    axis = torch.tensor([math.cos(yaw), 0, -math.sin(yaw)], dtype=torch.float64)
    close(rotation[:, 0], axis)
    close(yaw_from_rotation(rotation), torch.tensor(yaw, dtype=torch.float64))
