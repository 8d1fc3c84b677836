"""What can be known of a clip at best: predictions of a tracker that finds all that is observed.

The baselines start from the annotations of the present. A model starts from what is observed:
positions with jitter, some agents missed or hidden. A tracker that makes no mistakes beyond that
tells how much of the distance to the baselines is left to a model.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from roca_nocs.data.bev_clip import BevClip
from roca_nocs.data.bev_labels import instance_ids
from roca_nocs.data.bev_raster import draw_boxes
from roca_nocs.geometry.bev import BevGrid, relative_pose, transform_points

# Slower agents, in m/s, are known to stand.
_STANDING = 0.1
_CLEAR = 2  # class of visibility: at least 40 % are seen


@dataclass(frozen=True)
class Tracks:
    """The N agents that a tracker follows, in the ego frame of the present.

    Attributes:
        ids: (N,) those of the annotations.
        boxes: (F + 1, N, 5) annotated (x, y, length, width, yaw) at the present and later, NaN
            where an agent is not known.
        offset: (N, 2) metres, error of the position at the present.
        velocity: (N, 2) metres per frame, as it is estimated.
        turn: (N,) radians per frame.
    """

    ids: np.ndarray
    boxes: np.ndarray
    offset: np.ndarray
    velocity: np.ndarray
    turn: np.ndarray


def ideal_tracks(
    clip: BevClip,
    num_observed: int,
    frame_dt: float,
    rng: np.random.Generator,
    *,
    missed: float,
    jitter: float,
    generous: bool = False,
) -> Tracks:
    """Follow all labelled agents of the present that are observed in any frame.

    An agent is observed where at least 40 % of it are visible and it is not missed. Its position at
    the present is wrong by the mean of the jitter of these frames, as if its motion were known, and
    its velocity by the slope that the jitter has over them, unless it stands. An agent that is
    observed once has no velocity.

    Args:
        clip: of T + F frames.
        num_observed: T.
        frame_dt: seconds between frames.
        rng: source of the noise.
        missed: share of the observations that are missing.
        jitter: standard deviation of positions, metres.
        generous: agents that are observed once have their annotated velocity.
    """
    agents, present = clip.agents, num_observed - 1
    seen = relative_pose(clip.ego_pose[present], agents.poses)
    clear = agents.visibility[:num_observed] >= _CLEAR
    clear &= rng.random(clear.shape) >= missed
    kept = np.isin(agents.ids, instance_ids(clip.instance[present])) & clear.any(axis=0)
    clear, seen = clear[:, kept], seen[:, kept]
    noise = rng.normal(0.0, jitter, (*clear.shape, 2)) * clear[..., None]
    count = clear.sum(axis=0)
    offset = noise.sum(axis=0) / count[:, None]
    age = np.arange(num_observed)[:, None] - present
    centred = np.where(clear, age - (age * clear).sum(axis=0) / count, 0.0)
    spread = (centred**2).sum(axis=0)
    slope = (centred[..., None] * noise).sum(axis=0) / np.maximum(spread, 0.5)[:, None]
    ego_turn = np.array([0.0, 0.0, -clip.ego_pose[present, 2]])
    velocity = transform_points(ego_turn, agents.velocities[present, kept])
    moving = np.hypot(*velocity.T) > _STANDING
    before = seen[present - 1, :, 2] if present else np.full(len(count), np.nan)
    turn = np.nan_to_num(seen[present, :, 2] - before)
    known = (count > 1) | generous
    sizes = np.broadcast_to(agents.sizes[kept], (len(seen) - present, len(count), 2))
    future = seen[present:]
    return Tracks(
        ids=agents.ids[kept],
        boxes=np.concatenate([future[..., :2], sizes, future[..., 2:]], axis=-1),
        offset=offset,
        velocity=(frame_dt * velocity + slope * moving[:, None]) * known[:, None],
        turn=np.arctan2(np.sin(turn), np.cos(turn)) * known,
    )


def straight_on(tracks: Tracks) -> np.ndarray:
    """Boxes (F + 1, N, 5) that go on with their velocity and heading."""
    return round_the_bend(replace(tracks, turn=np.zeros_like(tracks.turn)))


def round_the_bend(tracks: Tracks) -> np.ndarray:
    """Boxes (F + 1, N, 5) that go on with their speed and rate of turning."""
    steps = np.arange(len(tracks.boxes))[:, None]
    boxes = np.repeat(tracks.boxes[:1], len(tracks.boxes), axis=0)
    boxes[..., 4] += steps * tracks.turn
    # The direction of a step is that in its middle.
    turned = np.zeros((len(steps) - 1, len(tracks.ids), 3))
    turned[..., 2] = (steps[1:] - 0.5) * tracks.turn
    boxes[..., :2] += tracks.offset
    boxes[1:, :, :2] += transform_points(turned, tracks.velocity).cumsum(axis=0)
    return boxes


def as_it_happens(tracks: Tracks) -> np.ndarray:
    """Boxes (F + 1, N, 5) that do what the agents will do, which nobody knows."""
    boxes = tracks.boxes.copy()
    boxes[..., :2] += tracks.offset
    return boxes


MOTIONS: Mapping[str, Callable[[Tracks], np.ndarray]] = {
    "constant velocity": straight_on,
    "constant speed and turn": round_the_bend,
    "what happens": as_it_happens,
}


def drawn(tracks: Tracks, boxes: np.ndarray, covered: np.ndarray, grid: BevGrid) -> np.ndarray:
    """Ids (F + 1, H, W) of boxes (F + 1, N, 5), where the raster of the step will be.

    Args:
        tracks: whose ids are drawn.
        boxes: NaN for none.
        covered: (F + 1, H, W) bool.
        grid: of the maps.
    """
    step, row = np.nonzero(np.isfinite(boxes).all(axis=-1))
    return draw_boxes(boxes[step, row], tracks.ids[row], step, len(boxes), grid) * covered
