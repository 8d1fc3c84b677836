"""Clips as dictionaries with the names that FIERY and its successors use.

For comparisons with published labels; the model is trained with those of
:class:`~roca_nocs.data.bev_mapper.BevClipMapper`.
"""

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
from .bev_labels import (
    centerness,
    centre_offsets,
    forward_flow,
    instance_ids,
    normalised_boxes,
)


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

        ``z_position`` (T, 1, H, W) float32 is zero, because the files are of the plane. Besides
        what FIERY has: ``input`` (T, C, H, W) float32 in [0, 1]; ``valid_mask`` (H, W) bool, True
        throughout, because stored rasters are complete; and lists of T with the N objects of each
        frame, ``instance_ids`` (N,) int64, ``boxes`` (N, 4) float32 (cx, cy, w, h) in [0, 1] and
        ``labels`` (N,) int64, all 0.

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
    found = [instance_ids(ids) for ids in clip.instance]
    boxes = [
        normalised_boxes(ids == each[:, None, None])
        for ids, each in zip(clip.instance, found, strict=True)
    ]
    return {
        "segmentation": torch.from_numpy(clip.segmentation).long()[:, None],
        "instance": torch.from_numpy(clip.instance).long(),
        "centerness": torch.from_numpy(centerness(clip.instance)),
        "offset": torch.from_numpy(centre_offsets(clip.instance).astype(np.float32)),
        "flow": torch.from_numpy(flow.astype(np.float32)),
        "attribute": torch.from_numpy(clip.visibility).long()[:, None],
        "future_egomotion": motion,
        "sample_token": list(clip.tokens),
        "z_position": torch.zeros(len(clip.instance), 1, grid.height, grid.width),
        "input": torch.from_numpy(clip.raster).float() / 255,
        "valid_mask": torch.ones(grid.height, grid.width, dtype=torch.bool),
        "instance_ids": [torch.from_numpy(each.astype(np.int64)) for each in found],
        "boxes": [torch.from_numpy(each) for each in boxes],
        "labels": [torch.zeros(len(each), dtype=torch.int64) for each in found],
    }
