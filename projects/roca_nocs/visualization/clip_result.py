"""The predicted instances of one clip of bird's-eye-view rasters as plain arrays."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from roca_nocs.geometry.boxes import cxcywh_to_xyxy


@dataclass(frozen=True)
class ClipResult:
    """What a model found in a clip: n instances at S steps, the present first, on H x W cells.

    Attributes:
        instances: (S, H, W) int32 ids, 0 = background, the same id at all steps.
        ids: (n,) int64.
        classes: (n,) int64.
        scores: (n,) float64 in [0, 1].
        step_scores: (S, n) float64, probability that an instance is there at a step.
        boxes: (S, n, 4) float64, XYXY in cells, x along columns, right and bottom edges exclusive.
        trajectories: (S, n, 2) float64 (x, y), metres in the ego frame of the present, NaN where an
            instance has no cell.
    """

    instances: np.ndarray
    ids: np.ndarray
    classes: np.ndarray
    scores: np.ndarray
    step_scores: np.ndarray
    boxes: np.ndarray
    trajectories: np.ndarray

    def __len__(self) -> int:
        return len(self.ids)


def from_clip_output(output: Mapping[str, Any], threshold: float) -> ClipResult:
    """The instances of a clip above a score, by falling score.

    Args:
        output: of FutureDETR for one clip.
        threshold: smallest score to keep; the cells of other instances become background.
    """
    scores = output["scores"].double().cpu()
    order = scores.argsort(descending=True, stable=True)
    kept = order[scores[order] >= threshold]

    def of_kept(name: str, axis: int) -> torch.Tensor:
        return output[name].cpu().index_select(axis, kept)

    maps = output["instances"].cpu().numpy()
    ids = of_kept("ids", 0).numpy()
    height, width = maps.shape[-2:]
    boxes = cxcywh_to_xyxy(of_kept("boxes", 1).double())
    return ClipResult(
        instances=np.where(np.isin(maps, ids), maps, 0),
        ids=ids,
        classes=of_kept("labels", 0).numpy(),
        scores=scores[kept].numpy(),
        step_scores=of_kept("scores_per_step", 1).double().numpy(),
        boxes=(boxes * boxes.new_tensor([width, height, width, height])).numpy(),
        trajectories=of_kept("trajectories", 1).double().numpy(),
    )
