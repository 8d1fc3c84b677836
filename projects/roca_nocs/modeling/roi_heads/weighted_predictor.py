"""Box predictor whose losses weigh classes by their rarity (ROCA's published training code)."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from detectron2.layers import ShapeSpec
from detectron2.modeling import FastRCNNOutputLayers
from detectron2.structures import Instances

from roca_nocs.losses import cross_entropy, select_class_weights, weighted_mean

__all__ = ["WeightedFastRCNNOutputLayers"]


class WeightedFastRCNNOutputLayers(FastRCNNOutputLayers):
    """``FastRCNNOutputLayers`` with class weights; without weights it is exactly that.

    With weights, the classification loss is the weighted mean of the cross-entropy over the
    sampled proposals, and the box loss the weighted mean of smooth L1 over the coordinates of the
    foreground (detectron2 divides by the number of all proposals instead). Both are 0 where there
    is nothing to average.
    """

    def __init__(
        self,
        input_shape: ShapeSpec | int,
        *,
        class_weights: torch.Tensor | None = None,
        published_indexing: bool = False,
        **kwargs: Any,
    ) -> None:
        """
        Args:
            input_shape: see ``FastRCNNOutputLayers``.
            class_weights: see :meth:`set_class_weights`.
            published_indexing: read the weights as the published code does, shifted by one: a
                class has the weight of the class before it, background that of the last class.
            kwargs: arguments of ``FastRCNNOutputLayers``; with weights only the smooth L1 and
                softmax losses are defined.

        Raises:
            ValueError: another loss is asked for, or the weights do not fit.
        """
        super().__init__(input_shape, **kwargs)
        if self.box_reg_loss_type != "smooth_l1" or self.use_sigmoid_ce:
            raise ValueError(
                "class weights need box_reg_loss_type='smooth_l1' and use_sigmoid_ce=False, got "
                f"{self.box_reg_loss_type!r} and {self.use_sigmoid_ce}"
            )
        self.published_indexing = published_indexing
        # Not in checkpoints: the ROI heads keep the weights there.
        self.register_buffer("class_weights", None, persistent=False)
        self.set_class_weights(class_weights)

    def set_class_weights(self, weights: torch.Tensor | None) -> None:
        """Weigh the losses from now on.

        Args:
            weights: (C + 1,), background first (``losses.class_weights_from_counts``); copied to
                the device of the layers. None for no weights.

        Raises:
            ValueError: there is not one weight per class and background.
        """
        if weights is not None:
            if weights.shape != (self.num_classes + 1,):
                raise ValueError(
                    f"{self.num_classes} classes need {self.num_classes + 1} weights, background "
                    f"first, got shape {tuple(weights.shape)}"
                )
            weights = weights.detach().to(self.cls_score.weight.device, torch.float32, copy=True)
        self.class_weights = weights

    def losses(
        self, predictions: tuple[torch.Tensor, torch.Tensor], proposals: list[Instances]
    ) -> dict[str, torch.Tensor]:
        """``loss_cls`` and ``loss_box_reg``, see ``FastRCNNOutputLayers``."""
        losses = super().losses(predictions, proposals)
        if self.class_weights is not None:
            logits = predictions[0].float()
            classes = [each.gt_classes for each in proposals]
            classes = torch.cat(classes) if classes else logits.new_zeros(0, dtype=torch.int64)
            loss = cross_entropy(logits, classes, self._weights_of(classes))
            losses["loss_cls"] = loss * self.loss_weight.get("loss_cls", 1.0)
        return losses

    def box_reg_loss(
        self,
        proposal_boxes: torch.Tensor,
        gt_boxes: torch.Tensor,
        pred_deltas: torch.Tensor,
        gt_classes: torch.Tensor,
    ) -> torch.Tensor:
        """Regression loss of the foreground.

        Args:
            proposal_boxes: (R, 4), XYXY in pixels.
            gt_boxes: (R, 4).
            pred_deltas: (R, 4 C), or (R, 4) for class-agnostic regression.
            gt_classes: (R,) int64 in [0, C], C = background.
        """
        if self.class_weights is None:
            return super().box_reg_loss(proposal_boxes, gt_boxes, pred_deltas, gt_classes)
        rows = ((gt_classes >= 0) & (gt_classes < self.num_classes)).nonzero()[:, 0]
        # Without images detectron2 passes an empty float tensor.
        classes = gt_classes[rows].long()
        deltas = pred_deltas[rows].float().unflatten(1, (-1, 4))
        own = classes if deltas.shape[1] > 1 else torch.zeros_like(classes)
        deltas = deltas[torch.arange(len(rows), device=rows.device), own]
        target = self.box2box_transform.get_deltas(proposal_boxes[rows], gt_boxes[rows])
        distance = F.smooth_l1_loss(
            deltas, target.to(deltas.dtype), reduction="none", beta=self.smooth_l1_beta
        )
        return weighted_mean(distance, self._weights_of(classes))

    def _weights_of(self, classes: torch.Tensor) -> torch.Tensor:
        if self.published_indexing:
            return self.class_weights[classes]
        return select_class_weights(self.class_weights, classes)
