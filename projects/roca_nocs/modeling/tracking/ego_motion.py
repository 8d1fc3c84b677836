"""Reference points of tracks in the next ego frame of a moving vehicle."""

from __future__ import annotations

import torch

from roca_nocs.geometry.bev import BevGrid, transform_points
from roca_nocs.geometry.boxes import inverse_sigmoid

_OUTSIDE = 0.05
_BORDER = 1e-3
REFERENCE_EPSILON = 1e-5
"""Reference points are clamped this far inside of [0, 1] before the logit (Deformable DETR)."""


def carry_centres(
    centres: torch.Tensor, next_from_now: torch.Tensor, grid: BevGrid
) -> tuple[torch.Tensor, torch.Tensor]:
    """Centres of objects that stand in the world, in the raster of the next frame.

    Args:
        centres: (N, 2) in [0, 1] of the raster, x along columns and y along rows.
        next_from_now: (N, 3) poses (x, y, yaw) of the present ego frame in the next one.
        grid: of both rasters.

    Returns:
        (N, 2) logits of the new centres, clamped to [0.001, 0.999], and (N,) bool: False for those
        that are outside of the raster by more than 5 % of it.
    """
    # A metre matters at a hundred of them: half precision is not enough.
    points = transform_points(
        next_from_now.to(torch.float64), grid.normalised_to_metres(centres.to(torch.float64))
    )
    moved = grid.metres_to_normalised(points)
    near = ((moved >= -_OUTSIDE) & (moved <= 1 + _OUTSIDE)).all(dim=-1)
    moved = moved.clamp(_BORDER, 1 - _BORDER)
    return inverse_sigmoid(moved, REFERENCE_EPSILON).float(), near
