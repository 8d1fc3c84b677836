"""Where the labels of the future end: at the edge of the raster that is recorded then.

A future frame is annotated in the raster around the vehicle at its time and then brought into the
frame of the present. What the vehicle has left behind by then is empty there, whatever goes on. The
motion of the vehicle is observed, so a model knows where that will be.
"""

from __future__ import annotations

import torch

from roca_nocs.geometry.bev import BevGrid, compose_poses, relative_pose, transform_points


def extrapolate_poses(before: torch.Tensor, present: torch.Tensor, steps: int) -> torch.Tensor:
    """The vehicle's poses if it goes on as it did from the frame before to the present.

    Args:
        before, present: (B, 3) (x, y, yaw) in the world.
        steps: F.

    Returns:
        (B, F + 1, 3), the present first.
    """
    motion, poses = relative_pose(before, present), [present]
    for _ in range(steps):
        poses.append(compose_poses(poses[-1], motion))
    return torch.stack(poses, dim=1)


def covered_cells(poses: torch.Tensor, grid: BevGrid) -> torch.Tensor:
    """Which cells of the raster of the first pose lie in the rasters of all poses.

    Args:
        poses: (B, S, 3) of the vehicle in the world.
        grid: of all rasters.

    Returns:
        (B, S, H, W) bool.
    """
    centres = torch.from_numpy(grid.cell_centres()).to(poses.device)
    then = relative_pose(poses, poses[:, :1]).double()
    return grid.inside(transform_points(then[:, :, None, None], centres))


def cells_ahead(
    poses: torch.Tensor, earlier: torch.Tensor | None, steps: int, grid: BevGrid
) -> torch.Tensor:
    """Which cells of the present lie in its raster and in those of the steps to come.

    Args:
        poses: (B, T, 3) of the vehicle in the observed frames.
        earlier: (B, 3) in the frame before them, used if T is 1; None for a vehicle that stands.
        steps: F.
        grid: of all rasters.

    Returns:
        (B, F + 1, H, W) bool.
    """
    present = poses[:, -1]
    before = present if earlier is None else earlier
    if poses.shape[1] > 1:
        before = poses[:, -2]
    return covered_cells(extrapolate_poses(before, present, steps), grid)
