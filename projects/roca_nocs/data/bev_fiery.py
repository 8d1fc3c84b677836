"""Clips as dictionaries with the names that FIERY and its successors use."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from roca_nocs.geometry.bev import (
    BevGrid,
    ego_motion_vectors,
    matrix_to_pose_vector,
    pose_vector_to_matrix,
    relative_pose,
    warp_bev,
)
from roca_nocs.geometry.fiery_warp import fiery_warp

from .bev_clip import BevClip
from .bev_labels import centerness, centre_offsets, forward_flow


def fiery_sample(clip: BevClip, grid: BevGrid, warp_mode: str = "exact") -> dict[str, Any]:
    """All frames of a clip, each in its own ego frame.

    Args:
        clip: of the files.
        grid: of its rasters.
        warp_mode: how the next frame gets into each frame for the flow, ``"exact"`` or ``"fiery"``.

    Returns:
        ``segmentation`` (T, 1, H, W) int64, ``instance`` (T, H, W) int64, ``centerness``
        (T, 1, H, W) float32, ``offset`` and ``flow`` (T, 2, H, W) float32 (row, column; 255 where
        there is nothing), ``attribute`` (T, 1, H, W) int64 (visibility), ``future_egomotion``
        (T, 6) float32 and ``sample_token``, T names. T counts past and future frames.

    Raises:
        ValueError: ``warp_mode`` is unknown.
    """
    motion = torch.from_numpy(ego_motion_vectors(clip.ego_pose))
    later = torch.from_numpy(clip.instance[1:])[:, None]
    if warp_mode == "exact":
        # The pose of frame t in frame t + 1.
        back = torch.from_numpy(relative_pose(clip.ego_pose[1:], clip.ego_pose[:-1]))
        moved = warp_bev(later, back, grid, "nearest")
    elif warp_mode == "fiery":
        inverse = torch.linalg.inv(pose_vector_to_matrix(motion[:-1]))
        extent = 0.5 * grid.height * grid.resolution, 0.5 * grid.width * grid.resolution
        # float32 holds ids below 2^24 exactly.
        moved = fiery_warp(later.float(), matrix_to_pose_vector(inverse), extent)
    else:
        raise ValueError(f"warp_mode is {warp_mode!r}; expected 'exact' or 'fiery'")
    flow = forward_flow(clip.instance, moved[:, 0].numpy().astype(clip.instance.dtype))
    return {
        "segmentation": torch.from_numpy(clip.segmentation).long()[:, None],
        "instance": torch.from_numpy(clip.instance).long(),
        "centerness": torch.from_numpy(centerness(clip.instance)),
        "offset": torch.from_numpy(centre_offsets(clip.instance).astype(np.float32)),
        "flow": torch.from_numpy(flow.astype(np.float32)),
        "attribute": torch.from_numpy(clip.visibility).long()[:, None],
        "future_egomotion": motion,
        "sample_token": list(clip.tokens),
    }
