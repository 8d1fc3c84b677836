"""The ego-motion warp of FIERY, kept to reproduce label tensors that were published with it.

It moves an affine grid of *normalised* coordinates by a planar rotation and translation. For
straight motion and for a single step along an arc that equals the exact warp of
:func:`roca_nocs.geometry.bev.warp_bev`. For sideways motion it moves features the wrong way, on
rasters with unequal sides it shears, and over several steps it multiplies the motions of the past
in the wrong order. Nothing but compatibility speaks for it.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from .bev import matrix_to_pose_vector, pose_vector_to_matrix


def fiery_warp(
    maps: torch.Tensor,
    motion: torch.Tensor,
    spatial_extent: tuple[float, float],
    mode: str = "nearest",
) -> torch.Tensor:
    """Warp rasters (B, C, H, W) by 6-DoF motions from their frames to the destination frames.

    Args:
        maps: floating point.
        motion: (B, 6), of :func:`~roca_nocs.geometry.bev.ego_motion_vectors`.
        spatial_extent: half the side of the raster along x and along y, metres.
        mode: of ``grid_sample``.

    Returns:
        (B, C, H, W), zero from outside.
    """
    cos, sin = torch.cos(motion[:, 5]), torch.sin(motion[:, 5])
    forward, left = -motion[:, 0] / spatial_extent[0], motion[:, 1] / spatial_extent[1]
    rows = torch.stack([cos, -sin, left, sin, cos, forward], dim=-1)
    affine = rows.view(-1, 2, 3).to(maps.dtype)
    positions = F.affine_grid(affine, list(maps.shape), align_corners=False)
    return F.grid_sample(maps, positions, mode=mode, align_corners=False)


def fiery_past_to_present(
    maps: torch.Tensor,
    motion: torch.Tensor,
    spatial_extent: tuple[float, float],
    mode: str = "bilinear",
) -> torch.Tensor:
    """All frames of clips (B, T, C, H, W) in the frame of the last.

    Args:
        maps: floating point.
        motion: (B, T, 6), entry t from frame t to t+1.
        spatial_extent: half the side of the raster along x and along y, metres.
        mode: of ``grid_sample``.
    """
    steps = pose_vector_to_matrix(motion)
    warped, total = [maps[:, -1]], None
    for time in reversed(range(maps.shape[1] - 1)):
        total = steps[:, time] if total is None else steps[:, time] @ total
        vector = matrix_to_pose_vector(total)
        warped.append(fiery_warp(maps[:, time], vector, spatial_extent, mode))
    return torch.stack(warped[::-1], dim=1)


def fiery_future_to_present(
    maps: torch.Tensor,
    motion: torch.Tensor,
    spatial_extent: tuple[float, float],
    mode: str = "nearest",
) -> torch.Tensor:
    """All frames of clips (B, T, C, H, W) in the frame of the first; arguments as above."""
    steps = pose_vector_to_matrix(motion)
    warped, total = [maps[:, 0]], None
    for time in range(1, maps.shape[1]):
        back = torch.linalg.inv(steps[:, time - 1])
        total = back if total is None else total @ back
        vector = matrix_to_pose_vector(total)
        warped.append(fiery_warp(maps[:, time], vector, spatial_extent, mode))
    return torch.stack(warped, dim=1)
