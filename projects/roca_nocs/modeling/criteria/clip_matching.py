"""Assignment of the queries of a frame to its targets, where tracks keep the target they have."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment

from roca_nocs.geometry.boxes import cxcywh_to_xyxy, elementwise_iou
from roca_nocs.modeling.criteria.matcher import MixedMatcher, Predictions, check_finite

NONE = -1

# The overlap of small objects in a large raster must not drown in the default of 1e-6.
AREA_EPSILON = 1e-9


@dataclass(frozen=True)
class FrameTargets:
    """The M targets of one frame of all clips, ordered by clip.

    Attributes:
        clip: (M,) int64.
        boxes: (M, 4) float32 cxcywh in [0, 1].
        labels: (M,) int64.
        ids: (M,) int64 identity, constant in a clip, positive.
        masks: (M, H, W) bool, or None.
    """

    clip: torch.Tensor
    boxes: torch.Tensor
    labels: torch.Tensor
    ids: torch.Tensor
    masks: torch.Tensor | None

    def __len__(self) -> int:
        return len(self.clip)

    @staticmethod
    def of(frames: Sequence[Mapping[str, torch.Tensor]], device: torch.device) -> FrameTargets:
        """From ``boxes``, ``labels``, ``ids`` and, in all or none, ``masks`` of each clip."""
        counts = torch.tensor([len(frame["labels"]) for frame in frames], device=device)
        clip = torch.arange(len(frames), device=device).repeat_interleave(counts)
        boxes, labels, ids = (
            torch.cat([frame[name] for frame in frames]).to(device)
            for name in ("boxes", "labels", "ids")
        )
        masks = None
        if all("masks" in frame for frame in frames):
            masks = torch.cat([frame["masks"] for frame in frames]).to(device)
        return FrameTargets(clip, boxes.float(), labels, ids, masks)


class ClipMatcher:
    """Tracks inherit the target with their id; other targets are matched at minimum cost.

    Rows with an id take the target of that id, or none if it has disappeared. The remaining targets
    of a clip are assigned to its rows with id -1, each decoder layer by its own predictions.

    Source: tracklet-aware label assignment of MOTR (Zeng et al., ECCV 2022).
    """

    def __init__(self, matcher: MixedMatcher) -> None:
        """
        Args:
            matcher: gives the costs.
        """
        self.matcher = matcher

    @torch.no_grad()
    def __call__(
        self,
        ids: torch.Tensor,
        clip: torch.Tensor,
        logits: torch.Tensor,
        boxes: torch.Tensor,
        targets: FrameTargets,
        extra_cost: torch.Tensor | None = None,
        births: bool = True,
    ) -> np.ndarray:
        """Assign L outputs for N rows to M targets.

        Args:
            ids: (N,) int64 identities before the frame.
            clip: (N,) int64.
            logits: (L, N, K), the decoder layers.
            boxes: (L, N, 4) cxcywh in [0, 1].
            targets: of the frame.
            extra_cost: (N, M), added for the last layer.
            births: match targets that no track has; otherwise tracks only inherit.

        Returns:
            (L, N) int64 on the host: target of each row, -1 for none.

        Raises:
            FloatingPointError: a cost is NaN or infinite.
        """
        same = (ids[:, None] == targets.ids) & (clip[:, None] == targets.clip) & (ids >= 0)[:, None]
        where = torch.arange(len(targets), device=ids.device)
        # At most one target has the id of a row.
        inherited = torch.where(same, where, NONE).amax(dim=1) if len(targets) else ids * 0 + NONE
        assigned = np.tile(inherited.cpu().numpy(), (len(logits), 1))
        if not births or len(targets) == 0:
            return assigned
        costs = self._costs(logits, boxes, targets)
        if extra_cost is not None:
            costs[-1] += extra_cost
        on_host = costs.cpu().numpy()
        free_rows, row_clip = (ids == NONE).cpu().numpy(), clip.cpu().numpy()
        target_clip = targets.clip.cpu().numpy()
        free_targets = np.ones(len(targets), dtype=bool)
        free_targets[assigned[0][assigned[0] >= 0]] = False
        for each in np.unique(target_clip[free_targets]):
            rows = np.flatnonzero(free_rows & (row_clip == each))
            columns = np.flatnonzero(free_targets & (target_clip == each))
            block = on_host[:, rows[:, None], columns]
            check_finite(block, "outputs", int(each))
            for layer, cost in enumerate(block):
                chosen, matched = linear_sum_assignment(cost)
                assigned[layer, rows[chosen]] = columns[matched]
        return assigned

    def _costs(
        self, logits: torch.Tensor, boxes: torch.Tensor, targets: FrameTargets
    ) -> torch.Tensor:
        """(L, N, M) float32; entries of different clips are computed but meaningless."""
        layers, count = len(logits), len(targets)
        output = Predictions("outputs", logits, boxes, k=1)
        layer = torch.arange(layers, device=logits.device).repeat_interleave(count)
        with torch.autocast(logits.device.type, enabled=False):
            costs = self.matcher.costs(
                output, layer, targets.labels.repeat(layers), targets.boxes.repeat(layers, 1)
            )
        return costs.unflatten(0, (layers, count)).mT.contiguous()


def updated_identity(
    ids: torch.Tensor,
    iou: torch.Tensor,
    boxes: torch.Tensor,
    matched: torch.Tensor,
    targets: FrameTargets,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Identities and IoUs after a frame; both only change where a row has a target.

    Args:
        ids: (N,) int64.
        iou: (N,) float32.
        boxes: (N, 4) predicted cxcywh.
        matched: (N,) int64 target of each row, -1 for none.
        targets: of the frame.
    """
    rows = (matched >= 0).nonzero().squeeze(dim=1)
    found = matched[rows]
    overlap = elementwise_iou(
        cxcywh_to_xyxy(boxes[rows].detach().float()),
        cxcywh_to_xyxy(targets.boxes[found]),
        eps=AREA_EPSILON,
    )
    return ids.index_put((rows,), targets.ids[found]), iou.index_put((rows,), overlap.to(iou.dtype))
