"""From records of clips to the inputs of FutureDETR."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from roca_nocs.geometry.bev import (
    BevGrid,
    ego_motion_vectors,
    normalised_positions,
    relative_pose,
    sample_nearest,
    transform_points,
)
from roca_nocs.geometry.fiery_warp import fiery_future_to_present

from .bev_augmentation import IDENTITY, BevAugmentation, EgoMap
from .bev_clip import BevAgents, BevClip, BevMeta, read_clip
from .bev_labels import instance_ids, normalised_boxes, rigid_backward_flow

LABEL_WARPS = ("exact", "fiery")


class BevClipMapper:
    """Reads a clip and brings its labels into the form that the model is trained with."""

    def __init__(
        self,
        n_past: int = 3,
        n_future: int = 4,
        augmentation: BevAugmentation | None = None,
        warp_mode: str = "exact",
        max_interval: int = 1,
    ) -> None:
        """
        Args:
            n_past: observed frames, the present included. With more than a dataset means to be
                observed the present is a later frame, as far as ``n_future`` leaves some.
            n_future: frames after the present.
            augmentation: random change of the ego frames; ``None``: none.
            warp_mode: how future labels get into the present frame: ``"exact"``, or ``"fiery"``,
                which reproduces published label tensors and allows no augmentation.
            max_interval: observed frames are this far apart at most; each clip draws its interval
                from torch's global generator, among those that it is long enough for.

        Raises:
            ValueError: an argument makes no sense.
        """
        if n_past < 1 or n_future < 0 or max_interval < 1:
            raise ValueError(
                f"n_past is {n_past}, n_future {n_future} and max_interval {max_interval}; "
                "expected at least 1, 0 and 1"
            )
        if warp_mode not in LABEL_WARPS:
            raise ValueError(f"warp_mode is {warp_mode!r}; expected one of {LABEL_WARPS}")
        if warp_mode == "fiery" and augmentation is not None:
            raise ValueError("warp_mode 'fiery' reproduces published labels: no augmentation")
        self.n_past = n_past
        self.n_future = n_future
        self.augmentation = augmentation
        self.warp_mode = warp_mode
        self.max_interval = max_interval

    def __call__(self, record: Mapping[str, Any]) -> dict[str, Any]:
        """Read one clip.

        Args:
            record: of :func:`~roca_nocs.data.datasets.bev_clips.load_bev_clips`.

        Returns:
            * ``clip`` (T, C, H, W) float32 in [0, 1], each frame in its own ego frame (without a
              ``valid_mask``: stored rasters are complete, and what the augmentation brings in from
              outside is in the channel "unknown"), and
              ``ego_pose`` (T+F, 3) float64 in the world, present = frame T - 1;
            * ``frames``: for each observed frame, in its own frame, ``boxes`` (N, 4) (cx, cy, w, h)
              normalised, ``labels`` (N,) zeros, ``ids`` (N,), ``masks`` (N, H, W) bool;
            * ``future``: the same for the present and F frames, all in the present frame, and
              ``flow`` (2, H, W) (column, row), the backward flow of rigid motion in cells, 255
              where it is not known (not for the present);
            * ``instance`` (F+1, H, W) int32 and ``semantic`` (F+1, H, W) int64 (1 = vehicle), in
              the present frame, and ``covered`` (F+1, H, W) bool, the cells that lie in the raster
              of their frame: the labels know nothing of the others;
            * ``agents``: ``ids`` (N,), ``boxes`` (N, 5) (x, y, length, width, yaw) and
              ``velocities`` (N, 2) of the agents in the labels of the present, in its frame, and
              ``poses`` (F+1, N, 3) (x, y, yaw) at the present and later, NaN where unknown;
            * ``grid``, ``frame_dt`` (seconds), ``image_id``, ``clip_id``, ``file_name``,
              ``height``, ``width``.

        Raises:
            ValueError: the clip has fewer frames than asked for.
            DatasetError: a damaged file.
        """
        meta: BevMeta = record["meta"]
        too_long = self.n_past + self.n_future > meta.num_frames
        if too_long or self.n_future > meta.n_future_frames:
            raise ValueError(
                f"{record['root']}: clips have {meta.time_receptive_field} observed and "
                f"{meta.n_future_frames} future frames; n_past={self.n_past} and "
                f"n_future={self.n_future} were asked for"
            )
        clip = read_clip(record["root"], record["clip_id"], meta)
        return self._sample(clip, self._used_frames(meta), meta) | {
            key: record[key] for key in ("image_id", "clip_id", "file_name", "height", "width")
        }

    def _used_frames(self, meta: BevMeta) -> list[int]:
        """Numbers of the observed frames, the last of which is the present, and of the future."""
        interval = 1
        if self.max_interval > 1 and self.n_past > 1:
            longest = (meta.num_frames - self.n_future - 1) // (self.n_past - 1)
            interval = int(torch.randint(1, min(self.max_interval, longest) + 1, ()))
        present = max(meta.time_receptive_field - 1, interval * (self.n_past - 1))
        observed = [present - interval * age for age in reversed(range(self.n_past))]
        return observed + [present + step for step in range(1, self.n_future + 1)]

    def _sample(self, clip: BevClip, used: list[int], meta: BevMeta) -> dict[str, Any]:
        change = IDENTITY if self.augmentation is None else self.augmentation.sample()
        grid, present = meta.grid, self.n_past - 1
        ego = change.ego_poses(clip.ego_pose[used])
        agents = change.agents(clip.agents)
        stored = torch.from_numpy(clip.instance[used])
        observed = stored[: self.n_past]
        raster = torch.from_numpy(clip.raster[used][: self.n_past]).float() / 255
        if self.augmentation is not None:
            cells = _source_cells(np.zeros((1, 3)), change, grid)
            raster = _moved_raster(raster, cells, meta)
            observed = _moved(observed, cells.expand(self.n_past, -1, -1, -1))
        instance, covered = self._in_present(stored[present:], ego[present:], change, grid)
        future = [_objects(ids) for ids in instance]
        seen = relative_pose(ego[present], agents.poses[used][present:])
        for target, flow in zip(
            future[1:], rigid_backward_flow(instance, agents.ids, seen, grid)[1:], strict=True
        ):
            target["flow"] = torch.from_numpy(flow)
        return {
            "clip": raster,
            "grid": grid,
            "frame_dt": meta.frame_dt,
            "ego_pose": torch.from_numpy(ego),
            "frames": [_objects(ids) for ids in observed.numpy()],
            "future": future,
            "instance": torch.from_numpy(instance),
            "semantic": torch.from_numpy(instance > 0).long(),
            "covered": covered,
            "agents": _agents_of_present(
                agents, seen, agents.velocities[used][present], ego[present, 2], instance[0]
            ),
        }

    def _in_present(
        self, stored: torch.Tensor, ego: np.ndarray, change: EgoMap, grid: BevGrid
    ) -> tuple[np.ndarray, torch.Tensor]:
        """Ids (F+1, H, W) of frames from the present on, warped into the present frame, and the
        cells (F+1, H, W) bool that lie in their rasters."""
        if self.warp_mode == "fiery":
            motion = torch.from_numpy(ego_motion_vectors(ego))
            extent = (
                0.5 * grid.height * grid.resolution,
                0.5 * grid.width * grid.resolution,
            )
            # float32 holds ids below 2^24 exactly.
            warped = fiery_future_to_present(stored.float()[None, :, None], motion[None], extent)
            ids = warped[0, :, 0].to(stored.dtype)
            return ids.numpy(), torch.ones_like(ids, dtype=torch.bool)
        cells = _source_cells(relative_pose(ego, ego[:1]), change, grid)
        return _moved(stored, cells).numpy(), grid.has_cells(cells)


def _source_cells(src_from_dst: np.ndarray, change: EgoMap, grid: BevGrid) -> torch.Tensor:
    """(B, H, W, 2) (row, column) in stored rasters of the cells of changed frames.

    Args:
        src_from_dst: (B, 3) poses of the destination frames in the source frames, both changed.
        change: of the stored frames.
        grid: of all rasters.
    """
    points = transform_points(src_from_dst[:, None, None], grid.cell_centres()[None])
    return torch.from_numpy(grid.metres_to_cells(change.sources(points)))


def _moved(ids: torch.Tensor, cells: torch.Tensor) -> torch.Tensor:
    """Ids (B, H, W) at the nearest of cells (B, H, W, 2)."""
    return sample_nearest(ids[:, None], cells)[:, 0]


def _moved_raster(raster: torch.Tensor, cells: torch.Tensor, meta: BevMeta) -> torch.Tensor:
    """Channels (T, C, H, W) at cells (1, H, W, 2); what comes from outside is unknown."""
    positions = normalised_positions(cells).float().expand(len(raster), -1, -1, -1)
    moved = F.grid_sample(raster, positions, align_corners=False)
    if "unknown" in meta.input_channels:
        inside = F.grid_sample(torch.ones_like(raster[:1, :1]), positions[:1], align_corners=False)
        moved[:, meta.input_channels.index("unknown")] += 1 - inside[0]
    return moved.clamp_(0, 1)


def _objects(ids: np.ndarray) -> dict[str, torch.Tensor]:
    """Boxes, labels, ids and masks of a map (H, W) of ids."""
    found = instance_ids(ids)
    masks = ids == found[:, None, None]
    return {
        "boxes": torch.from_numpy(normalised_boxes(masks)),
        "labels": torch.zeros(len(found), dtype=torch.int64),
        "ids": torch.from_numpy(found.astype(np.int64)),
        "masks": torch.from_numpy(masks),
    }


def _agents_of_present(
    agents: BevAgents,
    poses: np.ndarray,
    velocities: np.ndarray,
    ego_yaw: float,
    instance: np.ndarray,
) -> dict[str, torch.Tensor]:
    """Agents in the labels of the present; poses (F+1, N, 3) in its frame, velocities of the
    world."""
    kept = np.isin(agents.ids, instance_ids(instance)) & np.isfinite(poses[0]).all(axis=-1)
    boxes = np.concatenate([poses[0, :, :2], agents.sizes, poses[0, :, 2:]], axis=-1)
    turn = np.array([0.0, 0.0, -ego_yaw])
    return {
        "ids": torch.from_numpy(agents.ids[kept]),
        "boxes": torch.from_numpy(boxes[kept]),
        "velocities": torch.from_numpy(transform_points(turn, velocities[kept])),
        "poses": torch.from_numpy(poses[:, kept]),
    }
