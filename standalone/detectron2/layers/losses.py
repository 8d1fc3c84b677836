"""Box regression losses based on the intersection over union."""

from __future__ import annotations

import torch
from torchvision.ops import complete_box_iou_loss, distance_box_iou_loss


def diou_loss(
    boxes1: torch.Tensor, boxes2: torch.Tensor, reduction: str = "none", eps: float = 1e-7
) -> torch.Tensor:
    """Distance-IoU loss (arXiv 1911.08287, equation 7).

    Args:
        boxes1: predicted boxes ``(N, 4)`` or ``(4,)`` as (x0, y0, x1, y1); asserted valid.
        boxes2: target boxes of the same shape.
        reduction: ``none``, ``mean`` (0 over no box) or ``sum``.
        eps: keeps denominators away from 0.
    """
    _assert_valid(boxes1)
    return distance_box_iou_loss(boxes1, boxes2, reduction=reduction, eps=eps)


def ciou_loss(
    boxes1: torch.Tensor, boxes2: torch.Tensor, reduction: str = "none", eps: float = 1e-7
) -> torch.Tensor:
    """Complete-IoU loss (arXiv 1911.08287, equation 10); arguments as in :func:`diou_loss`."""
    _assert_valid(boxes1)
    return complete_box_iou_loss(boxes1, boxes2, reduction=reduction, eps=eps)


def _assert_valid(boxes: torch.Tensor) -> None:
    assert (boxes[..., 2] >= boxes[..., 0]).all(), "bad box: x1 larger than x2"
    assert (boxes[..., 3] >= boxes[..., 1]).all(), "bad box: y1 larger than y2"
