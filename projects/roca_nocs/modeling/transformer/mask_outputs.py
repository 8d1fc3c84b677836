"""From the masks of queries to instances and panoptic segments of an image.

n queries of one image, masks as logits at the resolution of the mask head.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from detectron2.structures import Boxes, Instances

from roca_nocs.modeling.transformer.detections import boxes_in_pixels, top_pairs
from roca_nocs.modeling.transformer.future_detector import Decoded, Encoded, FutureDetector

__all__ = ["image_instances", "merge_panoptic", "resize_masks"]

Size = tuple[int, int]

_MASKS_AT_ONCE = 16  # at the full size of the image


def resize_masks(
    logits: torch.Tensor,
    padded_size: Size,
    image_size: Size,
    output_size: Size,
    threshold: float = 0.5,
) -> torch.Tensor:
    """Binary masks at the size of the original image, as published with DETR.

    Args:
        logits: (n, h, w) of the padded image.
        padded_size: (height, width) of the batch.
        image_size: (height, width) of the image in the batch, in its upper left corner.
        output_size: (height, width) of the result.
        threshold: a mask is where the probability is above it.

    Returns:
        (n, *output_size) bool.
    """
    if len(logits) == 0:
        return logits.new_zeros((0, *output_size), dtype=torch.bool)
    parts = []
    for part in logits[:, None].float().split(_MASKS_AT_ONCE):
        full = F.interpolate(part, size=padded_size, mode="bilinear", align_corners=False)
        masks = full[..., : image_size[0], : image_size[1]].sigmoid() > threshold
        parts.append(F.interpolate(masks.float(), size=output_size, mode="nearest")[:, 0].bool())
    return torch.cat(parts)


@torch.no_grad()
def image_instances(
    detector: FutureDetector,
    encoded: Encoded,
    decoded: Decoded,
    *,
    padded_size: Size,
    image_sizes: Sequence[Size],
    output_sizes: Sequence[Size],
    count: int = 100,
    mask_threshold: float = 0.5,
) -> list[Instances]:
    """The best pairs of query and class of each image, with the boxes and masks of their queries.

    A query that is chosen for several classes has one mask, which is computed once. (The published
    code attaches the masks of all queries to the sorted pairs, so that a box and its mask belong to
    different objects.)

    Args:
        detector: whose mask head is used, if it has one.
        encoded, decoded: of B images.
        padded_size: (height, width) of the batch.
        image_sizes: (height, width) of each image in the batch.
        output_sizes: (height, width) of each result.
        count: pairs per image, at most.
        mask_threshold: a mask is where the probability is above it.

    Returns:
        Per image ``pred_boxes`` and ``pred_masks`` (boolean, (n, height, width)) at the output
        size, ``scores`` falling, ``pred_classes``. Boxes may be empty.
    """
    scores, labels, rows = top_pairs(decoded.logits[-1], count)
    boxes = decoded.boxes[-1].gather(1, rows[..., None].expand(-1, -1, 4))
    boxes = boxes_in_pixels(boxes, output_sizes)
    masks_of = None if detector.mask_type is None else detector.masks(encoded)
    results = []
    for image, output_size in enumerate(output_sizes):
        instances = Instances(
            output_size,
            pred_boxes=Boxes(boxes[image]),
            scores=scores[image],
            pred_classes=labels[image],
        )
        instances.pred_boxes.clip(output_size)
        if masks_of is not None:
            used, place = rows[image].unique(return_inverse=True)
            images = torch.full_like(used, image)
            of_rows = (decoded.hs[-1][image, used], images, decoded.boxes[-1][image, used])
            logits = masks_of(*of_rows)
            masks = resize_masks(
                logits, padded_size, image_sizes[image], output_size, mask_threshold
            )
            instances.pred_masks = masks[place]
        results.append(instances)
    return results


@torch.no_grad()
def merge_panoptic(
    scores: torch.Tensor,
    labels: torch.Tensor,
    logits: torch.Tensor,
    is_thing: torch.Tensor,
    *,
    padded_size: Size,
    image_size: Size,
    output_size: Size,
    score_threshold: float = 0.85,
    min_area: int = 5,
) -> tuple[torch.Tensor, list[dict[str, Any]]]:
    """One segment for each pixel, as published with DETR.

    Each pixel goes to the query of the largest mask logit. Queries of the same class of stuff are
    one segment. Segments that are too small leave their pixels to the others, until none is too
    small. (The published code merges stuff before the first such round only.)

    Args:
        scores: (n,) in [0, 1].
        labels: (n,) int64.
        logits: (n, h, w) of the padded image.
        is_thing: (K,) bool of each class.
        padded_size: (height, width) of the batch.
        image_size: (height, width) of the image in the batch.
        output_size: (height, width) of the result.
        score_threshold: queries at or below it are left out.
        min_area: pixels of the result that a segment needs.

    Returns:
        (H, W) int32 segment ids, 0 where there is none; and for each segment ``id`` (from 1),
        ``category_id``, ``isthing``, ``area`` in pixels and ``score``, that of its best query.
    """
    kept = (scores > score_threshold).nonzero().flatten()
    while len(kept):
        of_pixels = _assign_pixels(logits[kept], padded_size, image_size, output_size)
        segments = _first_of_stuff(labels[kept], is_thing)
        of_pixels = segments[of_pixels]
        areas = torch.bincount(of_pixels.flatten(), minlength=len(kept))
        large = areas[segments] >= min_area
        if bool(large.all()):
            return _describe(of_pixels, segments, areas, scores[kept], labels[kept], is_thing)
        kept = kept[large]
    return torch.zeros(output_size, dtype=torch.int32, device=logits.device), []


def _assign_pixels(
    logits: torch.Tensor, padded_size: Size, image_size: Size, output_size: Size
) -> torch.Tensor:
    """(H, W) int64: the query of the largest logit at each pixel."""
    full = F.interpolate(
        logits[None].float(), size=padded_size, mode="bilinear", align_corners=False
    )[0]
    best = full[:, : image_size[0], : image_size[1]].argmax(dim=0)
    resized = F.interpolate(best[None, None].float(), size=output_size, mode="nearest")
    return resized[0, 0].long()


def _first_of_stuff(labels: torch.Tensor, is_thing: torch.Tensor) -> torch.Tensor:
    """(n,) int64: the first query of the same class for stuff, the query itself for things."""
    same = (labels[:, None] == labels) & ~is_thing[labels][:, None]
    same |= torch.eye(len(labels), dtype=torch.bool, device=labels.device)
    return same.int().argmax(dim=1)


def _describe(
    of_pixels: torch.Tensor,
    segments: torch.Tensor,
    areas: torch.Tensor,
    scores: torch.Tensor,
    labels: torch.Tensor,
    is_thing: torch.Tensor,
) -> tuple[torch.Tensor, list[dict[str, Any]]]:
    present, numbers = segments.unique(return_inverse=True)
    best = torch.zeros_like(scores[present]).scatter_reduce_(0, numbers, scores, "amax")
    ids = torch.zeros_like(segments)
    ids[present] = torch.arange(1, len(present) + 1, device=ids.device)
    columns = (labels[present], is_thing[labels[present]], areas[present], best)
    infos = [
        {"id": number, "category_id": label, "isthing": thing, "area": area, "score": score}
        for number, (label, thing, area, score) in enumerate(
            zip(*(column.tolist() for column in columns), strict=True), start=1
        )
    ]
    return ids[of_pixels].int(), infos
