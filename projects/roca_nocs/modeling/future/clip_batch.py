"""Clips of a batch as tensors, with checks of what the samples hold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from roca_nocs.geometry.bev import BevGrid
from roca_nocs.modeling.criteria.clip_matching import FrameTargets
from roca_nocs.modeling.future.motion_targets import MotionTargets

_LABELS = ("boxes", "labels", "ids")


@dataclass(frozen=True)
class ClipBatch:
    """B clips of T observed frames, the last of which is the present.

    Attributes:
        frames: T tensors (B, C_in, H, W), each in its own ego frame.
        valid: (B, H, W) bool, usable cells; None for all.
        poses: (B, T, 3) float64 (x, y, yaw) of the vehicle in the world.
        grid: of the rasters.
    """

    frames: tuple[torch.Tensor, ...]
    valid: torch.Tensor | None
    poses: torch.Tensor
    grid: BevGrid

    @property
    def num_clips(self) -> int:
        return len(self.poses)


@dataclass(frozen=True)
class ClipTargets:
    """What B clips are trained with.

    Attributes:
        observed: of the T frames, in their own ego frames, without masks.
        future: of the present and F future steps, in the present ego frame.
        flow: F tensors (B, 2, H, W), backward flow in cells to each future step; empty without.
        semantic: (B, F + 1, H, W) int64; None without.
        covered: (B, F + 1, H, W) bool, cells that the labels of a step say something about; None
            for all.
        motion: of the objects of the present; None without a rigid future.
    """

    observed: tuple[FrameTargets, ...]
    future: tuple[FrameTargets, ...]
    flow: tuple[torch.Tensor, ...]
    semantic: torch.Tensor | None
    covered: torch.Tensor | None = None
    motion: MotionTargets | None = None


def collate_clips(
    samples: Sequence[dict[str, Any]], num_frames: int | None, device: torch.device
) -> ClipBatch:
    """The rasters of samples, of which the last ``num_frames`` are used (None for all).

    Raises:
        KeyError: a sample lacks a field.
        ValueError: clips of a batch differ in size or grid, or are too short.
    """
    for sample in samples:
        missing = [name for name in ("clip", "grid", "ego_pose") if name not in sample]
        if missing:
            raise KeyError(f"{_name(sample)} lacks {missing}; every clip needs them")
    first = samples[0]
    length = first["clip"].shape[0]
    for sample in samples:
        if sample["clip"].shape != first["clip"].shape or sample["grid"] != first["grid"]:
            raise ValueError(
                f"{_name(sample)} has rasters {tuple(sample['clip'].shape)} on {sample['grid']}, "
                f"{_name(first)} has {tuple(first['clip'].shape)} on {first['grid']}: the clips of "
                "a batch must agree"
            )
        if len(sample["ego_pose"]) < length:
            raise ValueError(
                f"{_name(sample)} has {len(sample['ego_pose'])} ego poses for {length} frames"
            )
    used = num_frames or length
    if used > length:
        raise ValueError(f"{_name(first)} has {length} observed frames, num_frames is {used}")
    clips = torch.stack([sample["clip"][-used:] for sample in samples]).to(device)
    poses = [torch.as_tensor(sample["ego_pose"])[length - used : length] for sample in samples]
    return ClipBatch(
        frames=clips.unbind(dim=1),
        valid=_valid(samples, device),
        poses=torch.stack(poses).to(device, torch.float64),
        grid=first["grid"],
    )


def collate_targets(
    samples: Sequence[dict[str, Any]],
    num_frames: int,
    num_future: int,
    device: torch.device,
    *,
    masks: bool,
    semantic: bool,
    motion: bool,
) -> ClipTargets:
    """The labels of samples.

    Args:
        samples: of the batch.
        num_frames: T, the last ones.
        num_future: F.
        device: of the result.
        masks: read masks and flow too.
        semantic: read semantic maps too.
        motion: read the motion of the objects of the present too.

    Raises:
        KeyError: a sample lacks labels.
        ValueError: a sample has fewer future steps.
    """
    for sample in samples:
        missing = [name for name in ("frames", "future") if name not in sample]
        missing += ["semantic"] * (semantic and "semantic" not in sample)
        if missing:
            raise KeyError(f"{_name(sample)} lacks {missing}: labels that training needs")
        if len(sample["future"]) <= num_future:
            raise ValueError(
                f"{_name(sample)} has labels of {len(sample['future']) - 1} future steps, "
                f"num_future is {num_future}"
            )
    names = (*_LABELS, "masks") if masks else _LABELS
    observed = tuple(
        FrameTargets.of([_only(s["frames"][-age], _LABELS) for s in samples], device)
        for age in range(num_frames, 0, -1)
    )
    future = tuple(
        FrameTargets.of([_only(s["future"][step], names) for s in samples], device)
        for step in range(num_future + 1)
    )
    flow: tuple[torch.Tensor, ...] = ()
    if masks:
        flow = tuple(
            torch.stack([s["future"][step]["flow"] for s in samples]).to(device).float()
            for step in range(1, num_future + 1)
        )
    maps = None
    if semantic:
        maps = torch.stack([s["semantic"][: num_future + 1] for s in samples]).to(device)
    covered = None
    if all("covered" in sample for sample in samples):
        covered = torch.stack([s["covered"][: num_future + 1] for s in samples]).to(device)
    motions = MotionTargets.of(samples, future[0], num_future) if motion else None
    return ClipTargets(observed, future, flow, maps, covered, motions)


def _valid(samples: Sequence[dict[str, Any]], device: torch.device) -> torch.Tensor | None:
    masks = [sample.get("valid_mask") for sample in samples]
    if all(mask is None for mask in masks):
        return None
    size = samples[0]["clip"].shape[-2:]
    everything = torch.ones(size, dtype=torch.bool)
    for sample, mask in zip(samples, masks, strict=True):
        if mask is not None and not bool(mask.any()):
            raise ValueError(
                f"valid_mask of {_name(sample)} is False throughout: it is True at usable cells"
            )
    return torch.stack([everything if m is None else m for m in masks]).to(device)


def _only(frame: dict[str, torch.Tensor], names: Sequence[str]) -> dict[str, torch.Tensor]:
    missing = [name for name in names if name not in frame]
    if missing:
        raise KeyError(f"the labels of a frame lack {missing}, they have {sorted(frame)}")
    return {name: frame[name] for name in names}


def _name(sample: dict[str, Any]) -> str:
    return f"clip {sample.get('clip_id', sample.get('image_id', 'without clip_id'))!r}"
