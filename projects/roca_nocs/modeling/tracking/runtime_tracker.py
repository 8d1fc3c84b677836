"""Births and deaths of tracks at inference (MOTR, ECCV 2022)."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from roca_nocs.modeling.tracking.track_state import NEW, rank_in_clip


@dataclass(frozen=True)
class RuntimeTracker:
    """A query becomes a track at a high score and ends after some frames with a low one.

    Scores between the thresholds neither count as low nor forget earlier low ones.

    Attributes:
        score_thresh: from here on a query is a track.
        filter_score_thresh: below it a track is missed.
        miss_tolerance: missed frames that end a track.
    """

    score_thresh: float = 0.7
    filter_score_thresh: float = 0.6
    miss_tolerance: int = 5

    def update(
        self,
        ids: torch.Tensor,
        score: torch.Tensor,
        disappear_time: torch.Tensor,
        clip: torch.Tensor,
        next_id: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """One frame of a batch of B clips.

        Args:
            ids: (N,) int64, negative for queries without track.
            score: (N,) best class probability.
            disappear_time: (N,) int64 missed frames so far.
            clip: (N,) int64, rising.
            next_id: (B,) int64 id of the next track of each clip.

        Returns:
            new ids (-1 for tracks that end), missed frames and next ids. New tracks of a clip are
            numbered in the order of the rows.
        """
        born = (ids == NEW) & (score >= self.score_thresh)
        missed = (ids >= 0) & (score < self.filter_score_thresh)
        time = torch.where(score >= self.score_thresh, 0, disappear_time) + missed
        ids = torch.where(missed & (time >= self.miss_tolerance), NEW, ids)
        ids, next_id = number(ids, born, clip, next_id)
        return ids, time, next_id


def number(
    ids: torch.Tensor, chosen: torch.Tensor, clip: torch.Tensor, next_id: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Give new ids to rows, counting up in each clip.

    Args:
        ids: (N,) int64.
        chosen: (N,) bool, the rows.
        clip: (N,) int64, rising.
        next_id: (B,) int64.

    Returns:
        ids, and the next ids (B,).
    """
    where = chosen.nonzero().squeeze(dim=1)
    counts = clip[where].bincount(minlength=len(next_id))
    fresh = next_id[clip[where]] + rank_in_clip(clip[where], counts)
    return ids.index_put((where,), fresh), next_id + counts
