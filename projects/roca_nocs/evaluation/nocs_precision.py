"""Average precision of category-level poses: at 3D IoUs, and at errors of rotation and translation.

Source: the evaluation of NOCS (Wang et al., CVPR 2019). Two protocols for the pose:

* published: only the predictions and annotations that are matched at the 3D IoU 0.1 count, so that
  a missed object costs nothing;
* by detection: all predictions and all annotations count.

Departures: a class without annotations has the AP NaN and is left out of the mean; equal scores
keep the order of the predictions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np

from .matching import greedy_matching, pairs_between, rank_in_group
from .nocs_metrics import PosedObjects, SymmetryRule, box_overlaps, pose_errors

IOU_THRESHOLDS = (0.25, 0.5, 0.75)
ANY_DEGREES, ANY_CENTIMETRES = 360.0, 100.0
DEGREES = (5.0, 10.0, 15.0, ANY_DEGREES)
CENTIMETRES = (2.0, 5.0, 10.0, 15.0, ANY_CENTIMETRES)
"""The last thresholds stand for any error, as in the published code."""

MIN_IOU = 0.1
"""From this IoU on, a prediction and an annotation enter the published pose AP."""


@dataclass(frozen=True)
class Pairs:
    """P pairs of a posed prediction and an annotation of the same image and class.

    Attributes:
        pred: (P,) int64 row of the prediction.
        gt: (P,) int64 row of the annotation.
        kinds: (P,) int64 symmetry of the annotation.
        degrees: (P,) error of the rotation.
        centimetres: (P,) error of the translation.
        ranks: (N,) int64 for each prediction, its place by falling score among those of its image
            and class.
    """

    pred: np.ndarray
    gt: np.ndarray
    kinds: np.ndarray
    degrees: np.ndarray
    centimetres: np.ndarray
    ranks: np.ndarray

    def match(self, admissible: np.ndarray, costs: np.ndarray) -> np.ndarray:
        """By falling score, each prediction takes the free annotation of the lowest cost.

        Args:
            admissible: (P,) bool, pairs that may be matched.
            costs: (P,).

        Returns:
            (N,) int64 row of the annotation of each prediction, -1 = none.
        """
        rows = np.flatnonzero(admissible)
        rows = rows[np.argsort(costs[rows], kind="stable")]
        return greedy_matching(self.pred[rows], self.gt[rows], self.ranks)


def find_pairs(pred: PosedObjects, gt: PosedObjects, rule: SymmetryRule) -> Pairs:
    """All pairs of objects that may be matched, with the errors of the poses."""
    stride = len(rule.kinds)
    groups = pred.images * stride + pred.categories
    ranks = np.zeros(len(pred), np.int64)
    order = np.lexsort((-pred.scores, groups))
    ranks[order] = rank_in_group(groups[order])
    first, second = pairs_between(groups, gt.images * stride + gt.categories)
    kept = pred.posed[first] & gt.posed[second]
    first, second = first[kept], second[kept]
    kinds = rule.of_objects(gt.categories, gt.handle_visible)[second]
    degrees, centimetres = pose_errors(take(pred, first), take(gt, second), kinds, rule.symmetries)
    return Pairs(first, second, kinds, degrees, centimetres, ranks)


def take(objects: PosedObjects, rows: np.ndarray) -> PosedObjects:
    """The objects of some rows."""
    return PosedObjects(**{f.name: getattr(objects, f.name)[rows] for f in fields(objects)})


def average_precision(matched: np.ndarray, scores: np.ndarray, num_annotated: int) -> np.ndarray:
    """Area under the precision envelope over the recall.

    Args:
        matched: (..., N) bool, whether each prediction is matched.
        scores: (N,).
        num_annotated: number of annotations.

    Returns:
        (...) float64 in [0, 1]; NaN without annotations.
    """
    if num_annotated == 0:
        return np.full(matched.shape[:-1], np.nan)
    order = np.argsort(-scores, kind="stable")
    hits = np.cumsum(matched[..., order], axis=-1)
    precision = hits / np.arange(1, len(order) + 1)
    envelope = np.maximum.accumulate(precision[..., ::-1], axis=-1)[..., ::-1]
    # Single precision as in the published code; the sum over all steps is then exactly the recall.
    recall = (hits.astype(np.float32) / np.float32(num_annotated)).astype(np.float64)
    return (np.diff(recall, axis=-1, prepend=0.0) * envelope).sum(axis=-1)


@dataclass(frozen=True)
class PosePrecision:
    """Average precisions as fractions, for C classes.

    Attributes:
        iou: IoU mode -> (C, T) by IoU threshold.
        matched: IoU mode -> (C, D, S) by degrees and centimetres, published protocol.
        detection: (C, D, S) with all predictions and annotations.
    """

    iou: dict[str, np.ndarray]
    matched: dict[str, np.ndarray]
    detection: np.ndarray


def pose_precision(
    pred: PosedObjects,
    gt: PosedObjects,
    rule: SymmetryRule,
    *,
    modes: Sequence[str],
    iou_thresholds: Sequence[float] = IOU_THRESHOLDS,
    degrees: Sequence[float] = DEGREES,
    centimetres: Sequence[float] = CENTIMETRES,
) -> PosePrecision:
    """Evaluate predictions.

    Args:
        pred: N predictions.
        gt: M annotations; rows without a pose count as annotations that nothing matches.
        rule: of the C classes.
        modes: of the 3D IoU.
        iou_thresholds: T, to be exceeded.
        degrees: D, not to be exceeded.
        centimetres: S, not to be exceeded.
    """
    pairs = find_pairs(pred, gt, rule)
    iou, matched = {}, {}
    everything = np.ones(len(pred), bool), np.ones(len(gt), bool)
    for mode in modes:
        overlaps = box_overlaps(
            take(pred, pairs.pred), take(gt, pairs.gt), pairs.kinds, mode, rule.symmetries
        )
        hits = np.zeros((len(iou_thresholds), len(pred)), bool)
        for row, threshold in zip(hits, iou_thresholds, strict=True):
            row[:] = pairs.match(overlaps > threshold, -overlaps) >= 0
        iou[mode] = _by_class(hits, pred, gt, everything, len(rule.kinds))
        chosen = match_at(pairs, overlaps, MIN_IOU, len(gt))
        hits = _pose_hits(pairs, chosen, degrees, centimetres)
        matched[mode] = _by_class(hits, pred, gt, chosen, len(rule.kinds))
    hits = _pose_hits(pairs, everything, degrees, centimetres)
    return PosePrecision(iou, matched, _by_class(hits, pred, gt, everything, len(rule.kinds)))


def match_at(
    pairs: Pairs, overlaps: np.ndarray, threshold: float, num_annotations: int
) -> tuple[np.ndarray, np.ndarray]:
    """(N,) and (M,) bool: predictions and annotations that are matched at an IoU."""
    partners = pairs.match(overlaps > threshold, -overlaps)
    found = np.zeros(num_annotations, bool)
    found[partners[partners >= 0]] = True
    return partners >= 0, found


def _pose_hits(
    pairs: Pairs,
    chosen: tuple[np.ndarray, np.ndarray],
    degrees: Sequence[float],
    centimetres: Sequence[float],
) -> np.ndarray:
    """(D, S, N) bool: predictions matched among the chosen ones within the thresholds."""
    hits = np.zeros((len(degrees), len(centimetres), len(pairs.ranks)), bool)
    among = chosen[0][pairs.pred] & chosen[1][pairs.gt]
    costs = pairs.degrees + pairs.centimetres
    for i, angle in enumerate(degrees):
        for j, distance in enumerate(centimetres):
            near = among & (pairs.degrees <= angle) & (pairs.centimetres <= distance)
            hits[i, j] = pairs.match(near, costs) >= 0
    return hits


def _by_class(
    hits: np.ndarray,
    pred: PosedObjects,
    gt: PosedObjects,
    chosen: tuple[np.ndarray, np.ndarray],
    num_classes: int,
) -> np.ndarray:
    """(C, ...) AP of each class; NaN for one without annotations, 0 where none is chosen."""
    result = np.full((num_classes, *hits.shape[:-1]), np.nan)
    for category in np.unique(gt.categories):
        rows = np.flatnonzero(chosen[0] & (pred.categories == category))
        count = int((chosen[1] & (gt.categories == category)).sum())
        result[category] = (
            average_precision(hits[..., rows], pred.scores[rows], count) if count else 0.0
        )
    return result


def class_mean(precision: np.ndarray) -> np.ndarray:
    """Mean (...) of (C, ...) over the classes with annotations; NaN without any."""
    known = ~np.isnan(precision)
    count = known.sum(axis=0)
    total = np.where(known, precision, 0).sum(axis=0)
    return np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0)
