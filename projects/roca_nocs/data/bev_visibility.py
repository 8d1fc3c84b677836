"""What an observer at the origin of a bird's-eye-view raster sees past the agents in it."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from roca_nocs.geometry.bev import BevGrid

from .bev_clip import VISIBILITY_LEVELS

NUM_RAYS = 360
OBSERVED_CHANNELS = ("occupancy", "free", "unknown")


@lru_cache(maxsize=4)
def _ray_tables(grid: BevGrid) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Cells along the rays, and the ray and the sample of each cell.

    Returns:
        along: (NUM_RAYS, S) flat index of the cell at each sample, one cell apart; H * W outside.
        ray: (H * W,) nearest ray of each cell.
        sample: (H * W,) nearest sample of each cell.
    """
    centres = grid.cell_centres().reshape(-1, 2)
    distance = np.hypot(centres[:, 0], centres[:, 1])
    ray = np.round(np.arctan2(centres[:, 1], centres[:, 0]) * (NUM_RAYS / (2 * np.pi)))
    samples = np.arange(int(np.ceil(distance.max() / grid.resolution)) + 1)
    angle = np.arange(NUM_RAYS)[:, None] * (2 * np.pi / NUM_RAYS)
    reach = samples * grid.resolution
    cells = grid.metres_to_cells(np.stack([np.cos(angle) * reach, np.sin(angle) * reach], axis=-1))
    rows, columns = np.moveaxis(np.floor(cells + 0.5).astype(np.int64), -1, 0)
    inside = (rows >= 0) & (rows < grid.height) & (columns >= 0) & (columns < grid.width)
    along = np.where(inside, rows * grid.width + columns, grid.height * grid.width)
    sample = np.round(distance / grid.resolution).astype(np.int16)
    return along, ray.astype(np.int64) % NUM_RAYS, sample


def visible_cells(ids: np.ndarray, grid: BevGrid) -> np.ndarray:
    """Cells that a ray from the origin reaches before it meets another agent.

    Args:
        ids: (T, H, W) of the agents, 0 = free, below 2^15.
        grid: of the maps.

    Returns:
        (T, H, W) bool. An agent does not hide its own cells.
    """
    along, ray, sample = _ray_tables(grid)
    flat = ids.reshape(len(ids), -1)
    hits = np.pad(flat, ((0, 0), (0, 1))).astype(np.int16).take(along, axis=1)
    first_sample, first = _first(hits, hits > 0)
    visible = sample < first_sample.take(ray, axis=1)
    # Where the ray of a cell meets the cell's own agent first, the next one decides.
    time, cell = np.divmod(np.flatnonzero(flat), flat.shape[1])
    own = first[time, ray[cell]] == flat[time, cell]
    time, cell = time[own], cell[own]
    other_sample, _ = _first(hits, (hits > 0) & (hits != first[..., None]))
    visible[time, cell] = sample[cell] < other_sample[time, ray[cell]]
    return visible.reshape(ids.shape)


def _first(hits: np.ndarray, wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sample and id (T, NUM_RAYS) of the first wanted hit; a sample beyond all without one."""
    sample = wanted.argmax(axis=-1)
    found = np.take_along_axis(wanted, sample[..., None], axis=-1)[..., 0]
    number = np.take_along_axis(hits, sample[..., None], axis=-1)[..., 0]
    beyond = np.iinfo(np.int16).max
    return np.where(found, sample, beyond).astype(np.int16), np.where(found, number, 0)


def visibility_classes(drawn: np.ndarray, count: int, grid: BevGrid) -> np.ndarray:
    """Classes of the visible share of agents.

    Args:
        drawn: (T, H, W) ids 1..count.
        count: number of agents.
        grid: of the maps.

    Returns:
        (T, count) uint8: 1 below 40 % of the cells, 2 below 60 %, 3 below 80 %, 4 up to 100 %;
        0 without a cell in the raster.
    """
    seen = visible_cells(drawn, grid)
    occupied = np.flatnonzero(drawn)
    slots = occupied // (grid.height * grid.width) * count + drawn.ravel()[occupied] - 1
    cells = np.bincount(slots, minlength=len(drawn) * count)
    visible = np.bincount(slots[seen.ravel()[occupied]], minlength=len(drawn) * count)
    share = visible / np.maximum(cells, 1)
    classes = 1 + np.searchsorted(VISIBILITY_LEVELS, share, side="right")
    return np.where(cells > 0, classes, 0).astype(np.uint8).reshape(len(drawn), count)


def observe(ids: np.ndarray, grid: BevGrid, raster: np.ndarray) -> None:
    """Write what is seen of agents into the first three channels of a raster.

    Each cell is either occupied by an agent in sight, or free, or unknown.

    Args:
        ids: (T, H, W) of the agents, 0 = free.
        grid: of the maps.
        raster: (T, C >= 3, H, W) uint8, set to 0 or 255 in the order of :data:`OBSERVED_CHANNELS`.
    """
    seen, occupied = visible_cells(ids, grid), ids > 0
    np.multiply(seen & occupied, np.uint8(255), out=raster[:, 0])
    np.multiply(seen & ~occupied, np.uint8(255), out=raster[:, 1])
    np.multiply(~seen, np.uint8(255), out=raster[:, 2])
