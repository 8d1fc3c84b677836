"""Non-maximum suppression."""

from __future__ import annotations

import torch
from torchvision import ops
from torchvision.ops import nms

__all__ = ["batched_nms", "nms"]


def batched_nms(
    boxes: torch.Tensor, scores: torch.Tensor, idxs: torch.Tensor, iou_threshold: float
) -> torch.Tensor:
    """Suppress boxes that overlap a better one of the same group.

    Args:
        boxes: ``(N, 4)`` as (x0, y0, x1, y1). Converted to float32: the groups are separated by an
            offset that half precision cannot hold.
        scores: ``(N,)``.
        idxs: ``(N,)`` group of each box, e.g. its class or pyramid level.
        iou_threshold: a larger overlap suppresses.

    Returns:
        int64 indices of the kept boxes by decreasing score.
    """
    assert boxes.shape[-1] == 4, f"Boxes need shape (N, 4), got {tuple(boxes.shape)}."
    return ops.batched_nms(boxes.float(), scores, idxs, iou_threshold)
