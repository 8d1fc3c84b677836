"""Predictions of future instance masks that need no model, from the annotations of the present."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from roca_nocs.data.bev_raster import draw_boxes

Sample = Mapping[str, Any]


def static(sample: Sample) -> np.ndarray:
    """Ids (F+1, H, W): nobody moves."""
    instance = np.asarray(sample["instance"])
    return np.broadcast_to(instance[:1], instance.shape)


def constant_velocity(sample: Sample) -> np.ndarray:
    """Ids (F+1, H, W): the annotated boxes go on with their velocities and headings."""
    steps, agents = len(sample["instance"]), sample["agents"]
    ids, boxes, velocities = (np.asarray(agents[name]) for name in ("ids", "boxes", "velocities"))
    seconds = np.arange(steps)[:, None, None] * sample["frame_dt"]
    moved = np.repeat(boxes[None].astype(np.float64), steps, axis=0)
    moved[..., :2] += seconds * velocities
    frames = np.repeat(np.arange(steps), len(ids))
    return draw_boxes(moved.reshape(-1, 5), np.tile(ids, steps), frames, steps, sample["grid"])


def oracle(sample: Sample) -> np.ndarray:
    """Ids (F+1, H, W): the annotations, what can be reached at most."""
    return np.asarray(sample["instance"])


BASELINES: Mapping[str, Callable[[Sample], np.ndarray]] = {
    "static": static,
    "constant_velocity": constant_velocity,
    "oracle": oracle,
}
