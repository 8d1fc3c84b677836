"""Average precision of 3D boxes, and of their 2D boxes, in the protocol of Omni3D.

Source: Brazil et al., CVPR 2023, whose evaluation is that of COCO with the 3D IoU and with ranges
of depth in place of areas. Departure: the 3D IoU is exact, where the published kernel is off by
more than 0.001 for about every tenth pair.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from roca_nocs.geometry.box3d_overlap import elementwise_overlap

from .boxes3d import Boxes3D
from .frame_metrics import box_iou
from .matching import greedy_matching, pairs_between, rank_in_group
from .nocs_precision import class_mean

MAX_DETECTIONS = (1, 10, 100)
"""Per image and class, the best ones."""

MIN_PROXIMITY = 0.3
"""2D IoU that a pair exceeds to be eligible where annotations are not exhaustive."""

RECALLS = np.linspace(0, 1, 101)


@dataclass(frozen=True)
class Protocol:
    """What distinguishes the AP in space from the AP in the image.

    Attributes:
        in_space: whether overlaps are of the 3D boxes and sizes are depths (metres); else overlaps
            are of the 2D boxes and sizes are their areas (square pixels).
        thresholds: T that the overlap has to reach, ascending.
        highlighted: three of them that are reported each.
        ranges: name -> lowest and highest size, both included; the first one is of all sizes.
    """

    in_space: bool
    thresholds: tuple[float, ...]
    highlighted: tuple[float, float, float]
    ranges: dict[str, tuple[float, float]]

    def sizes(self, objects: Boxes3D) -> np.ndarray:
        """(N,) what the ranges refer to."""
        if self.in_space:
            return objects.centers[:, 2]
        return (objects.boxes[:, 2:] - objects.boxes[:, :2]).prod(axis=1)

    def overlaps(self, objects: Boxes3D, others: Boxes3D) -> np.ndarray:
        """(P,) intersection over union of P pairs."""
        if self.in_space:
            return elementwise_overlap(objects.oriented(), others.oriented())[1].numpy()
        return box_iou(objects.boxes, others.boxes)


IN_SPACE = Protocol(
    in_space=True,
    thresholds=tuple(step / 20 for step in range(1, 11)),
    highlighted=(0.15, 0.25, 0.5),
    ranges={"all": (0, 1e5), "near": (0, 10), "medium": (10, 35), "far": (35, 1e5)},
)
IN_IMAGE = Protocol(
    in_space=False,
    thresholds=tuple(step / 20 for step in range(10, 20)),
    highlighted=(0.5, 0.75, 0.95),
    ranges={
        "all": (0, 1e10),
        "small": (0, 32**2),
        "medium": (32**2, 96**2),
        "large": (96**2, 1e10),
    },
)


@dataclass(frozen=True)
class Omni3DPrecision:
    """Precision and recall of C classes; NaN for a class without annotations in a range.

    Attributes:
        protocol: with T thresholds and R ranges.
        precision: (T, 101, C, R) float64 with at most 100 detections per image and class.
        recall: (T, C, R, 3) float64, by the limits of `MAX_DETECTIONS`.
    """

    protocol: Protocol
    precision: np.ndarray
    recall: np.ndarray

    def summary(self) -> dict[str, float]:
        """Means over the classes with annotations, as fractions, in the published order."""
        names = list(self.protocol.ranges)
        metrics = {"AP": _mean(self.precision[..., 0])}
        for threshold in self.protocol.highlighted:
            row = self.protocol.thresholds.index(threshold)
            metrics[f"AP{round(100 * threshold)}"] = _mean(self.precision[row, :, :, 0])
        for column, name in enumerate(names[1:], start=1):
            metrics[f"AP{name}"] = _mean(self.precision[..., column])
        for column, limit in enumerate(MAX_DETECTIONS):
            metrics[f"AR{limit}"] = _mean(self.recall[:, :, 0, column])
        for column, name in enumerate(names[1:], start=1):
            metrics[f"AR{name}"] = _mean(self.recall[:, :, column, -1])
        return metrics

    def classes(self) -> np.ndarray:
        """(C,) AP over all thresholds and sizes; NaN for a class without annotations."""
        return self.precision[..., 0].mean(axis=(0, 1))


def omni3d_precision(
    pred: Boxes3D,
    gt: Boxes3D,
    ignored: np.ndarray,
    num_classes: int,
    protocol: Protocol,
    *,
    proximity: np.ndarray | bool = False,
) -> Omni3DPrecision:
    """Evaluate detections.

    Args:
        pred: N detections.
        gt: M annotations of the same images.
        ignored: (M,) bool, annotations that are neither found nor missed.
        num_classes: C.
        protocol: `IN_SPACE` or `IN_IMAGE`.
        proximity: for each image (I,) bool, or for all, whether annotations are not exhaustive: in
            an image with annotations of the class, detections far from all of them do not count.
    """
    order = np.lexsort((-pred.scores, pred.categories, pred.images))
    groups = pred.images * num_classes + pred.categories
    ranks = np.empty(len(pred), np.int64)
    ranks[order] = rank_in_group(groups[order])
    kept = ranks < MAX_DETECTIONS[-1]
    pred, ranks, groups = pred[kept], ranks[kept], groups[kept]

    first, second = pairs_between(groups, gt.images * num_classes + gt.categories)
    strict = np.asarray(proximity)
    strict = strict[pred.images[first]] if strict.ndim else np.full(len(first), strict)
    close = ~strict
    boxes = pred.boxes[first[strict]], gt.boxes[second[strict]]
    close[strict] = box_iou(*boxes) > MIN_PROXIMITY
    far = np.zeros(len(pred), bool)
    far[first] = True
    first, second = first[close], second[close]
    far[first] = False
    overlaps = protocol.overlaps(pred[first], gt[second])
    close = overlaps >= protocol.thresholds[0]
    first, second, overlaps = first[close], second[close], overlaps[close]

    order = np.lexsort((ranks, pred.images, -pred.scores))
    by_class = [order[pred.categories[order] == category] for category in range(num_classes)]
    shape = (len(protocol.thresholds), len(RECALLS), num_classes, len(protocol.ranges))
    precision = np.full(shape, np.nan)
    recall = np.full((shape[0], *shape[2:], len(MAX_DETECTIONS)), np.nan)
    sizes, gt_sizes = protocol.sizes(pred), protocol.sizes(gt)
    for column, (low, high) in enumerate(protocol.ranges.values()):
        gt_out = ignored | (gt_sizes < low) | (gt_sizes > high)
        out = far | (sizes < low) | (sizes > high)
        partner = _match(first, second, overlaps, ranks, gt_out, protocol.thresholds)
        matched = partner >= 0
        counting = ~np.where(matched, np.append(gt_out, False)[partner], out)
        hits, false = matched & counting, ~matched & counting
        num_annotated = np.bincount(gt.categories[~gt_out], minlength=num_classes)
        for category in np.flatnonzero(num_annotated):
            rows = by_class[category]
            curve = _precision_at_recalls(hits[:, rows], false[:, rows], num_annotated[category])
            precision[:, :, category, column] = curve
            for place, limit in enumerate(MAX_DETECTIONS):
                found = hits[:, rows[ranks[rows] < limit]].sum(axis=1)
                recall[:, category, column, place] = found / num_annotated[category]
    return Omni3DPrecision(protocol, precision, recall)


def _match(
    first: np.ndarray,
    second: np.ndarray,
    overlaps: np.ndarray,
    ranks: np.ndarray,
    gt_out: np.ndarray,
    thresholds: tuple[float, ...],
) -> np.ndarray:
    """(T, N) row of the annotation of each detection at each threshold, -1 = none.

    By falling score, a detection takes the free annotation of the highest overlap, the last one of
    several, and one that does not count only if there is no other.
    """
    order = np.lexsort((-second, -overlaps, gt_out[second]))
    first, second, overlaps = first[order], second[order], overlaps[order]
    limits = np.array(thresholds)[:, None]
    copies, rows = np.nonzero(overlaps >= limits)
    count, gt_count = len(ranks), len(gt_out)
    partner = greedy_matching(
        copies * count + first[rows],
        copies * gt_count + second[rows],
        np.tile(ranks, len(limits)),
    ).reshape(len(limits), count)
    return np.where(partner >= 0, partner - gt_count * np.arange(len(limits))[:, None], -1)


def _precision_at_recalls(hits: np.ndarray, false: np.ndarray, num_annotated: int) -> np.ndarray:
    """(T, 101) the highest precision at each recall or above it.

    Args:
        hits: (T, K) bool, detections by falling score that found an annotation.
        false: (T, K) bool, those that found none; the others do not count.
        num_annotated: annotations that count.
    """
    hit_counts = np.cumsum(hits, axis=1)
    positive = np.maximum(hit_counts + np.cumsum(false, axis=1), 1)
    envelope = np.maximum.accumulate((hit_counts / positive)[:, ::-1], axis=1)[:, ::-1]
    envelope = np.pad(envelope, ((0, 0), (0, 1)))
    places = [np.searchsorted(row, RECALLS, side="left") for row in hit_counts / num_annotated]
    return np.take_along_axis(envelope, np.stack(places), axis=1)


def _mean(values: np.ndarray) -> float:
    return float(class_mean(values.ravel()))
