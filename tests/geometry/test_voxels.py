"""Splatting of points into voxel grids."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from roca_nocs.geometry.voxels import splat_to_voxels


def all_valid(points: torch.Tensor) -> torch.Tensor:
    return torch.ones(points.shape[:2], dtype=torch.bool)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**16), count=st.integers(1, 9), size=st.integers(2, 9))
def test_mass_and_its_centre_are_kept(seed: int, count: int, size: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    points = torch.rand(2, count, 3, generator=generator, dtype=torch.float64) - 0.5
    grids = splat_to_voxels(points, all_valid(points), size)
    axis = torch.linspace(-0.5, 0.5, size, dtype=torch.float64)
    for dim, coordinate in zip((3, 2, 1), range(3), strict=True):  # axes (z, y, x)
        others = [d for d in (1, 2, 3) if d != dim]
        centre = (grids.sum(dim=others) * axis).sum(dim=1)
        torch.testing.assert_close(centre, points[..., coordinate].mean(dim=1))
    torch.testing.assert_close(grids.sum(dim=(1, 2, 3)), torch.ones(2, dtype=torch.float64))


def test_a_point_on_a_cell() -> None:
    points = torch.tensor([[[-0.5, 0.0, 0.5]]])
    grid = splat_to_voxels(points, all_valid(points), 5)
    assert grid[0].nonzero().tolist() == [[4, 2, 0]]


def test_shares_outside_are_lost() -> None:
    points = torch.tensor([[[0.75, 0.0, 0.0], [0.5, 0.0, 0.0], [1e30, 0.0, 0.0]]])
    grid = splat_to_voxels(points, all_valid(points), 3)
    assert grid[0].nonzero().tolist() == [[1, 1, 2]]  # half of the first, all of the second
    assert grid.sum() == 1


def test_gradient() -> None:
    generator = torch.Generator().manual_seed(0)
    points = torch.rand(2, 4, 3, generator=generator, dtype=torch.float64) * 1.1 - 0.55
    valid = torch.tensor([[True, True, False, True], [True, False, False, False]])
    points.requires_grad_()
    assert torch.autograd.gradcheck(lambda p: splat_to_voxels(p, valid, 4), points)


def test_empty_set_is_a_point_at_the_origin() -> None:
    points = torch.full((1, 2, 3), torch.nan, requires_grad=True)
    grid = splat_to_voxels(points, torch.zeros(1, 2, dtype=torch.bool), 3)
    assert grid[0].nonzero().tolist() == [[1, 1, 1]]
    grid.square().sum().backward()
    assert points.grad.abs().sum() == 0


def test_no_sets() -> None:
    points = torch.zeros(0, 7, 3)
    assert splat_to_voxels(points, all_valid(points), 32).shape == (0, 32, 32, 32)
