"""Metrics of single images: average precision of boxes and masks at one IoU, errors of depth maps.

Source: the per-frame evaluation of ROCA (Gümeli et al., CVPR 2022). Departures: a class with
annotations but without predictions has the AP 0 and counts in the mean, a class without annotations
is left out of it, and a false positive is always booked on its own class.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pycocotools.mask as mask_util

from .matching import greedy_matching, pairs_between, rank_in_group

IOU_THRESHOLD = 0.5
MIN_DEPTH = 1e-5
"""Smaller ground-truth depths (metres) mean that there is none."""


@dataclass(frozen=True)
class AveragePrecision:
    """Average precisions as fractions.

    Attributes:
        classes: (C,), NaN for a class without annotations.
        mean: over the classes with annotations; NaN without any.
        pooled: of the instances of all classes together; NaN without annotations.
        unannotated: ascending classes that have predictions but no annotations. They are left out
            of `mean`; in `pooled` their predictions are false positives.
    """

    classes: np.ndarray
    mean: float
    pooled: float
    unannotated: tuple[int, ...]


def box_iou(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """(P,) intersection over union of P pairs of boxes (P, 4) XYXY; 0 for two empty boxes."""
    low = np.maximum(boxes[:, :2], others[:, :2])
    high = np.minimum(boxes[:, 2:], others[:, 2:])
    intersection = np.clip(high - low, 0, None).prod(axis=1)
    areas = [np.clip(b[:, 2:] - b[:, :2], 0, None).prod(axis=1) for b in (boxes, others)]
    union = areas[0] + areas[1] - intersection
    return np.divide(intersection, union, out=np.zeros_like(union), where=union > 0)


def mask_iou(
    first: np.ndarray,
    second: np.ndarray,
    masks: Sequence[dict[str, Any]],
    others: Sequence[dict[str, Any]],
    frames: np.ndarray,
) -> np.ndarray:
    """Intersection over union of pairs of masks, one call per image.

    Args:
        first: (P,) index into `masks` of each pair.
        second: (P,) index into `others`, of the same image.
        masks: N run-length encoded masks.
        others: M run-length encoded masks.
        frames: (N,) image of each of `masks`.

    Returns:
        (P,) float64; 0 for two empty masks.
    """
    values = np.zeros(len(first))
    order = np.argsort(frames[first], kind="stable")
    starts = np.flatnonzero(np.diff(frames[first[order]], prepend=-1))
    for pairs in np.split(order, starts[1:]) if len(order) else ():
        rows, row = np.unique(first[pairs], return_inverse=True)
        columns, column = np.unique(second[pairs], return_inverse=True)
        matrix = mask_util.iou(
            [masks[i] for i in rows], [others[i] for i in columns], [False] * len(columns)
        )
        values[pairs] = matrix[row, column]
    return values


@dataclass(frozen=True)
class FrameObjects:
    """N detected or annotated objects of all images.

    Attributes:
        frames: (N,) int64 number of the image.
        categories: (N,) int64.
        boxes: (N, 4) XYXY, pixels.
        scores: (N,); not used for annotations.
        masks: N run-length encoded masks of the size of the image, or none at all.
    """

    frames: np.ndarray
    categories: np.ndarray
    boxes: np.ndarray
    scores: np.ndarray
    masks: Sequence[dict[str, Any]] = ()

    def __len__(self) -> int:
        return len(self.frames)


def frame_order(predictions: FrameObjects) -> np.ndarray:
    """(N,) int64: predictions by image, class and falling score.

    Equal scores are ordered by the box, so that the order in which predictions are given has no
    influence.
    """
    return np.lexsort(
        (*predictions.boxes.T, -predictions.scores, predictions.categories, predictions.frames)
    )


def match_frames(
    predictions: FrameObjects, annotations: FrameObjects, *, by_mask: bool = False
) -> np.ndarray:
    """In the order of scores, each prediction takes the first free annotation of its class.

    "First" is in the order of the rows of the annotations, not the one with the largest IoU.

    Args:
        predictions: N detections.
        annotations: M annotated objects.
        by_mask: whether the IoU, which must reach 0.5, is that of the masks.

    Returns:
        (N,) int64: row of the annotation, -1 = none.
    """
    order = frame_order(predictions)
    stride = 1 + max(predictions.categories.max(initial=0), annotations.categories.max(initial=0))
    groups = (predictions.frames * stride + predictions.categories)[order]
    first, second = pairs_between(groups, annotations.frames * stride + annotations.categories)
    if by_mask:
        iou = mask_iou(
            order[first], second, predictions.masks, annotations.masks, predictions.frames
        )
    else:
        iou = box_iou(predictions.boxes[order[first]], annotations.boxes[second])
    near = iou >= IOU_THRESHOLD
    matched = np.full(len(predictions), -1, dtype=np.int64)
    matched[order] = greedy_matching(first[near], second[near], rank_in_group(groups))
    return matched


def average_precision(
    predictions: FrameObjects, annotations: FrameObjects, matched: np.ndarray, num_classes: int
) -> AveragePrecision:
    """Area under the precision envelope, per class, as their mean and of all instances.

    Args:
        predictions: N detections.
        annotations: M annotated objects.
        matched: (N,) what `match_frames` returned.
        num_classes: C.
    """
    order = frame_order(predictions)
    order = order[np.argsort(-predictions.scores[order], kind="stable")]
    correct, categories = matched[order] >= 0, predictions.categories[order]
    annotated = np.bincount(annotations.categories, minlength=num_classes)
    classes = np.array(
        [
            _area(correct[categories == category], annotated[category])
            for category in range(num_classes)
        ]
    )
    return AveragePrecision(
        classes=classes,
        mean=float(classes[annotated > 0].mean()) if annotated.any() else float("nan"),
        pooled=_area(correct, annotated.sum()),
        unannotated=tuple(np.unique(categories[annotated[categories] == 0]).tolist()),
    )


def _area(correct: np.ndarray, num_annotated: int) -> float:
    """All-point AP of predictions (N,) bool in the order of falling scores."""
    if num_annotated == 0:
        return float("nan")
    hits = np.cumsum(correct)
    precision = hits / np.arange(1, len(correct) + 1)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    return float(envelope[correct].sum() / num_annotated)


def depth_error(depth: np.ndarray, gt_depth: np.ndarray) -> float:
    """Mean absolute error of a depth map over the pixels with ground truth.

    Args:
        depth: (H, W) metres.
        gt_depth: (H, W) metres, 0 = none.

    Returns:
        Metres; NaN without ground truth.

    Raises:
        ValueError: the sizes differ.
    """
    if depth.shape != gt_depth.shape:
        raise ValueError(f"the predicted depth is {depth.shape}, the ground truth {gt_depth.shape}")
    known = gt_depth > MIN_DEPTH
    if not known.any():
        return float("nan")
    return float(np.abs(depth[known].astype(np.float64) - gt_depth[known]).mean())
