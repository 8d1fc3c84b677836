"""AlignDETR in the place of a region proposal network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from detectron2.modeling import PROPOSAL_GENERATOR_REGISTRY
from detectron2.structures import Boxes, ImageList, Instances

from roca_nocs.modeling.transformer.align_detr_head import AlignDETRHead, boxes_in_pixels

__all__ = ["AlignDETRProposals"]


@PROPOSAL_GENERATOR_REGISTRY.register()
class AlignDETRProposals(AlignDETRHead):
    """AlignDETR on the features of a region-based model, whose heads need no box branch.

    It detects instead of proposing: what it gives at inference are final boxes with scores and
    classes, for ROI heads such as ``ROCARegionHeads``.
    """

    def __init__(self, **head: Any) -> None:
        """
        Args:
            head: arguments of :class:`AlignDETRHead` but ``backbone``.

        Raises:
            ValueError: a backbone, or parts that do not fit each other.
        """
        if head.get("backbone") is not None:
            raise ValueError(
                "AlignDETRProposals works on the features of the model around it: "
                "give it no backbone"
            )
        super().__init__(**head)

    def forward(
        self,
        images: ImageList,
        features: dict[str, torch.Tensor],
        gt_instances: Sequence[Instances] | None = None,
    ) -> tuple[list[Instances], dict[str, torch.Tensor]]:
        """Detect.

        Args:
            images: the batch, padded.
            features: those that the neck names, (B, channels, H, W) by name.
            gt_instances: per image ``gt_boxes`` and ``gt_classes``; in training only.

        Returns:
            In training, per image the boxes of all queries, without gradient, as
            ``proposal_boxes`` (XYXY in pixels, within the image) and the logits of their best
            classes as ``objectness_logits``, and the losses of the criterion. At inference
            ``pred_boxes``, ``scores`` and ``pred_classes``, of which those outside the image are
            left out, and no losses.

        Raises:
            ValueError: no targets in training.
        """
        if not self.training:
            outputs = self.predict_from_features(features, images)
            found = self.detections(outputs, images.image_sizes)
            return [_within_image(each) for each in found], {}
        if gt_instances is None:
            raise ValueError("AlignDETRProposals needs gt_instances in training, got None")
        targets = self.prepare_targets(gt_instances)
        outputs = self.predict_from_features(features, images, targets)
        proposals = _proposals(outputs["pred_logits"], outputs["pred_boxes"], images.image_sizes)
        return proposals, self._losses(outputs, targets)


def _within_image(detections: Instances) -> Instances:
    """Boxes clipped to the image; those that become empty are left out."""
    detections.pred_boxes.clip(detections.image_size)
    return detections[detections.pred_boxes.nonempty()]


@torch.no_grad()
def _proposals(
    logits: torch.Tensor, boxes: torch.Tensor, image_sizes: Sequence[tuple[int, int]]
) -> list[Instances]:
    """Boxes (B, Q, 4), cxcywh in [0, 1], and logits (B, Q, C) as proposals of each image."""
    corners = boxes_in_pixels(boxes.float(), image_sizes)
    scores = logits.float().amax(dim=2)
    proposals = []
    for row, size in enumerate(image_sizes):
        within = Boxes(corners[row])
        within.clip(size)
        proposals.append(Instances(size, proposal_boxes=within, objectness_logits=scores[row]))
    return proposals
