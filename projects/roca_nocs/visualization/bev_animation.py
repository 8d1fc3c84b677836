"""Animations of bird's-eye-view clips: what was observed, what is predicted, what happens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from PIL import Image

from roca_nocs.geometry.bev import relative_pose, warp_bev
from roca_nocs.utils.visualize import FONT, contact_sheet, instance_colors
from roca_nocs.visualization.video import VideoWriter

SUFFIXES = (".gif", ".webp", ".mp4")
TITLES = ("observed", "predicted", "annotated")
_COLORS = 64
_BACKGROUND = 28
# Share of white that each observed channel adds, in the order in which they are drawn.
_SHADES = {"free": 0.06, "drivable": 0.14, "lanes": 0.3, "occupancy": 0.6}


def animation_frames(
    sample: Mapping[str, Any],
    instances: torch.Tensor | np.ndarray,
    channels: Sequence[str],
    longer_side: int = 400,
) -> list[np.ndarray]:
    """Pictures of all past frames, the present and the future, all in the present ego frame.

    Forward is up and left is left. Each picture shows three panels: the raster, the predicted and
    the annotated ids. The raster of the present stays beneath the future; the past has no
    predictions.

    Args:
        sample: of :class:`~roca_nocs.data.bev_mapper.BevClipMapper`.
        instances: (F+1, H, W) predicted ids, 0 = background.
        channels: names of the channels of the raster.
        longer_side: of a panel, pixels.

    Returns:
        T + F pictures (h, w, 3) uint8 RGB of one size.

    Raises:
        ValueError: the predictions do not have the frames and size of the annotations.
    """
    predicted, annotated = np.asarray(torch.as_tensor(instances).cpu()), sample["instance"].numpy()
    if predicted.shape != annotated.shape:
        raise ValueError(
            f"The predicted instances {predicted.shape} do not have the frames and size of the "
            f"annotated ones {annotated.shape}"
        )
    rasters, past = _aligned_past(sample)
    present = len(rasters) - 1
    pictures = []
    for time in range(present + len(annotated)):
        ground = _ground(rasters[min(time, present)], channels)
        step = time - present
        panels = [
            ground,
            _with_ids(ground, predicted[step]) if step >= 0 else ground,
            _with_ids(ground, annotated[step] if step >= 0 else past[time]),
        ]
        tiles = [_enlarged(panel, longer_side) for panel in panels]
        _write_time(tiles[0], step, sample["frame_dt"])
        pictures.append(contact_sheet([tiles], list(TITLES)))
    return pictures


def _aligned_past(sample: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """Rasters (T, C, H, W) and annotated ids (T, H, W) of the observed frames, aligned."""
    clip, frames = sample["clip"], sample["frames"]
    ego = sample["ego_pose"][: len(clip)]
    src_from_dst = relative_pose(ego, ego[-1:].expand_as(ego))
    ids = torch.zeros(len(clip), 1, *clip.shape[-2:], dtype=torch.int64)
    for time, target in enumerate(frames):
        for number, mask in zip(target["ids"], target["masks"], strict=True):
            ids[time, 0, mask] = number
    rasters = warp_bev(clip, src_from_dst, sample["grid"])
    return rasters.numpy(), warp_bev(ids, src_from_dst, sample["grid"], "nearest")[:, 0].numpy()


def _ground(raster: np.ndarray, channels: Sequence[str]) -> np.ndarray:
    """Grey picture (H, W, 3) uint8 of a raster (C, H, W) in [0, 1]."""
    level = np.zeros(raster.shape[1:])
    for name, shade in _SHADES.items():
        if name in channels:
            level = np.maximum(level, shade * raster[channels.index(name)])
    grey = (_BACKGROUND + (255 - _BACKGROUND) * level).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=2)


def _with_ids(ground: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """A picture with each id in a colour of its own, the same in all frames."""
    colors = instance_colors(_COLORS)
    drawn = ground.copy()
    drawn[ids > 0] = colors[ids[ids > 0] % _COLORS]
    return drawn


def _enlarged(picture: np.ndarray, longer_side: int) -> np.ndarray:
    """Turned so that forward is up, and enlarged by a whole factor."""
    factor = max(1, longer_side // max(picture.shape[:2]))
    turned = picture[::-1, ::-1]
    return np.ascontiguousarray(turned.repeat(factor, axis=0).repeat(factor, axis=1))


def _write_time(tile: np.ndarray, step: int, frame_dt: float) -> None:
    text = "present" if step == 0 else f"{step * frame_dt:+.1f} s"
    cv2.putText(tile, text, (6, tile.shape[0] - 8), FONT, 0.5, (255, 255, 255), 1, cv2.LINE_AA)


def write_animation(
    path: Path, pictures: Sequence[np.ndarray], seconds_per_picture: float = 0.5
) -> None:
    """Write pictures (h, w, 3) uint8 RGB of one size as a film that runs once and again.

    Args:
        path: .gif, .webp or, without repetition, .mp4 (needs PyAV).
        pictures: at least one.
        seconds_per_picture: how long each is shown.

    Raises:
        ValueError: the suffix is none of these, or there are no pictures.
        ImportError: PyAV is missing.
    """
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise ValueError(f"{path}: the suffix is {suffix!r}; expected one of {SUFFIXES}")
    if not pictures:
        raise ValueError(f"{path}: there are no pictures to write")
    if suffix == ".mp4":
        rate = Fraction(1 / seconds_per_picture).limit_denominator(1000)
        with VideoWriter(path, rate) as video:
            for picture in pictures:
                video.write(picture)
        return
    first, *others = (Image.fromarray(picture) for picture in pictures)
    first.save(
        path,
        save_all=True,
        append_images=others,
        duration=round(1000 * seconds_per_picture),
        loop=0,
    )
