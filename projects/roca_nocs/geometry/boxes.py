"""Axis-aligned boxes of set-prediction detectors: formats, IoU, GIoU, and the logit of coordinates.

Two formats, both with x right and y down: cxcywh (centre and size) and xyxy (two corners). The unit
is the caller's; the overlaps assume coordinates of the order of 1 (boxes normalised by the image),
because areas are compared with an epsilon of 1e-6 as in the published DETR-family code. Functions
keep the dtype of their input and are differentiable.
"""

from __future__ import annotations

import torch

# Added to the union and to the hull, so that pairs of empty boxes give 0 and a finite gradient.
_AREA_EPSILON = 1e-6


def cxcywh_to_xyxy(boxes: torch.Tensor) -> torch.Tensor:
    """(..., 4) boxes as (centre x, centre y, width, height) to (x1, y1, x2, y2)."""
    centre, size = boxes.split(2, dim=-1)
    return torch.cat([centre - 0.5 * size, centre + 0.5 * size], dim=-1)


def xyxy_to_cxcywh(boxes: torch.Tensor) -> torch.Tensor:
    """(..., 4) boxes as (x1, y1, x2, y2) to (centre x, centre y, width, height)."""
    low, high = boxes.split(2, dim=-1)
    return torch.cat([0.5 * (low + high), high - low], dim=-1)


def elementwise_iou(
    boxes: torch.Tensor, others: torch.Tensor, eps: float = _AREA_EPSILON
) -> torch.Tensor:
    """Intersection over union of pairs of boxes: inter / (union + eps).

    Args:
        boxes, others: (..., 4) xyxy, sizes not negative; leading dimensions broadcast.
        eps: positive; smaller for boxes of which the default is a noticeable part.

    Returns:
        (...), in [0, 1).
    """
    return _iou_and_union(boxes, others, eps)[0]


def elementwise_giou(
    boxes: torch.Tensor, others: torch.Tensor, eps: float = _AREA_EPSILON
) -> torch.Tensor:
    """Generalised IoU of pairs of boxes (Rezatofighi et al., CVPR 2019).

    With h the area of the smallest box around both: IoU - (h - union) / (h + eps).

    Args:
        boxes, others: (..., 4) xyxy, sizes not negative; leading dimensions broadcast.
        eps: as for :func:`elementwise_iou`.

    Returns:
        (...), in (-1, 1).
    """
    iou, union = _iou_and_union(boxes, others, eps)
    return iou - _empty_share_of_hull(boxes, others, union, eps)


def pairwise_iou_giou(
    boxes: torch.Tensor, others: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """IoU and GIoU of all pairs of two sets of boxes.

    Args:
        boxes: (..., N, 4) xyxy, sizes not negative.
        others: (..., M, 4) likewise.

    Returns:
        Two (..., N, M) tensors, entries as :func:`elementwise_iou` and :func:`elementwise_giou`.
    """
    rows, columns = boxes[..., :, None, :], others[..., None, :, :]
    iou, union = _iou_and_union(rows, columns)
    return iou, iou - _empty_share_of_hull(rows, columns, union)


def inverse_sigmoid(x: torch.Tensor, eps: float = 1e-3) -> torch.Tensor:
    """log(max(x, eps) / max(1 - x, eps)) with x clamped to [0, 1] first.

    The default ``eps`` is part of the published models (DINO and AlignDETR of detrex): coordinates
    closer than it to 0 or 1 are saturated and get no gradient.
    """
    x = x.clamp(0.0, 1.0)
    return (x.clamp(min=eps) / (1.0 - x).clamp(min=eps)).log()


# Coordinates are taken apart first: torch is slow with reductions over a last dimension of two.


def _iou_and_union(
    boxes: torch.Tensor, others: torch.Tensor, eps: float = _AREA_EPSILON
) -> tuple[torch.Tensor, torch.Tensor]:
    a_x1, a_y1, a_x2, a_y2 = boxes.unbind(dim=-1)
    b_x1, b_y1, b_x2, b_y2 = others.unbind(dim=-1)
    width = torch.minimum(a_x2, b_x2) - torch.maximum(a_x1, b_x1)
    height = torch.minimum(a_y2, b_y2) - torch.maximum(a_y1, b_y1)
    inter = width.clamp(min=0) * height.clamp(min=0)
    union = (a_x2 - a_x1) * (a_y2 - a_y1) + (b_x2 - b_x1) * (b_y2 - b_y1) - inter
    return inter / (union + eps), union


def _empty_share_of_hull(
    boxes: torch.Tensor, others: torch.Tensor, union: torch.Tensor, eps: float = _AREA_EPSILON
) -> torch.Tensor:
    a_x1, a_y1, a_x2, a_y2 = boxes.unbind(dim=-1)
    b_x1, b_y1, b_x2, b_y2 = others.unbind(dim=-1)
    width = torch.maximum(a_x2, b_x2) - torch.minimum(a_x1, b_x1)
    height = torch.maximum(a_y2, b_y2) - torch.minimum(a_y1, b_y1)
    hull = width * height
    return (hull - union) / (hull + eps)
