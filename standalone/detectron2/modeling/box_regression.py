"""Box deltas and the losses of box regression."""

from __future__ import annotations

import math
from collections.abc import Sequence
from types import EllipsisType

import torch
from detectron2.layers import cat, ciou_loss, diou_loss
from detectron2.structures import Boxes
from fvcore.nn import giou_loss, smooth_l1_loss

MAX_LOG_SCALE = math.log(1000.0 / 16)
"""Largest predicted growth: a 16 pixel anchor never grows beyond 1000 pixels."""


class Box2BoxTransform:
    """The parameterisation of R-CNN (arXiv 1311.2524, appendix C): shifts relative to the size of
    the source box, and logarithms of the ratios of the sides."""

    def __init__(self, weights: Sequence[float], scale_clamp: float = MAX_LOG_SCALE) -> None:
        """Set the scaling.

        Args:
            weights: factors of (dx, dy, dw, dh), chosen to give the deltas unit variance.
            scale_clamp: upper limit of the (unweighted) dw and dh when deltas are applied.
        """
        self.weights = tuple(float(weight) for weight in weights)
        assert len(self.weights) == 4, f"Box2BoxTransform needs 4 weights, got {self.weights}."
        self.scale_clamp = scale_clamp

    def get_deltas(self, src_boxes: torch.Tensor, target_boxes: torch.Tensor) -> torch.Tensor:
        """Deltas ``(N, 4)`` that turn source into target boxes, both ``(N, 4)`` in pixels."""
        assert isinstance(src_boxes, torch.Tensor), f"Expected a tensor, got {type(src_boxes)}."
        assert isinstance(target_boxes, torch.Tensor), (
            f"Expected a tensor, got {type(target_boxes)}."
        )
        source_centre, source_size = _centre_and_size(src_boxes)
        target_centre, target_size = _centre_and_size(target_boxes)
        assert (source_size[..., 0] > 0).all(), "Input boxes to Box2BoxTransform are not valid!"
        wx, wy, ww, wh = self.weights
        dx, dy = ((target_centre - source_centre) / source_size).unbind(dim=-1)
        dw, dh = torch.log(target_size / source_size).unbind(dim=-1)
        return torch.stack([wx * dx, wy * dy, ww * dw, wh * dh], dim=-1)

    def apply_deltas(self, deltas: torch.Tensor, boxes: torch.Tensor) -> torch.Tensor:
        """Move boxes by deltas.

        Args:
            deltas: ``(N, 4k)``, k sets per box; converted to float32, which the exponential needs.
            boxes: ``(N, 4)`` in pixels.

        Returns:
            float32 ``(N, 4k)``.
        """
        dx, dy, dw, dh = deltas.float().unflatten(-1, (-1, 4)).unbind(dim=-1)
        centre, size = _centre_and_size(boxes.to(torch.float32)[:, None])
        wx, wy, ww, wh = self.weights
        centre_x = dx / wx * size[..., 0] + centre[..., 0]
        centre_y = dy / wy * size[..., 1] + centre[..., 1]
        half_width = (dw / ww).clamp(max=self.scale_clamp).exp() * size[..., 0] * 0.5
        half_height = (dh / wh).clamp(max=self.scale_clamp).exp() * size[..., 1] * 0.5
        moved = [
            centre_x - half_width,
            centre_y - half_height,
            centre_x + half_width,
            centre_y + half_height,
        ]
        return torch.stack(moved, dim=-1).flatten(-2)


def _centre_and_size(boxes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    size = boxes[..., 2:] - boxes[..., :2]
    return boxes[..., :2] + 0.5 * size, size


_IOU_LOSSES = {"giou": giou_loss, "diou": diou_loss, "ciou": ciou_loss}


def _dense_box_regression_loss(
    anchors: Sequence[Boxes | torch.Tensor],
    box2box_transform: Box2BoxTransform,
    pred_anchor_deltas: Sequence[torch.Tensor],
    gt_boxes: Sequence[torch.Tensor],
    fg_mask: torch.Tensor | EllipsisType,
    box_reg_loss_type: str = "smooth_l1",
    smooth_l1_beta: float = 0.0,
) -> torch.Tensor:
    """Box regression loss, summed over the foreground.

    Args:
        anchors: per level boxes ``(R_l, 4)``; ``R`` is their total number.
        box2box_transform: parameterisation of the deltas.
        pred_anchor_deltas: per level predictions ``(N, R_l, 4)`` for N images.
        gt_boxes: per image the target of every anchor ``(R, 4)``; whatever for the background.
        fg_mask: foreground ``(N, R)``, or ``...`` for everything.
        box_reg_loss_type: ``smooth_l1`` on deltas, or ``giou``, ``diou``, ``ciou`` on boxes.
        smooth_l1_beta: width of the quadratic part of ``smooth_l1``; 0 is the L1 loss.

    Raises:
        ValueError: unknown loss type.
    """
    tensors = [level.tensor if isinstance(level, Boxes) else level for level in anchors]
    targets = torch.stack(list(gt_boxes))
    # Only the (few) foreground anchors are encoded or decoded.
    sources = cat(tensors).expand_as(targets)[fg_mask].reshape(-1, 4)
    targets = targets[fg_mask].reshape(-1, 4)
    deltas = cat(list(pred_anchor_deltas), dim=1)[fg_mask].reshape(-1, 4)
    if box_reg_loss_type == "smooth_l1":
        target_deltas = box2box_transform.get_deltas(sources, targets)
        return smooth_l1_loss(deltas, target_deltas, beta=smooth_l1_beta, reduction="sum")
    if box_reg_loss_type in _IOU_LOSSES:
        boxes = box2box_transform.apply_deltas(deltas, sources)
        return _IOU_LOSSES[box_reg_loss_type](boxes, targets, reduction="sum")
    raise ValueError(
        f"Invalid dense box regression loss type '{box_reg_loss_type}', choose 'smooth_l1' or one "
        f"of {sorted(_IOU_LOSSES)}."
    )
