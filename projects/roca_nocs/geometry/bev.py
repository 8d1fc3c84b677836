"""Bird's-eye-view rasters: the grid, planar poses, and the exact warp between ego frames.

The frame of a raster has x forward and y left, in metres. Cell (i, j) has row i along x and column
j along y, and its centre at ``x = x_min + (i + 1/2) resolution``, ``y = y_min + (j + 1/2)
resolution``: forward is down in the array. A planar pose is (x, y, yaw) in metres and radians and
maps coordinates of its own frame to the frame that it is given in. Where nothing else is said,
functions take NumPy arrays and tensors alike and keep their dtype.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar, cast

import numpy as np
import torch
import torch.nn.functional as F

Array = TypeVar("Array", np.ndarray, torch.Tensor)


@dataclass(frozen=True)
class BevGrid:
    """Where the cells of a raster lie.

    Attributes:
        x_min: lower edge of row 0, metres.
        y_min: lower edge of column 0, metres.
        resolution: side of a cell, metres.
        height: number of rows.
        width: number of columns.

    Raises:
        ValueError: a size is not positive.
    """

    x_min: float
    y_min: float
    resolution: float
    height: int
    width: int

    def __post_init__(self) -> None:
        if min(self.height, self.width) < 1 or not self.resolution > 0:
            raise ValueError(
                f"A grid of {self.height} x {self.width} cells of {self.resolution} m has no cells;"
                " height, width and resolution must be positive."
            )

    @classmethod
    def centred(cls, height: int, width: int, resolution: float) -> BevGrid:
        """The grid whose middle is the origin of its frame."""
        return cls(-0.5 * height * resolution, -0.5 * width * resolution, resolution, height, width)

    def cells_to_metres(self, cells: Array) -> Array:
        """(..., 2) (row, column), fractions allowed, to (..., 2) (x, y)."""
        x = (cells[..., 0] + 0.5) * self.resolution + self.x_min
        y = (cells[..., 1] + 0.5) * self.resolution + self.y_min
        return _stack(x, y)

    def metres_to_cells(self, points: Array) -> Array:
        """(..., 2) (x, y) to (..., 2) (row, column); integers are centres of cells."""
        row = (points[..., 0] - self.x_min) / self.resolution - 0.5
        column = (points[..., 1] - self.y_min) / self.resolution - 0.5
        return _stack(row, column)

    def normalised_to_metres(self, centres: Array) -> Array:
        """(..., 2) normalised box centres (cx along columns, cy along rows) to (..., 2) (x, y)."""
        x = centres[..., 1] * (self.resolution * self.height) + self.x_min
        y = centres[..., 0] * (self.resolution * self.width) + self.y_min
        return _stack(x, y)

    def metres_to_normalised(self, points: Array) -> Array:
        """(..., 2) (x, y) to (..., 2) normalised (cx along columns, cy along rows)."""
        cx = (points[..., 1] - self.y_min) / (self.resolution * self.width)
        cy = (points[..., 0] - self.x_min) / (self.resolution * self.height)
        return _stack(cx, cy)

    def cell_centres(self) -> np.ndarray:
        """(height, width, 2) float64 (x, y) of all cells."""
        rows, columns = np.meshgrid(np.arange(self.height), np.arange(self.width), indexing="ij")
        return self.cells_to_metres(np.stack([rows, columns], axis=-1).astype(np.float64))

    def inside(self, points: Array) -> Array:
        """(...) bool: whether points (..., 2) (x, y) lie in the raster."""
        return self.has_cells(self.metres_to_cells(points))

    def has_cells(self, cells: Array) -> Array:
        """(...) bool: whether cells (..., 2) (row, column) are in the raster, fractions allowed."""
        rows, columns = cells[..., 0] + 0.5, cells[..., 1] + 0.5
        within_rows = (rows >= 0) & (rows < self.height)
        return within_rows & (columns >= 0) & (columns < self.width)


def compose_poses(outer: Array, inner: Array) -> Array:
    """Pose (..., 3) of ``outer @ inner``: ``inner`` is given in the frame of ``outer``."""
    position = transform_points(outer, inner[..., :2])
    return _stack(position[..., 0], position[..., 1], outer[..., 2] + inner[..., 2])


def relative_pose(frame: Array, pose: Array) -> Array:
    """Pose (..., 3) in ``frame``, both given in one common frame: ``frame^-1 @ pose``.

    With poses of an ego vehicle in the world it is the transform from the ego frame of ``pose`` to
    that of ``frame``. The yaw is not wrapped.
    """
    cos, sin = _cos_sin(frame[..., 2])
    x, y = pose[..., 0] - frame[..., 0], pose[..., 1] - frame[..., 1]
    return _stack(cos * x + sin * y, cos * y - sin * x, pose[..., 2] - frame[..., 2])


def transform_points(pose: Array, points: Array) -> Array:
    """Points (..., 2) from the frame of a pose (..., 3) to the frame that the pose is given in."""
    cos, sin = _cos_sin(pose[..., 2])
    x, y = points[..., 0], points[..., 1]
    return _stack(cos * x - sin * y + pose[..., 0], sin * x + cos * y + pose[..., 1])


def source_cells(src_from_dst: torch.Tensor, grid: BevGrid) -> torch.Tensor:
    """Where the cells of warped rasters come from.

    Args:
        src_from_dst: (B, 3) poses of the destination frames in the source frames.
        grid: of source and destination.

    Returns:
        (B, H, W, 2) float64 (row, column) in the sources.
    """
    centres = torch.from_numpy(grid.cell_centres()).to(src_from_dst.device)
    points = transform_points(src_from_dst.double()[:, None, None], centres[None])
    return grid.metres_to_cells(points)


def warp_bev(
    maps: torch.Tensor, src_from_dst: torch.Tensor, grid: BevGrid, mode: str = "bilinear"
) -> torch.Tensor:
    """Rasters of other ego frames as they look in the destination frames; zero from outside.

    Args:
        maps: (B, C, H, W); floating point for ``"bilinear"``, any dtype for ``"nearest"``, whose
            values stay exact.
        src_from_dst: (B, 3) poses (x, y, yaw) of the destination frames in the source frames, i.e.
            ``relative_pose(source, destination)`` of the poses in the world.
        grid: of source and destination.
        mode: ``"bilinear"`` for features, ``"nearest"`` for labels and ids.

    Returns:
        (B, C, H, W), the dtype of ``maps``. The positions are computed in float64.

    Raises:
        ValueError: the sizes do not fit, or ``mode`` is unknown.
    """
    if maps.shape[-2:] != (grid.height, grid.width) or len(src_from_dst) != len(maps):
        raise ValueError(
            f"maps {tuple(maps.shape)} and poses {tuple(src_from_dst.shape)} do not fit a grid of "
            f"{grid.height} x {grid.width}; expected (B, C, {grid.height}, {grid.width}), (B, 3)"
        )
    cells = source_cells(src_from_dst, grid)
    if mode == "nearest":
        return sample_nearest(maps, cells)
    if mode != "bilinear":
        raise ValueError(f"mode is {mode!r}; expected 'bilinear' or 'nearest'")
    return F.grid_sample(maps, normalised_positions(cells).to(maps.dtype), align_corners=False)


def normalised_positions(cells: torch.Tensor) -> torch.Tensor:
    """Positions (B, H, W, 2) (row, column) as ``grid_sample`` (align_corners False) wants them."""
    height, width = cells.shape[1:3]
    size = cells.new_tensor([width, height])
    return (2 * cells.flip(-1) + 1) / size - 1


def sample_nearest(maps: torch.Tensor, cells: torch.Tensor) -> torch.Tensor:
    """Values of maps (B, C, H, W) at the nearest of cells (B, H, W, 2) (row, column).

    Halves go to the upper cell; positions outside the map give zero.
    """
    height, width = maps.shape[-2:]
    rows, columns = (cells + 0.5).floor().long().unbind(-1)
    inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
    index = torch.where(inside, rows * width + columns, 0).flatten(1)
    picked = maps.flatten(2).gather(2, index[:, None].expand(-1, maps.shape[1], -1))
    return (picked * inside.flatten(1)[:, None]).view_as(maps)


def pose_vector_to_matrix(vectors: Array) -> Array:
    """(..., 6) (tx, ty, tz, rx, ry, rz) to (..., 4, 4); the rotation is Rx Ry Rz, radians."""
    (cx, sx), (cy, sy), (cz, sz) = (_cos_sin(vectors[..., axis]) for axis in (3, 4, 5))
    zero, one = 0 * cx, 0 * cx + 1
    rows = [
        _stack(cy * cz, -cy * sz, sy, vectors[..., 0]),
        _stack(cx * sz + sx * sy * cz, cx * cz - sx * sy * sz, -sx * cy, vectors[..., 1]),
        _stack(sx * sz - cx * sy * cz, sx * cz + cx * sy * sz, cx * cy, vectors[..., 2]),
        _stack(zero, zero, zero, one),
    ]
    if isinstance(vectors, torch.Tensor):
        return torch.stack(cast(list[torch.Tensor], rows), dim=-2)
    return np.stack(cast(list[np.ndarray], rows), axis=-2)


def matrix_to_pose_vector(matrices: Array) -> Array:
    """(..., 4, 4) to (..., 6), the inverse of :func:`pose_vector_to_matrix` for |ry| < pi/2."""
    if isinstance(matrices, torch.Tensor):
        arctan2, arcsin = torch.atan2, torch.asin
    else:
        arctan2, arcsin = np.arctan2, np.arcsin
    return _stack(
        *(matrices[..., axis, 3] for axis in range(3)),
        arctan2(-matrices[..., 1, 2], matrices[..., 2, 2]),
        arcsin(matrices[..., 0, 2].clip(-1, 1)),
        arctan2(-matrices[..., 0, 1], matrices[..., 0, 0]),
    )


def ego_motion_vectors(poses: np.ndarray) -> np.ndarray:
    """6-DoF motion vectors of a sequence of planar poses.

    Args:
        poses: (T, 3) float64 of the ego vehicle in the world.

    Returns:
        (T, 6) float32: entry t is the vector of P_{t+1}^-1 P_t, which maps coordinates of frame t
        to frame t+1; zero for the last frame.
    """
    vectors = np.zeros((len(poses), 6), np.float32)
    step = relative_pose(poses[1:], poses[:-1])
    vectors[:-1, :2] = step[:, :2]
    vectors[:-1, 5] = (step[:, 2] + np.pi) % (2 * np.pi) - np.pi
    return vectors


def _cos_sin(angle: Array) -> tuple[Array, Array]:
    if isinstance(angle, torch.Tensor):
        return torch.cos(angle), torch.sin(angle)
    return np.cos(angle), np.sin(angle)


def _stack(*parts: Array) -> Array:
    """Arrays (...) as the last axis of one."""
    if isinstance(parts[0], torch.Tensor):
        return torch.stack(torch.broadcast_tensors(*cast(tuple[torch.Tensor, ...], parts)), dim=-1)
    return np.stack(np.broadcast_arrays(*cast(tuple[np.ndarray, ...], parts)), axis=-1)
