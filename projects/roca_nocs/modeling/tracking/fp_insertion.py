"""Which queries travel on in training, with random losses and false tracks (MOTR, ECCV 2022)."""

from __future__ import annotations

import torch

from roca_nocs.geometry.boxes import cxcywh_to_xyxy, pairwise_iou_giou

MIN_IOU = 0.5
"""A track whose box fits its target no better than this is not carried in training."""


def surviving(ids: torch.Tensor, iou: torch.Tensor) -> torch.Tensor:
    """(N,) bool, tracks that training carries on: they have an identity and fit its target.

    The IoU of a track is that with the target it last had. A track whose target has disappeared so
    keeps its last IoU and lives on, supervised as background, until the target comes back.

    Args:
        ids: (N,) int64.
        iou: (N,).
    """
    return (ids >= 0) & (iou > MIN_IOU)


def random_drop(active: torch.Tensor, probability: float) -> torch.Tensor:
    """``active`` (N,) bool without rows that are dropped with this probability."""
    if probability == 0:
        return active
    return active & (torch.rand(active.shape, device=active.device) >= probability)


def false_positive_rows(
    active: torch.Tensor, ids: torch.Tensor, boxes: torch.Tensor, clip: torch.Tensor, ratio: float
) -> torch.Tensor:
    """Rows without identity to carry on beside the tracks, as mistakes to recover from.

    Every track is chosen with probability ``ratio``. For each chosen one the row without identity
    of the same clip whose box overlaps it most is taken, once; a clip with no more such rows than
    chosen tracks gives all of them.

    Args:
        active: (N,) bool, the tracks that are carried on.
        ids: (N,) int64, negative for rows without identity.
        boxes: (N, 4) cxcywh.
        clip: (N,) int64, rising.
        ratio: in [0, 1].

    Returns:
        (M,) int64 rows, rising.
    """
    candidates = (ids < 0).nonzero().squeeze(dim=1)
    if ratio == 0 or len(candidates) == 0:
        return candidates[:0]
    drawn = torch.rand(active.shape, device=active.device) < ratio
    chosen = (active & drawn).nonzero().squeeze(dim=1)
    if len(chosen) == 0:
        return candidates[:0]
    num_clips = int(clip[-1]) + 1
    wanted, available = (clip[each].bincount(minlength=num_clips) for each in (chosen, candidates))
    take_all = (wanted > 0) & (wanted >= available)
    corners = cxcywh_to_xyxy(boxes.detach().float())
    overlap = pairwise_iou_giou(corners[candidates], corners[chosen])[0]
    apart = clip[candidates][:, None] != clip[chosen][None, :]
    best = candidates[overlap.masked_fill(apart, -1.0).argmax(dim=0)]
    # In a clip without candidates the best one is that of another clip.
    best = best[clip[best] == clip[chosen]]
    taken = torch.zeros_like(active)
    taken[best] = True
    taken[candidates] |= take_all[clip[candidates]]
    return taken.nonzero().squeeze(dim=1)
