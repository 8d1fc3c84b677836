"""Grids of regions and samples at them."""

import pytest
import torch

from roca_nocs.geometry.camera import project
from roca_nocs.geometry.roi_grid import (
    back_project_grid,
    masked_bounding_box,
    normalize_grid,
    roi_pixel_grid,
    sample_at_grid,
)

SIZES = torch.tensor([[6, 8]])


def test_pixels_by_hand() -> None:
    # 0.5 and 2.5 round to even; the right corner is clipped; three columns for four samples.
    boxes = torch.tensor([[4.6, 0.5, 99.0, 2.5], [-7.0, -9.0, 2.0, 2.0], [3.2, 1.0, 3.4, 5.0]])
    grid = roi_pixel_grid(boxes, SIZES.expand(3, 2), 4)
    assert grid[0, 0, 0].tolist() == [5, 5, 6, 7]
    assert grid[0, 1, :, 0].tolist() == [0, 0, 1, 1]
    assert grid[1, 0, 2].tolist() == [0, 0, 1, 1]
    assert not grid[2].any()
    assert grid.dtype == torch.float32


def test_boxes_outside_the_image_are_empty() -> None:
    boxes = torch.tensor([[9.0, 1.0, 12.0, 4.0], [-5.0, 0.0, -1.0, 3.0], [3.0, 3.0, 1.0, 5.0]])
    assert not roi_pixel_grid(boxes, SIZES.expand(3, 2), 4).any()


def test_normalized_corners() -> None:
    grid = torch.tensor([[0.0, 7.0], [0.0, 5.0]])[None, :, None]
    assert normalize_grid(grid, SIZES).flatten(1).tolist() == [[-1, 1, -1, 1]]


@pytest.mark.parametrize("size", [(6, 8), (5, 7), (5, 8)])
def test_samples_and_their_border(size: tuple[int, int]) -> None:
    height, width = size
    # The canvas is larger than the image, as it is in a padded batch.
    maps = torch.arange(1.0, 1 + 2 * 3 * 8 * 10).reshape(2, 3, 8, 10).requires_grad_()
    boxes = torch.tensor([[0.0, 0.0, width, height]] * 2)
    sizes = torch.tensor([size] * 2)
    images = torch.tensor([1, 0])
    grid = roi_pixel_grid(boxes, sizes, 8)
    plain = sample_at_grid(maps, grid, images, sizes, border_compat=False)
    x, y = grid.long().unbind(1)
    expected = torch.stack([maps[1][:, y[0], x[0]], maps[0][:, y[1], x[1]]])
    assert torch.equal(plain, expected)
    compat = sample_at_grid(maps, grid, images, sizes)
    zero = ((x == width - 1) & (width % 2 == 0)) | ((y == height - 1) & (height % 2 == 0))
    assert torch.equal(compat, plain * ~zero[:, None])
    (gradient,) = torch.autograd.grad(compat.sum(), maps)
    assert gradient.sum() == 3 * (~zero).sum()


def test_back_projection_inverts_the_projection() -> None:
    intrinsics = torch.tensor([[[7.0, 0.3, 3.5], [0, 8, 2.5], [0, 0, 1]]])
    grid = roi_pixel_grid(torch.tensor([[1.0, 1.0, 7.0, 5.0]]), SIZES, 4)
    depth = torch.rand(1, 1, 4, 4, generator=torch.Generator().manual_seed(0)) + 0.5
    points = back_project_grid(depth, grid, intrinsics)
    torch.testing.assert_close(points[:, 2:], depth)
    pixels = project(points.flatten(2).mT, intrinsics)
    torch.testing.assert_close(pixels, grid.flatten(2).mT)


def test_masked_box_without_pixels_and_without_regions() -> None:
    points = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(1)).requires_grad_()
    valid = torch.zeros(2, 1, 4, 4, dtype=torch.bool)
    valid[0, 0, 1, 2] = True
    minimum, maximum = masked_bounding_box(points, valid)
    assert torch.equal(minimum[0], points[0, :, 1, 2]) and torch.equal(maximum[0], minimum[0])
    assert not minimum[1].any() and not maximum[1].any()
    (gradient,) = torch.autograd.grad((minimum + maximum).sum(), points)
    assert gradient[0].sum() == 6 and not gradient[1].any()
    empty = masked_bounding_box(points[:0], valid[:0])
    assert [each.shape for each in empty] == [(0, 3), (0, 3)]


def test_no_regions() -> None:
    sizes = SIZES[:0]
    grid = roi_pixel_grid(torch.zeros(0, 4), sizes, 4)
    assert grid.shape == (0, 2, 4, 4)
    samples = sample_at_grid(torch.rand(1, 2, 6, 8), grid, torch.zeros(0).long(), sizes)
    assert samples.shape == (0, 2, 4, 4)
    points = back_project_grid(samples[:, :1], grid, torch.zeros(0, 3, 3))
    assert points.shape == (0, 3, 4, 4)
