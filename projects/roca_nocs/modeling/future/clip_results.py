"""From the queries of present and future to instance maps, scores and trajectories."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F

from roca_nocs.geometry.bev import BevGrid
from roca_nocs.geometry.boxes import cxcywh_to_xyxy
from roca_nocs.modeling.criteria.mask_loss import upsample
from roca_nocs.modeling.future.instance_ids import instance_maps, trajectories
from roca_nocs.modeling.future.rollout import Step
from roca_nocs.modeling.future.step_masks import RowMasks, masks_of_steps
from roca_nocs.modeling.tracking.runtime_tracker import number
from roca_nocs.modeling.tracking.track_state import NEW, TrackState
from roca_nocs.modeling.transformer.future_detector import FutureDetector


@dataclass(frozen=True)
class ClipResults:
    """Post-processing of clips.

    The result of a clip with n reported queries and F future steps is a dict:

    - ``instances`` (F + 1, H, W) int32, 0 for background, the same id at all steps; of a detector
      without mask head the boxes are filled;
    - ``ids``, ``scores``, ``labels`` (n,): id in the maps, best existence probability (at the
      present without births) and its class;
    - ``tracked`` (n,) bool: the id belongs to a track and stays in later frames; that of a query
      that is no track (yet) is of this result only;
    - ``scores_per_step`` (F + 1, n); ``boxes`` (F + 1, n, 4) cxcywh in [0, 1];
    - ``trajectories`` (F + 1, n, 2) metres (x, y), centroids, NaN where an instance has no cell;
    - ``semantic`` (F + 1, H, W) int64 of a detector with a semantic head; (1, H, W), of the
      present, if the future steps have no memory.

    Attributes:
        min_score: existence probability from which on a query is reported.
        min_value: least product of existence and mask probability of a cell.
        min_area: cells that a segment needs at a step.
        max_masks: queries of a clip, at most, the best ones.
        foreground_class: semantic class outside of which there are no instances; None for none.
        inside_future_raster: no instances where the raster of the step will not be, if the vehicle
            goes on as it did.
    """

    min_score: float = 0.35
    min_value: float = 0.3
    min_area: int = 4
    max_masks: int = 100
    foreground_class: int | None = None
    inside_future_raster: bool = True

    def __call__(
        self,
        detector: FutureDetector,
        state: TrackState,
        steps: Sequence[Step],
        next_id: torch.Tensor,
        grid: BevGrid,
        *,
        births: bool,
        covered: torch.Tensor | None = None,
    ) -> list[dict[str, Any]]:
        """
        Args:
            detector: with the heads.
            state: the rows of the present, with the ids of the tracker.
            steps: the present and the future, of the same rows.
            next_id: (B,) int64 id of the next track of each clip, for queries that are reported
                without being a track yet.
            grid: of the maps.
            births: queries that appear in the future are reported too.
            covered: (B, F + 1, H, W) bool, where the raster of each step will be; None for
                everywhere.
        """
        existence, labels = torch.stack([s.logits[-1].sigmoid() for s in steps]).max(dim=-1)
        score, best = existence.max(dim=0) if births else (existence[0], 0 * state.ids)
        labels = labels.gather(0, best[None])[0]
        kept = self._best_rows(score, state.clip, len(next_id))
        ids, _ = number(state.ids, kept & (state.ids <= NEW), state.clip, next_id)
        semantic = self._semantic(detector, steps, grid)
        masks_of = _masks(detector, steps, state.clip, grid)
        results = []
        for clip in range(len(next_id)):
            rows = (kept & (state.clip == clip)).nonzero().squeeze(dim=1)
            masks = torch.stack([masks(rows) for masks in masks_of])
            of_clip = None if semantic is None else semantic[clip]
            inside = covered[clip] if covered is not None and self.inside_future_raster else None
            instances = instance_maps(
                existence[:, rows],
                masks,
                ids[rows] + 1,
                min_value=self.min_value,
                min_area=self.min_area,
                foreground=self._foreground(of_clip, inside, len(steps)),
            )
            result = {
                "instances": instances,
                "ids": ids[rows] + 1,
                "scores": score[rows],
                "labels": labels[rows],
                "tracked": state.ids[rows] >= 0,
                "scores_per_step": existence[:, rows],
                "boxes": torch.stack([step.boxes[-1, rows] for step in steps]),
                "trajectories": trajectories(instances, ids[rows] + 1, grid),
            }
            results.append(result if of_clip is None else result | {"semantic": of_clip})
        return results

    def _foreground(
        self, semantic: torch.Tensor | None, covered: torch.Tensor | None, steps: int
    ) -> torch.Tensor | None:
        """(F + 1, H, W) bool: cells that may belong to an instance; None for all."""
        if semantic is None or self.foreground_class is None:
            return covered
        known = semantic == self.foreground_class
        allowed = torch.cat([known, known.new_ones(steps - len(known), *known.shape[1:])])
        return allowed if covered is None else allowed & covered

    def _best_rows(self, score: torch.Tensor, clip: torch.Tensor, num_clips: int) -> torch.Tensor:
        """(N,) bool: rows to report."""
        kept = torch.zeros_like(score, dtype=torch.bool)
        for each in range(num_clips):
            rows = ((clip == each) & (score >= self.min_score)).nonzero().squeeze(dim=1)
            kept[rows[score[rows].topk(min(len(rows), self.max_masks)).indices]] = True
        return kept

    def _semantic(
        self, detector: FutureDetector, steps: Sequence[Step], grid: BevGrid
    ) -> torch.Tensor | None:
        """(B, F + 1, H, W) int64, of the steps that have a memory."""
        if detector.semantic_head is None:
            return None
        size = (grid.height, grid.width)
        maps = [
            F.interpolate(
                detector.semantic(step.encoded).float(),
                size=size,
                mode="bilinear",
                align_corners=False,
            ).argmax(dim=1)
            for step in steps
            if step.encoded is not None
        ]
        return torch.stack(maps, dim=1)


def _masks(
    detector: FutureDetector, steps: Sequence[Step], clip: torch.Tensor, grid: BevGrid
) -> list[RowMasks]:
    """What gives (n, H, W), the probability that a cell belongs to each of n rows, of each step."""
    if detector.mask_type is None:
        return [partial(_filled_boxes, step.boxes[-1], grid) for step in steps]
    size = (grid.height, grid.width)
    logits_of = masks_of_steps(detector, steps, clip)
    return [partial(_probabilities, read, size) for read in logits_of]


def _probabilities(read: RowMasks, size: tuple[int, int], rows: torch.Tensor) -> torch.Tensor:
    return upsample(read(rows), size).sigmoid()


def _filled_boxes(boxes: torch.Tensor, grid: BevGrid, rows: torch.Tensor) -> torch.Tensor:
    """(n, H, W), 1 inside of the boxes of n rows of (N, 4) and 0 outside."""
    boxes = boxes[rows]
    (left, top), (right, bottom) = (
        corner.unbind(dim=-1) for corner in cxcywh_to_xyxy(boxes).split(2, dim=-1)
    )
    x = (torch.arange(grid.width, device=boxes.device) + 0.5) / grid.width
    y = (torch.arange(grid.height, device=boxes.device) + 0.5) / grid.height
    columns = (x >= left[:, None]) & (x < right[:, None])
    return (columns[:, None] & ((y >= top[:, None]) & (y < bottom[:, None]))[..., None]).float()
