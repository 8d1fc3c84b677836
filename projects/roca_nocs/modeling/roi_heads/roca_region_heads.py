"""The region heads of ROCA behind a detector that needs no box branch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from detectron2.modeling import ROI_HEADS_REGISTRY
from detectron2.structures import Instances

from roca_nocs.modeling.roi_heads.roca_heads import ROCAHeads

__all__ = ["ROCARegionHeads"]


@ROI_HEADS_REGISTRY.register()
class ROCARegionHeads(ROCAHeads):
    """Masks, depth, poses and CAD models of the boxes that the proposal generator detects.

    Training samples foreground regions among its boxes and the annotated ones: with
    ``positive_fraction`` 1, up to ``batch_size_per_image`` of them. At inference its detections of
    at least ``score_threshold`` are aligned.
    """

    def __init__(self, *, mask_in_features: Sequence[str], **kwargs: Any) -> None:
        """
        Args:
            mask_in_features: feature maps of the mask branch.
            kwargs: arguments of ``ROCAHeads`` but those of the box branch.
        """
        super().__init__(
            box_in_features=(),
            box_pooler=None,
            box_head=None,
            box_predictor=None,
            mask_in_features=mask_in_features,
            **kwargs,
        )

    def _forward_box(
        self, features: dict[str, torch.Tensor], proposals: list[Instances]
    ) -> dict[str, torch.Tensor] | list[Instances]:
        """No losses in training; at inference the proposals are the detections."""
        if self.training:
            return {}
        for each in proposals:
            missing = [x for x in ("pred_boxes", "scores", "pred_classes") if not each.has(x)]
            if missing:
                raise ValueError(
                    f"the proposal generator gives no {', '.join(missing)}: ROCARegionHeads have "
                    "no box branch and need a detector such as AlignDETRProposals"
                )
        return proposals
