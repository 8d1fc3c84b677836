"""Intrinsics follow the image: a point stays at its place of the picture."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from roca_nocs.geometry.camera import (
    back_project,
    flip_intrinsics,
    pixel_rays,
    project,
    resize_intrinsics,
    roll_homography,
    roll_rotation,
    shift_intrinsics,
)

FOCAL = st.floats(50, 2000)
CENTRE = st.floats(-100, 900)
POINTS = torch.tensor([[0.3, -0.2, 1.5], [-1.0, 0.4, 3.0], [0.0, 0.0, 0.5]], dtype=torch.float64)


def intrinsics_of(fx: float, fy: float, cx: float, cy: float) -> torch.Tensor:
    return torch.tensor([[fx, 0, cx], [0, fy, cy], [0, 0, 1]], dtype=torch.float64)


cameras = st.builds(intrinsics_of, FOCAL, FOCAL, CENTRE, CENTRE)


def test_project_hand_worked() -> None:
    pixels = project(torch.tensor([[1.0, 2.0, 4.0]]), intrinsics_of(100, 200, 10, 20).float())
    assert pixels.tolist() == [[35.0, 120.0]]


@given(cameras)
def test_back_projection_inverts_projection(intrinsics: torch.Tensor) -> None:
    depth = torch.rand(5, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) + 0.5
    points = back_project(depth, intrinsics)
    assert torch.allclose(points[..., 2], depth)
    y, x = torch.meshgrid(torch.arange(5.0), torch.arange(7.0), indexing="ij")
    expected = torch.stack([x, y], dim=-1).double()
    pixels = project(points.reshape(-1, 3), intrinsics).reshape(5, 7, 2)
    assert torch.allclose(pixels, expected, atol=1e-8)


def test_batched_rays() -> None:
    both = torch.stack([intrinsics_of(100, 100, 3, 2), intrinsics_of(50, 60, 1, 1)])
    rays = pixel_rays(both, (4, 6))
    assert rays.shape == (2, 4, 6, 3)
    assert torch.allclose(rays[1], pixel_rays(both[1], (4, 6)))


@given(cameras, st.floats(0.2, 4), st.floats(0.2, 4))
def test_resize_moves_pixels_by_edges(intrinsics: torch.Tensor, sx: float, sy: float) -> None:
    """A position measured from the image's corner scales with the image."""
    before = project(POINTS, intrinsics) + 0.5
    after = project(POINTS, resize_intrinsics(intrinsics, sx, sy)) + 0.5
    assert torch.allclose(after, before * torch.tensor([sx, sy], dtype=torch.float64))


@given(cameras, st.floats(0.2, 4), st.floats(0.2, 4))
def test_resize_round_trip(intrinsics: torch.Tensor, sx: float, sy: float) -> None:
    back = resize_intrinsics(resize_intrinsics(intrinsics, sx, sy), 1 / sx, 1 / sy)
    assert torch.allclose(back, intrinsics, atol=1e-6)


@given(cameras)
def test_shift_and_flip(intrinsics: torch.Tensor) -> None:
    before = project(POINTS, intrinsics)
    shifted = project(POINTS, shift_intrinsics(intrinsics, -3, 5))
    assert torch.allclose(shifted, before + torch.tensor([-3.0, 5.0], dtype=torch.float64))
    mirrored = POINTS * torch.tensor([-1.0, 1, 1], dtype=torch.float64)
    flipped = project(mirrored, flip_intrinsics(intrinsics, 640))
    assert torch.allclose(flipped[:, 0], 639 - before[:, 0])
    assert torch.equal(flip_intrinsics(flip_intrinsics(intrinsics, 640), 640)[1:], intrinsics[1:])


@given(cameras, st.floats(-math.pi, math.pi))
def test_roll_moves_pixels_by_its_homography(intrinsics: torch.Tensor, angle: float) -> None:
    before = torch.cat([project(POINTS, intrinsics), torch.ones(3, 1, dtype=torch.float64)], dim=1)
    turned = project(POINTS @ roll_rotation(angle).mT, intrinsics)
    moved = before @ roll_homography(intrinsics, angle).mT
    assert torch.allclose(moved[:, :2], turned, atol=1e-6)


def test_roll_is_positive_from_x_to_y() -> None:
    turned = roll_rotation(math.pi / 2) @ torch.tensor([1.0, 0, 0], dtype=torch.float64)
    assert turned.tolist() == pytest.approx([0, 1, 0])
