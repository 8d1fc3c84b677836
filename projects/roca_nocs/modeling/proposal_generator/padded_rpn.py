"""A region proposal network that also gives its outputs in tensors of a fixed size.

B images, N anchors of an image over all levels, K proposals handed to the head.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import PROPOSAL_GENERATOR_REGISTRY
from detectron2.modeling.proposal_generator import RPN
from detectron2.structures import Boxes, ImageList, Instances
from detectron2.utils.events import get_event_storage

from roca_nocs.modeling.criteria.mono3d_loss import anchor_box_loss, objectness_loss
from roca_nocs.modeling.mono3d.instances import pad_instances
from roca_nocs.modeling.mono3d.padding import pad_proposals
from roca_nocs.modeling.mono3d.targets import make_feature

__all__ = ["OBJECTNESS", "PaddedRPN"]

OBJECTNESS = ("bce", "iou")
"""What the objectness learns: whether there is an object, or the IoU of the anchor with it."""

_NUM_HARDEST = 50


@PROPOSAL_GENERATOR_REGISTRY.register()
class PaddedRPN(RPN):
    """An ``RPN`` for ground truth with 3D boxes and with regions to ignore.

    Anchors of the background that lie in such a region by half their area or more are not trained.
    The event storage gets ``mono3d/pos_objectness``, the mean probability of the positive anchors,
    and ``mono3d/neg_objectness_top50``, that of the 50 negative ones with the largest.
    """

    @configurable
    def __init__(self, *, objectness: str = "bce", **kwargs: Any) -> None:
        """
        Args:
            objectness: one of ``OBJECTNESS``. With ``"iou"`` (Cube R-CNN, Brazil et al., CVPR 2023)
                the anchors are drawn, and both of their losses weighted, by their IoU; matcher
                thresholds of 0.05 and a positive fraction of 1 belong to it.
            kwargs: arguments of ``RPN``.

        Raises:
            ValueError: an unknown objectness, or an option that does not go with it.
        """
        super().__init__(**kwargs)
        if objectness not in OBJECTNESS:
            raise ValueError(f"unknown objectness {objectness!r}; expected one of {OBJECTNESS}")
        if self.box_reg_loss_type != "smooth_l1" or self.anchor_boundary_thresh >= 0:
            raise ValueError(
                "PaddedRPN regresses boxes by smooth L1 and trains anchors beyond the image too; "
                f"box_reg_loss_type is {self.box_reg_loss_type!r} and anchor_boundary_thresh "
                f"{self.anchor_boundary_thresh}"
            )
        self.objectness = objectness

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict[str, Any]:
        """Read ``cfg.MODEL`` with the keys of ``modeling.mono3d_config.add_mono3d_config``."""
        weights = cfg.MODEL.LOSS_W
        return {
            **super().from_config(cfg, input_shape),
            "objectness": cfg.MODEL.RPN.OBJECTNESS,
            "loss_weight": {"loss_rpn_cls": weights.OBJECT, "loss_rpn_loc": weights.BOX2D},
        }

    def forward(
        self,
        images: ImageList,
        features: dict[str, torch.Tensor],
        gt_instances: list[Instances] | None = None,
        ignore_boxes: Sequence[torch.Tensor] | None = None,
    ) -> tuple[list[Instances], dict[str, torch.Tensor]]:
        """Propose boxes; in training also the losses.

        Args:
            images: the batch, of which only the sizes are used.
            features: (B, channels, h, w) by name.
            gt_instances: of each image, with the fields of ``data.mono3d_mapper.Mono3DMapper``; in
                training.
            ignore_boxes: of each image (M, 4), XYXY pixels; in training.

        Returns:
            Per image ``proposal_boxes`` and ``objectness_logits``, best first, and the losses.

        Raises:
            ValueError: no ground truth in training.
        """
        dense = self._dense_outputs(features)
        return self._propose(images, *dense, gt_instances, ignore_boxes)

    def forward_padded(
        self,
        images: ImageList,
        features: dict[str, torch.Tensor],
        gt_instances: list[Instances] | None = None,
        ignore_boxes: Sequence[torch.Tensor] | None = None,
    ) -> tuple[list[Instances], dict[str, torch.Tensor], dict[str, dict[str, torch.Tensor]]]:
        """What :meth:`forward` returns, and the same pass in tensors of a fixed size.

        Args:
            images, features, gt_instances, ignore_boxes: see :meth:`forward`.

        Returns:
            Proposals, losses, and ``dense``: ``anchors`` (N, 4), ``rpn_bbox2d_logit`` (B, N, 4) and
            ``rpn_object_logit`` (B, N, 1), ordered by level, row, column and anchor; ``head``:
            ``rpn_bbox2d`` (B, K, 4) within the images, ``rpn_object_logit`` and ``rpn_valid``
            (B, K, 1), with K the ``post_nms_topk`` of training or inference.

        Raises:
            ValueError: no ground truth in training.
        """
        anchors, logits, deltas = self._dense_outputs(features)
        proposals, losses = self._propose(
            images, anchors, logits, deltas, gt_instances, ignore_boxes
        )
        padded = {
            "dense": {
                "anchors": Boxes.cat(anchors).tensor,
                "rpn_bbox2d_logit": torch.cat(deltas, dim=1),
                "rpn_object_logit": torch.cat(logits, dim=1)[..., None],
            },
            "head": pad_proposals(
                [each.proposal_boxes.tensor for each in proposals],
                [each.objectness_logits for each in proposals],
                self.post_nms_topk[self.training],
            ),
        }
        return proposals, losses, padded

    def _propose(
        self,
        images: ImageList,
        anchors: list[Boxes],
        logits: list[torch.Tensor],
        deltas: list[torch.Tensor],
        gt_instances: list[Instances] | None,
        ignore_boxes: Sequence[torch.Tensor] | None,
    ) -> tuple[list[Instances], dict[str, torch.Tensor]]:
        """Proposals and losses from the outputs of all levels."""
        losses: dict[str, torch.Tensor] = {}
        if self.training:
            if gt_instances is None:
                raise ValueError("PaddedRPN needs gt_instances in training, got None")
            targets = self.anchor_targets(anchors, gt_instances, ignore_boxes)
            losses = self._losses(torch.cat(logits, dim=1), torch.cat(deltas, dim=1), targets)
        return self.predict_proposals(anchors, logits, deltas, images.image_sizes), losses

    def _dense_outputs(
        self, features: dict[str, torch.Tensor]
    ) -> tuple[list[Boxes], list[torch.Tensor], list[torch.Tensor]]:
        """Anchors, logits (B, n) and deltas (B, n, 4) of each level."""
        levels = [features[name] for name in self.in_features]
        logits, deltas = self.rpn_head(levels)
        logits = [each.permute(0, 2, 3, 1).flatten(1) for each in logits]
        deltas = [
            each.unflatten(1, (-1, 4)).permute(0, 3, 4, 1, 2).flatten(1, 3) for each in deltas
        ]
        return self.anchor_generator(levels), logits, deltas

    def anchor_targets(
        self,
        anchors: list[Boxes],
        gt_instances: list[Instances],
        ignore_boxes: Sequence[torch.Tensor] | None = None,
    ) -> dict[str, torch.Tensor]:
        """Targets of the anchors of all levels after sampling, see ``mono3d.targets.make_feature``.

        Args:
            anchors: of each level.
            gt_instances, ignore_boxes: see :meth:`forward`.
        """
        weighted = self.objectness == "iou"
        targets = make_feature(
            pad_instances(gt_instances),
            Boxes.cat(anchors).tensor,
            self.anchor_matcher,
            self.box2box_transform,
            ignore_boxes=ignore_boxes,
            num_sampled=None if weighted else self.batch_size_per_image,
            positive_fraction=self.positive_fraction,
        )
        if weighted:
            for labels, iou in zip(targets["object"], targets["iou"], strict=True):
                self._sample_by_iou(labels[:, 0], iou[:, 0])
        return targets

    def _sample_by_iou(self, labels: torch.Tensor, iou: torch.Tensor) -> None:
        """Set all but a random sample of labels (N,) to -1, in place; IoU is the chance."""
        positive = (labels == 1).nonzero().squeeze(1)
        negative = (labels == 0).nonzero().squeeze(1)
        wanted = int(self.batch_size_per_image * self.positive_fraction)
        if len(positive) > wanted:
            # Exponential races draw without replacement, and take more than the 2^24 candidates
            # of torch.multinomial.
            times = torch.empty_like(iou[positive]).exponential_() / iou[positive]
            positive = positive[times.argsort()[:wanted]]
        rest = self.batch_size_per_image - len(positive)
        order = torch.randperm(len(negative), device=labels.device)
        negative = negative[order[:rest]]
        labels.fill_(-1)
        labels[positive] = 1
        labels[negative] = 0

    def _losses(
        self, logits: torch.Tensor, deltas: torch.Tensor, targets: dict[str, torch.Tensor]
    ) -> dict[str, torch.Tensor]:
        """Weighted ``loss_rpn_cls`` and ``loss_rpn_loc`` of logits (B, N), deltas (B, N, 4)."""
        labels = targets["object"].squeeze(-1)
        iou = targets["iou"].squeeze(-1) if self.objectness == "iou" else None
        losses = {
            "loss_rpn_cls": objectness_loss(logits, labels, self.batch_size_per_image, iou=iou),
            "loss_rpn_loc": anchor_box_loss(
                deltas,
                targets["bbox2d_logit"],
                labels,
                self.batch_size_per_image,
                beta=self.smooth_l1_beta,
                iou=iou,
            ),
        }
        self._log(logits, labels)
        return {name: loss * self.loss_weight.get(name, 1.0) for name, loss in losses.items()}

    @torch.no_grad()
    def _log(self, logits: torch.Tensor, labels: torch.Tensor) -> None:
        """Mean objectness of positive, and of the hardest negative anchors; both (B, N)."""
        probabilities = logits.float().sigmoid()
        storage = get_event_storage()
        positive, negative = probabilities[labels == 1], probabilities[labels == 0]
        storage.put_scalar("rpn/num_pos_anchors", len(positive) / len(labels))
        storage.put_scalar("rpn/num_neg_anchors", len(negative) / len(labels))
        if len(positive):
            storage.put_scalar("mono3d/pos_objectness", positive.mean())
        if len(negative):
            hardest = negative.topk(min(_NUM_HARDEST, len(negative))).values
            storage.put_scalar("mono3d/neg_objectness_top50", hardest.mean())
