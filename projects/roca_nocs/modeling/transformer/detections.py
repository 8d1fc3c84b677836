"""The best pairs of query and class of a detector without suppression."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from roca_nocs.geometry.boxes import cxcywh_to_xyxy

__all__ = ["boxes_in_pixels", "select_detections", "top_pairs"]


def top_pairs(logits: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The best pairs of a query and a class; a query may occur with several classes.

    Args:
        logits: (B, Q, C).
        count: K, at most; Q * C if that is less.

    Returns:
        scores (B, K) in [0, 1], falling; labels (B, K) int64; rows (B, K) int64 of the queries.
    """
    num_classes = logits.shape[-1]
    probabilities = logits.float().sigmoid().flatten(1)
    scores, chosen = probabilities.topk(min(count, probabilities.shape[1]), dim=1)
    return scores, chosen % num_classes, chosen.div(num_classes, rounding_mode="floor")


def select_detections(
    logits: torch.Tensor,
    boxes: torch.Tensor,
    image_sizes: Sequence[tuple[int, int]],
    count: int,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """:func:`top_pairs` with their boxes.

    Args:
        logits: (B, Q, C).
        boxes: (B, Q, 4) cxcywh in [0, 1].
        image_sizes: (height, width) of each image in pixels.
        count: K, at most; Q * C if that is less.

    Returns:
        scores (B, K) in [0, 1], falling; labels (B, K) int64; boxes (B, K, 4) xyxy in pixels.
    """
    scores, labels, rows = top_pairs(logits, count)
    boxes = boxes.gather(1, rows[..., None].expand(-1, -1, 4))
    return scores, labels, boxes_in_pixels(boxes, image_sizes)


def boxes_in_pixels(boxes: torch.Tensor, image_sizes: Sequence[tuple[int, int]]) -> torch.Tensor:
    """Boxes (B, K, 4), cxcywh in [0, 1] of images of (height, width), as xyxy in pixels."""
    sizes = boxes.new_tensor([[width, height] * 2 for height, width in image_sizes])
    return cxcywh_to_xyxy(boxes) * sizes[:, None]
