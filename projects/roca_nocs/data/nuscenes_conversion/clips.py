"""Clips of BEV rasters out of consecutive key frames."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from roca_nocs.geometry.bev import relative_pose

from ..bev_clip import BevAgents, BevClip, BevMeta
from ..bev_raster import draw_boxes, draw_boxes_fiery
from ..bev_visibility import OBSERVED_CHANNELS, observe, visibility_classes
from .sources import Source
from .tables import RawFrame

DRAW = {"centre": draw_boxes, "fiery": draw_boxes_fiery}


def scene_clips(
    name: str, frames: Sequence[RawFrame], source: Source, meta: BevMeta, raster: str
) -> Iterator[BevClip]:
    """All clips of a scene, one for each start.

    Args:
        name: of the scene.
        frames: its key frames.
        source: the dataset.
        meta: of the converted dataset.
        raster: ``"centre"`` or ``"fiery"``, how labels are drawn. What is observed is always drawn
            by the centres of cells.
    """
    velocities = _velocities(frames)
    for start in range(len(frames) - source.window + 1):
        kept = [start + number for number in source.kept]
        window = [frames[number] for number in kept]
        moving = [velocities[number] for number in kept]
        yield _clip(f"{name}-{start:04d}", window, moving, source, meta, raster)


def _velocities(frames: Sequence[RawFrame]) -> list[np.ndarray]:
    """(N, 2) m/s of the objects of each frame: differences between the frames before and after,
    to one side at the ends of a track, zero for an object of one frame."""
    places = [
        dict(zip(frame.objects.instances, frame.objects.poses[:, :2], strict=True))
        for frame in frames
    ]
    times = [1e-6 * frame.timestamp for frame in frames]
    found = []
    for number, frame in enumerate(frames):
        velocities = np.zeros((len(frame.objects.instances), 2))
        for row, token in enumerate(frame.objects.instances):
            near = [
                other
                for other in (number - 1, number, number + 1)
                if 0 <= other < len(frames) and token in places[other]
            ]
            first, last = near[0], near[-1]
            if times[last] > times[first]:
                apart = places[last][token] - places[first][token]
                velocities[row] = apart / (times[last] - times[first])
        found.append(velocities)
    return found


def _clip(
    clip_id: str,
    window: Sequence[RawFrame],
    moving: Sequence[np.ndarray],
    source: Source,
    meta: BevMeta,
    raster: str,
) -> BevClip:
    grid, frames = meta.grid, len(window)
    ego = np.stack([frame.ego_pose for frame in window])
    # Ids in the order in which the objects appear.
    ids: dict[str, int] = {}
    for frame in window:
        for token in frame.objects.instances:
            ids.setdefault(token, len(ids) + 1)
    frame_of = np.repeat(np.arange(frames), [len(frame.objects.instances) for frame in window])
    numbers = np.array([ids[token] for f in window for token in f.objects.instances], np.int64)
    poses = np.concatenate([frame.objects.poses for frame in window])
    sizes = np.concatenate([frame.objects.sizes for frame in window])
    hidden = np.concatenate([frame.objects.hidden for frame in window])
    category = [name for frame in window for name in frame.objects.categories]
    label_of = {each.name: each.id for each in meta.classes}
    labels = np.array([label_of[name] for name in category], np.int64)
    vehicle = np.array([each.is_vehicle for each in meta.classes], bool)
    seen = relative_pose(ego[frame_of], poses)
    boxes = np.concatenate([seen[:, :2], sizes, seen[:, 2:]], axis=-1)
    everybody = draw_boxes(boxes, numbers, frame_of, frames, grid)
    channels = np.zeros((frames, len(OBSERVED_CHANNELS), grid.height, grid.width), np.uint8)
    observe(everybody, grid, channels)
    shown = vehicle[labels] & ~hidden
    instance = DRAW[raster](boxes[shown], numbers[shown], frame_of[shown], frames, grid)
    visibility = visibility_classes(everybody, len(ids), grid)
    table = np.pad(visibility, ((0, 0), (1, 0)))
    agents = BevAgents(
        ids=np.arange(1, len(ids) + 1),
        labels=_of_last(labels, numbers, len(ids)),
        sizes=_of_last(sizes, numbers, len(ids)),
        poses=_by_frame(poses, frame_of, numbers, (frames, len(ids))),
        velocities=_by_frame(np.concatenate(moving), frame_of, numbers, (frames, len(ids))),
        visibility=visibility,
    )
    return BevClip(
        clip_id=clip_id,
        raster=channels,
        segmentation=(instance > 0).astype(np.uint8),
        instance=instance,
        visibility=table[np.arange(frames)[:, None, None], instance],
        ego_pose=ego,
        timestamps=np.array([frame.timestamp for frame in window], np.int64),
        tokens=tuple(frame.token for frame in window),
        agents=agents,
    )


def _of_last(values: np.ndarray, numbers: np.ndarray, count: int) -> np.ndarray:
    """Value of each agent 1..count in the last frame that has it."""
    found = np.zeros((count, *values.shape[1:]), values.dtype)
    found[numbers - 1] = values
    return found


def _by_frame(
    values: np.ndarray, frame_of: np.ndarray, numbers: np.ndarray, shape: tuple[int, int]
) -> np.ndarray:
    """Values (T, N, k) of agents in frames, NaN where there is none."""
    table = np.full((*shape, values.shape[1]), np.nan)
    table[frame_of, numbers - 1] = values
    return table
