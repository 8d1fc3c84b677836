"""Occupancy grids of point sets."""

from __future__ import annotations

import itertools

import torch


def splat_to_voxels(points: torch.Tensor, valid: torch.Tensor, grid_size: int) -> torch.Tensor:
    """Distribute point sets tri-linearly over grids whose sum is one (ROCA, section 3.4).

    Position -0.5 is the centre of the first cell of an axis, +0.5 that of the last. Shares that
    fall outside the grid are lost before the division by the sum. Differentiable with respect to
    the points.

    Args:
        points: (N, P, 3) as (x, y, z), model frame, unit 1.
        valid: (N, P) bool; a set without a valid point counts as one point at the origin.
        grid_size: cells S along each axis.

    Returns:
        (N, S, S, S), axes (z, y, x).
    """
    count = len(points)
    origin = ~valid.any(dim=1, keepdim=True)
    valid = torch.cat([valid, origin], dim=1)
    # A where before the arithmetic: rejected points may be anything, their gradient is zero.
    points = torch.cat([points, points.new_zeros(count, 1, 3)], dim=1)
    points = torch.where(valid[..., None], points, torch.zeros_like(points))

    position = (points + 0.5) * (grid_size - 1)
    lower = position.detach().floor()
    fraction = position - lower
    set_offset = torch.arange(count, device=points.device)[:, None] * grid_size**3
    grid = points.new_zeros(count * grid_size**3)
    for corner in itertools.product((0, 1), repeat=3):
        offset = torch.tensor(corner, device=points.device)
        weight = torch.where(offset.bool(), fraction, 1 - fraction).prod(dim=-1)
        # Clamped before the conversion: far away points must not overflow the integer.
        cell = (lower + offset).clamp(-1, grid_size).long()
        inside = valid & ((cell >= 0) & (cell < grid_size)).all(dim=-1)
        x, y, z = cell.clamp(0, grid_size - 1).unbind(-1)
        index = set_offset + (z * grid_size + y) * grid_size + x
        grid = grid.index_add(0, index.flatten(), (weight * inside).flatten())
    grid = grid.view(count, grid_size, grid_size, grid_size)
    return grid / grid.sum(dim=(1, 2, 3), keepdim=True).clamp(min=1e-5)
