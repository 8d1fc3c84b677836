"""Traffic in the bird's-eye view: clips that are a pure function of (seed, split, index).

Roads, agents and their motion come from `traffic_roads` and `traffic_agents`; here they are seen
from the ego vehicle and drawn.
"""

from __future__ import annotations

import numpy as np

from roca_nocs.geometry.bev import BevGrid, relative_pose, transform_points

from ..bev_clip import BevAgents, BevClip, BevMeta
from ..bev_raster import draw_boxes
from ..bev_visibility import OBSERVED_CHANNELS, observe, visibility_classes
from .rooms import scene_seed
from .traffic_agents import CLASSES, sample_traffic, simulate
from .traffic_roads import Road, road_channels, sample_roads

CHANNELS = (*OBSERVED_CHANNELS, "drivable", "lanes")
FRAME_DT = 0.5
OBSERVED_FRAMES = 3
FUTURE_FRAMES = 4
RESOLUTION = 0.5

MISSED_SHARE = 0.03
JITTER = 0.1
_CLUTTER_PER_FRAME = 0.5
_CLUTTER_SIZE = (0.5, 2.0)


def traffic_meta(height: int, width: int, name: str = "traffic") -> BevMeta:
    """Description of a dataset of rasters of height x width cells."""
    return BevMeta(
        name=name,
        grid=BevGrid.centred(height, width, RESOLUTION),
        frame_dt=FRAME_DT,
        classes=CLASSES,
        input_channels=CHANNELS,
        time_receptive_field=OBSERVED_FRAMES,
        n_future_frames=FUTURE_FRAMES,
    )


def traffic_clip(
    meta: BevMeta, seed: int, split: str, index: int, include_vru: bool = False
) -> BevClip:
    """Simulate a clip.

    Args:
        meta: grid and numbers of frames.
        seed: of the dataset.
        split: name of the split; different names give different clips.
        index: number of the clip within the split.
        include_vru: whether pedestrians are labelled too.

    Returns:
        A clip in which every agent moves, blocks the view and is listed, but only those are in the
        labels that can be known: agents of which 40 % or more are seen in an observed frame are
        labelled throughout, others from the first such frame on (they are born then).
    """
    rng = np.random.default_rng(scene_seed("traffic", seed, split, index))
    graph = sample_roads(rng)
    traffic = sample_traffic(rng, graph)
    poses, velocities = simulate(traffic, rng, meta.num_frames, meta.frame_dt)
    ego, poses, velocities = poses[:, 0], poses[:, 1:], velocities[:, 1:]
    sizes, labels = traffic.sizes[1:], traffic.labels[1:]
    ids = np.arange(1, len(labels) + 1)
    present = np.ones(poses.shape[:2], bool)
    boxes = _boxes_seen(ego, poses, sizes)
    drawn = _draw(boxes, ids, present, meta.grid)
    visibility = visibility_classes(drawn, len(ids), meta.grid)
    vehicle = np.array([each.is_vehicle for each in CLASSES])
    labelled = labelled_agents(visibility, meta.time_receptive_field)
    labelled &= vehicle[labels] | include_vru
    instance, clearness = _labels(drawn, labelled, visibility)
    frames = np.arange(meta.num_frames)
    return BevClip(
        clip_id=f"{split}-{index:06d}",
        raster=_observe(rng, boxes, graph.roads, ego, meta.grid),
        segmentation=(instance > 0).astype(np.uint8),
        instance=instance,
        visibility=clearness,
        ego_pose=ego,
        timestamps=np.round(frames * meta.frame_dt * 1e6).astype(np.int64),
        tokens=tuple(f"{split}-{index:06d}-{frame}" for frame in frames),
        agents=BevAgents(ids, labels, sizes, poses, velocities, visibility),
    )


def _boxes_seen(ego: np.ndarray, poses: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Boxes (T, N, 5) of agents in the ego frame of each frame."""
    seen = relative_pose(ego[:, None], poses)
    spread = np.broadcast_to(sizes, (len(poses), *sizes.shape))
    return np.concatenate([seen[..., :2], spread, seen[..., 2:]], axis=-1)


def _draw(boxes: np.ndarray, ids: np.ndarray, present: np.ndarray, grid: BevGrid) -> np.ndarray:
    """Ids (T, H, W) of the boxes (T, N, 5) that are present (T, N)."""
    frame, row = np.nonzero(present)
    return draw_boxes(boxes[frame, row], ids[row], frame, len(boxes), grid)


def labelled_agents(visibility: np.ndarray, num_observed: int) -> np.ndarray:
    """(T, N) bool: frames in which agents belong to the labels, by classes (T, N) of visibility.

    Agents of class 2 or more in one of the observed frames belong to the labels of all frames,
    others from the first frame of such a class on.
    """
    clear = visibility >= 2
    known = np.logical_or.accumulate(clear, axis=0)
    return known | clear[:num_observed].any(axis=0)


def _labels(
    drawn: np.ndarray, labelled: np.ndarray, visibility: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Maps (T, H, W) of the ids that are labelled (T, N), and of their visibility (T, N)."""
    instance, clearness = np.zeros_like(drawn), np.zeros(drawn.shape, np.uint8)
    cells = np.flatnonzero(drawn)
    number = drawn.ravel()[cells]
    time = cells // drawn[0].size
    kept = labelled[time, number - 1]
    cells, number, time = cells[kept], number[kept], time[kept]
    instance.ravel()[cells] = number
    clearness.ravel()[cells] = visibility[time, number - 1]
    return instance, clearness


def _observe(
    rng: np.random.Generator,
    boxes: np.ndarray,
    roads: tuple[Road, ...],
    ego: np.ndarray,
    grid: BevGrid,
) -> np.ndarray:
    """Channels (T, C, H, W) uint8 of what a noisy sensor reports: jittered boxes, some missed, and
    clutter. Occupied, free and unknown cells make up the raster."""
    frames, count = boxes.shape[:2]
    found = rng.random((frames, count)) >= MISSED_SHARE
    noisy = boxes.copy()
    noisy[..., :2] += rng.normal(0.0, JITTER, (frames, count, 2))
    clutter_frames = np.repeat(np.arange(frames), rng.poisson(_CLUTTER_PER_FRAME, frames))
    blobs = len(clutter_frames)
    low = np.array([grid.x_min, grid.y_min])
    extent = grid.resolution * np.array([grid.height, grid.width])
    clutter = np.column_stack(
        [
            low + extent * rng.random((blobs, 2)),
            rng.uniform(*_CLUTTER_SIZE, (blobs, 2)),
            rng.uniform(-np.pi, np.pi, blobs),
        ]
    )
    frame, row = np.nonzero(found)
    drawn = draw_boxes(
        np.concatenate([noisy[frame, row], clutter]),
        np.concatenate([row + 1, count + 1 + np.arange(blobs)]),
        np.concatenate([frame, clutter_frames]),
        frames,
        grid,
    )
    raster = np.empty((frames, len(CHANNELS), grid.height, grid.width), np.uint8)
    observe(drawn, grid, raster)
    rows = np.arange(grid.height, dtype=np.float32)[:, None]
    columns = np.arange(grid.width, dtype=np.float32)
    for time, pose in enumerate(ego):
        # Centres of the first cell and of its neighbours, in the world.
        origin, down, right = transform_points(
            pose, grid.cells_to_metres(np.array([(0.0, 0.0), (1.0, 0.0), (0.0, 1.0)]))
        ).astype(np.float32)
        x, y = (
            origin[axis] + rows * (down - origin)[axis] + columns * (right - origin)[axis]
            for axis in (0, 1)
        )
        drivable, lanes = road_channels(roads, x, y, grid.resolution)
        np.multiply(drivable, np.uint8(255), out=raster[time, 3])
        np.multiply(lanes, np.uint8(255), out=raster[time, 4])
    return raster
