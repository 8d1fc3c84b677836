"""Boxes of agents drawn as ids into bird's-eye-view rasters.

A box is (x, y, length, width, yaw): its centre in metres in the frame of the grid, its sides along
and across its heading, and the heading in radians.
"""

from __future__ import annotations

import cv2
import numpy as np

from roca_nocs.geometry.bev import BevGrid, transform_points

RASTERS = ("centre", "fiery")


def box_corners(boxes: np.ndarray) -> np.ndarray:
    """Corners (N, 4, 2) in metres of boxes (N, 5), in turn around each box."""
    signs = np.array([(1, 1), (1, -1), (-1, -1), (-1, 1)])
    local = 0.5 * boxes[:, None, 2:4] * signs
    return transform_points(boxes[:, None, [0, 1, 4]], local)


def draw_boxes(
    boxes: np.ndarray, ids: np.ndarray, frames: np.ndarray, num_frames: int, grid: BevGrid
) -> np.ndarray:
    """Draw boxes by the centres of cells.

    A cell belongs to a box if its centre lies inside, sides at the low end included and at the high
    end not; a box without any cell claims the one that its centre lies in. Of overlapping boxes the
    smaller wins, of equal ones the later.

    Args:
        boxes: (N, 5).
        ids: (N,) positive numbers.
        frames: (N,) the raster that each box belongs to.
        num_frames: number of rasters.
        grid: of all rasters.

    Returns:
        (num_frames, H, W) int32, 0 where there is no box.
    """
    drawn = np.zeros(num_frames * grid.height * grid.width, np.int32)
    reach = 0.5 * np.hypot(boxes[:, 2], boxes[:, 3])
    order = np.argsort(-boxes[:, 2] * boxes[:, 3], kind="stable")
    near = _near_grid(boxes[order], reach[order], grid)
    order = order[near]
    boxes, ids, frames = boxes[order], np.asarray(ids)[order], np.asarray(frames)[order]
    if not len(boxes):
        return drawn.reshape(num_frames, grid.height, grid.width)
    rows, columns, inside = _covered_cells(boxes, grid)
    inside &= ((rows >= 0) & (rows < grid.height))[:, :, None]
    inside &= ((columns >= 0) & (columns < grid.width))[:, None, :]
    box, row, column = np.nonzero(inside)
    cells = (frames[box] * grid.height + rows[box, row]) * grid.width + columns[box, column]
    # Assignment to repeated indices keeps the last value, here that of the smallest box.
    drawn[cells] = ids[box]
    return drawn.reshape(num_frames, grid.height, grid.width)


def _near_grid(boxes: np.ndarray, reach: np.ndarray, grid: BevGrid) -> np.ndarray:
    """(N,) bool: boxes whose surrounding circle may touch the raster."""
    x, y, cell = boxes[:, 0], boxes[:, 1], grid.resolution
    x_max = grid.x_min + grid.height * cell
    y_max = grid.y_min + grid.width * cell
    margin = reach + cell
    along = (x > grid.x_min - margin) & (x < x_max + margin)
    return along & (y > grid.y_min - margin) & (y < y_max + margin)


def _covered_cells(boxes: np.ndarray, grid: BevGrid) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows (N, K) and columns (N, K) of windows around boxes, and the cells inside (N, K, K)."""
    middle = np.floor(grid.metres_to_cells(boxes[:, :2]) + 0.5).astype(np.int64)
    radius = int(np.ceil(0.5 * np.hypot(boxes[:, 2], boxes[:, 3]).max() / grid.resolution)) + 1
    offsets = np.arange(-radius, radius + 1)
    rows, columns = middle[:, :1] + offsets, middle[:, 1:] + offsets
    x = (rows + 0.5) * grid.resolution + grid.x_min - boxes[:, :1]
    y = (columns + 0.5) * grid.resolution + grid.y_min - boxes[:, 1:2]
    cos, sin = np.cos(boxes[:, 4:]), np.sin(boxes[:, 4:])
    along = (cos * x)[:, :, None] + (sin * y)[:, None, :]
    across = (-sin * x)[:, :, None] + (cos * y)[:, None, :]
    half_length, half_width = 0.5 * boxes[:, 2, None, None], 0.5 * boxes[:, 3, None, None]
    inside = (along >= -half_length) & (along < half_length)
    inside &= (across >= -half_width) & (across < half_width)
    empty = np.flatnonzero(~inside.any(axis=(1, 2)))
    inside[empty, radius, radius] = True
    return rows, columns, inside


def draw_boxes_fiery(
    boxes: np.ndarray, ids: np.ndarray, frames: np.ndarray, num_frames: int, grid: BevGrid
) -> np.ndarray:
    """Draw boxes as the nuScenes labels of FIERY were drawn; arguments as in `draw_boxes`.

    Corners are rounded to whole vertices (halves to even) and polygons filled with their border,
    which makes boxes about half a cell wider and moves them by half a cell against the centres of
    cells. Later boxes win. For the comparison with published figures only.
    """
    drawn = np.zeros((num_frames, grid.height, grid.width), np.int32)
    origin = np.array([grid.x_min, grid.y_min])
    vertices = np.round((box_corners(boxes) - origin) / grid.resolution).astype(np.int32)
    for corners, number, frame in zip(vertices, ids, frames, strict=True):
        cv2.fillPoly(drawn[frame], [np.ascontiguousarray(corners[:, ::-1])], int(number))
    return drawn
