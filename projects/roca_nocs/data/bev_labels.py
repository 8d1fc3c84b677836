"""Labels derived from instance ids in the bird's-eye view: centres, offsets and flows.

Instance maps are (T, H, W) integers, 0 = background, with ids that are constant in a clip. Where a
label says nothing it is :data:`IGNORE`. Two orders of channels are in use: (row, column) for
offsets and forward flow, as in FIERY, and (column, row) for backward flows, as in PowerBEV.
"""

from __future__ import annotations

import numpy as np

from roca_nocs.geometry.bev import BevGrid, relative_pose, transform_points

IGNORE = 255
SIGMA = 3.0


def instance_ids(instance: np.ndarray) -> np.ndarray:
    """All ids but the background's, ascending, in a map of any shape."""
    if instance.max(initial=0) > instance.size:
        ids = np.unique(instance)
        return ids[ids > 0]
    # Far fewer ids than cells: counting is faster than sorting.
    return (np.flatnonzero(np.bincount(instance.ravel())[1:]) + 1).astype(instance.dtype)


def instance_centres(instance: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Where the instances of a clip are.

    Args:
        instance: (T, H, W).

    Returns:
        ids: (N,) all ids of the clip, ascending.
        centres: (T, N, 2) float64 mean (row, column) of each mask, NaN where it is empty.
        rows: (T, H, W) int64, the entry of ``ids`` at each cell, -1 = background.
    """
    frames = len(instance)
    ids, rows = np.unique(instance, return_inverse=True)
    rows = rows.reshape(instance.shape) - int(np.searchsorted(ids, 1))
    ids = ids[ids > 0]
    rows = np.maximum(rows, -1)
    time, row, column = np.nonzero(rows >= 0)
    slot = time * len(ids) + rows[time, row, column]
    size = frames * len(ids)
    area = np.bincount(slot, minlength=size).astype(np.float64)
    sums = [np.bincount(slot, weights=each, minlength=size) for each in (row, column)]
    with np.errstate(invalid="ignore"):
        centres = np.stack(sums, axis=-1) / area[:, None]
    return ids, centres.reshape(frames, len(ids), 2), rows


def centerness(instance: np.ndarray, sigma: float = SIGMA) -> np.ndarray:
    """Heat of the nearest centre: the maximum over instances of exp(-distance^2 / sigma^2).

    There is no factor 2 in the exponent, and centres are rounded, as in FIERY.

    Args:
        instance: (T, H, W).
        sigma: cells.

    Returns:
        (T, 1, H, W) float32.
    """
    _, centres, _ = instance_centres(instance)
    heat = np.zeros(instance.shape, np.float32)
    for time, found in enumerate(np.round(centres)):
        found = found[np.isfinite(found[:, 0])]
        along, across = (
            np.exp(-((np.arange(size) - found[:, axis, None]) ** 2) / sigma**2).astype(np.float32)
            for axis, size in enumerate(instance.shape[1:])
        )
        for one, other in zip(along, across, strict=True):
            np.maximum(heat[time], one[:, None] * other, out=heat[time])
    return heat[:, None]


def centre_offsets(instance: np.ndarray) -> np.ndarray:
    """(T, 2, H, W) int16 (row, column) from each foreground cell to its rounded centre."""
    _, centres, rows = instance_centres(instance)
    return _on_foreground(_cells_to(np.round(centres), rows), rows).astype(np.int16)


def forward_flow(instance: np.ndarray, next_in_this: np.ndarray) -> np.ndarray:
    """Motion of the rounded centre of each instance to the next frame, as FIERY defines it.

    Args:
        instance: (T, H, W).
        next_in_this: (T - 1, H, W), entry t the ids of frame t + 1 warped into frame t.

    Returns:
        (T, 2, H, W) int16 (row, column), 255 where there is no next centre.
    """
    ids, centres, rows = instance_centres(instance)
    moved = np.full_like(centres, np.nan)
    later, later_centres, _ = instance_centres(next_in_this)
    known = np.isin(later, ids)
    moved[:-1, np.searchsorted(ids, later[known])] = later_centres[:, known]
    # An instance has a flow only where the unwarped next frame shows it too.
    moved[:-1][np.isnan(centres[1:])] = np.nan
    motion = np.round(moved) - np.round(centres)
    return _on_foreground(_picked(motion, rows), rows).astype(np.int16)


def centripetal_backward_flow(instance: np.ndarray) -> np.ndarray:
    """(T, 2, H, W) float32 (column, row) from each cell to its centre one frame before.

    All frames are in one ego frame. PowerBEV's definition, with rounded centres.
    """
    _, centres, rows = instance_centres(instance)
    before = np.concatenate([np.full_like(centres[:1], np.nan), centres[:-1]])
    flow = _cells_to(np.round(before), rows)[:, ::-1]
    return _on_foreground(flow, rows).astype(np.float32)


def rigid_backward_flow(
    instance: np.ndarray, ids: np.ndarray, poses: np.ndarray, grid: BevGrid
) -> np.ndarray:
    """Where the material point of each cell was one frame before, relative to the cell.

    Args:
        instance: (T, H, W), all frames in one ego frame.
        ids: (N,) of the agents.
        poses: (T, N, 3) of the agents in that frame, NaN where they are not known.
        grid: of the maps.

    Returns:
        (T, 2, H, W) float32 (column, row) in cells; 255 on the background, in the first frame, and
        where one of the two poses is not known.
    """
    flow = np.full((len(instance), 2, *instance.shape[1:]), IGNORE, np.float32)
    order = np.argsort(ids, kind="stable")
    ids, poses = np.asarray(ids)[order], poses[:, order]
    time, row, column = np.nonzero((instance > 0) & (np.arange(len(instance)) > 0)[:, None, None])
    at_cell = instance[time, row, column]
    slot = np.searchsorted(ids, at_cell)
    known = np.zeros(len(slot), bool)
    within = slot < len(ids)
    known[within] = ids[slot[within]] == at_cell[within]
    time, row, column, slot = (each[known] for each in (time, row, column, slot))
    points = grid.cells_to_metres(np.stack([row, column], axis=-1).astype(np.float64))
    local = relative_pose(poses[time, slot], np.column_stack([points, np.zeros(len(points))]))
    moved = (transform_points(poses[time - 1, slot], local[:, :2]) - points) / grid.resolution
    finite = np.isfinite(moved).all(axis=-1)
    time, row, column, moved = (each[finite] for each in (time, row, column, moved))
    flow[time, 0, row, column] = moved[:, 1]
    flow[time, 1, row, column] = moved[:, 0]
    return flow


def normalised_boxes(masks: np.ndarray) -> np.ndarray:
    """Boxes (N, 4) float32 (cx, cy, w, h) in [0, 1] of masks (N, H, W) bool, none of them empty."""
    height, width = masks.shape[1:]
    boxes = np.zeros((len(masks), 4), np.float32)
    for axis, size, other in ((0, width, 1), (1, height, 2)):
        hit = masks.any(axis=other)
        first = hit.argmax(axis=1)
        last = size - hit[:, ::-1].argmax(axis=1)
        boxes[:, axis] = (first + last) / (2 * size)
        boxes[:, axis + 2] = (last - first) / size
    return boxes


def _cells_to(targets: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """(T, 2, H, W) (row, column) from each cell to the target (T, N, 2) of its instance."""
    cells = np.stack(np.meshgrid(*map(np.arange, rows.shape[1:]), indexing="ij"))
    return _picked(targets, rows) - cells


def _picked(values: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """(T, 2, H, W): the value (T, N, 2) of the instance at each cell, NaN on the background."""
    # A last entry for the background, which -1 picks.
    padded = np.concatenate([values, np.full((len(values), 1, 2), np.nan)], axis=1)
    time = np.arange(len(values))[:, None, None]
    return np.moveaxis(padded[time, rows], -1, 1)


def _on_foreground(values: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Values (T, 2, H, W) with 255 on the background and where they are not known."""
    known = (rows >= 0)[:, None] & np.isfinite(values)
    return np.where(known, values, IGNORE)
