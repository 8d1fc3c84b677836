"""Average precision of the KITTI object benchmark: 2D, orientation (AOS), bird's-eye view and 3D.

Source: Geiger et al., CVPR 2012, and the development kit of the benchmark, whose rules hold to the
letter, also where they surprise:

* objects are matched annotation by annotation in the order of the label file, and not detection by
  detection; the score thresholds come from a first pass that prefers high scores, the counts from a
  second one that prefers high overlaps;
* a detection lower than the limit of the difficulty is ignored whatever its class, and can take an
  annotation of any class without counting;
* n perfect detections give min(n, 41) of the 41 thresholds, so that less than 41 annotations
  cannot reach 100.

Departures: a precision of 0 / 0 is 0. All images and thresholds are matched at once; of detections
with equal scores or equal overlaps the first one wins, as published.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from .kitti_overlaps import KittiObjects, PairOverlaps, covered_share, pair_overlaps
from .matching import greedy_matching, rank_in_group

CLASSES = ("Car", "Pedestrian", "Cyclist")
DIFFICULTIES = ("easy", "moderate", "hard")
MIN_HEIGHT = (40.0, 25.0, 25.0)
MAX_OCCLUSION = (0, 1, 2)
MAX_TRUNCATION = (0.15, 0.3, 0.5)
NEIGHBOURS = {"car": "van", "pedestrian": "person_sitting"}
"""Types that are neither right nor wrong for a class."""

MIN_OVERLAP = {"car": (0.7, 0.5), "pedestrian": (0.5, 0.25), "cyclist": (0.5, 0.25)}
"""To be exceeded, strict (official) and loose; 2D boxes always need the strict one."""

METRICS = ("2d", "aos", "bev_strict", "bev_loose", "3d_strict", "3d_loose")
NUM_SLOTS = 41
NO_ALPHA = -10.0


@dataclass(frozen=True)
class KittiPrecision:
    """Precision over recall of C classes at the three difficulties.

    Attributes:
        precision: metric of `METRICS` -> (C, 3, 41) float64 in [0, 1], not increasing along the
            slots; NaN for ``aos`` if a detection has no alpha.
        num_annotated: (C, 3) int64 annotations that count.
    """

    precision: dict[str, np.ndarray]
    num_annotated: np.ndarray

    def average(self, metric: str, recalls: int) -> np.ndarray:
        """(C, 3) average precision in percent.

        Args:
            metric: of `METRICS`.
            recalls: 40 (the benchmark since October 2019) or 11.

        Raises:
            KeyError: another metric or number.
        """
        slots = self.precision[metric]
        chosen = {40: slots[..., 1:], 11: slots[..., ::4]}[recalls]
        return 100 * chosen.sum(axis=-1) / recalls


def kitti_precision(
    pred: KittiObjects, gt: KittiObjects, classes: Sequence[str] = CLASSES
) -> KittiPrecision:
    """Evaluate detections.

    Args:
        pred: N detections.
        gt: M annotations of the same images, in the order of the label files.
        classes: C of `CLASSES`, in any case.

    Raises:
        ValueError: a class that the benchmark does not have.
    """
    keys = [name.lower() for name in classes]
    if unknown := sorted(set(keys) - MIN_OVERLAP.keys()):
        raise ValueError(f"KITTI has no classes {unknown}; it evaluates {CLASSES}")
    strictest, loosest = (min(MIN_OVERLAP[key][i] for key in keys) for i in range(2))
    limits = {"2d": strictest, "bev": loosest, "3d": loosest}
    overlaps = pair_overlaps(pred, gt, limits)
    covered = covered_share(pred, gt)
    ranks = np.empty(len(gt), np.int64)
    order = np.argsort(gt.images, kind="stable")
    ranks[order] = rank_in_group(gt.images[order])

    shape = (len(keys), len(DIFFICULTIES), NUM_SLOTS)
    precision = {metric: np.zeros(shape) for metric in METRICS}
    num_annotated = np.zeros(shape[:2], np.int64)
    for row, key in enumerate(keys):
        strict, loose = MIN_OVERLAP[key]
        for difficulty in range(len(DIFFICULTIES)):
            states = _states(pred, gt, key, difficulty)
            num_annotated[row, difficulty] = states.gt_valid.sum()
            place = row, difficulty
            matcher = _Matcher(pred, gt, states, ranks)
            flat = matcher.precision(overlaps["2d"], strict, covered > strict)
            precision["2d"][place], precision["aos"][place] = flat
            for metric in ("bev", "3d"):
                for name, limit in (("strict", strict), ("loose", loose)):
                    # Areas to be ignored have no third dimension.
                    slots, _ = matcher.precision(overlaps[metric], limit, np.zeros(len(pred), bool))
                    precision[f"{metric}_{name}"][place] = slots
    if (pred.alphas == NO_ALPHA).any():
        precision["aos"][:] = np.nan
    return KittiPrecision(precision, num_annotated)


class _States(NamedTuple):
    """What counts for a class and a difficulty. Relevant and not valid means ignored.

    Attributes:
        pred_valid, pred_relevant: (N,) bool.
        gt_valid, gt_relevant: (M,) bool.
    """

    pred_valid: np.ndarray
    pred_relevant: np.ndarray
    gt_valid: np.ndarray
    gt_relevant: np.ndarray


def _states(pred: KittiObjects, gt: KittiObjects, key: str, difficulty: int) -> _States:
    height = gt.boxes[:, 3] - gt.boxes[:, 1]
    easy_enough = (
        (gt.occlusion <= MAX_OCCLUSION[difficulty])
        & (gt.truncation <= MAX_TRUNCATION[difficulty])
        & (np.abs(height) >= MIN_HEIGHT[difficulty])
    )
    of_class = gt.types == key
    # The benchmark compares the integer part of the height of a detection.
    height = np.trunc(np.abs(pred.boxes[:, 3] - pred.boxes[:, 1]))
    low = height < MIN_HEIGHT[difficulty]
    pred_of_class = pred.types == key
    return _States(
        pred_valid=pred_of_class & ~low,
        pred_relevant=pred_of_class | low,
        gt_valid=of_class & easy_enough,
        gt_relevant=of_class | (gt.types == NEIGHBOURS.get(key, "")),
    )


class _Matcher:
    """Precision of a class at a difficulty."""

    def __init__(
        self, pred: KittiObjects, gt: KittiObjects, states: _States, ranks: np.ndarray
    ) -> None:
        """
        Args:
            pred: N detections.
            gt: M annotations.
            states: of the detections and annotations.
            ranks: (M,) place of an annotation in its image.
        """
        self._scores, self._states, self._ranks = pred.scores, states, ranks
        self._pred_alphas, self._gt_alphas = pred.alphas, gt.alphas

    def precision(
        self, overlaps: PairOverlaps, limit: float, covered: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """(41,) precision and (41,) orientation similarity over recall.

        Args:
            overlaps: of all pairs, ordered by the detection.
            limit: that a match has to exceed.
            covered: (N,) bool, detections in areas to be ignored.
        """
        states = self._states
        kept = overlaps.values > limit
        kept &= states.pred_relevant[overlaps.pred] & states.gt_relevant[overlaps.gt]
        pairs = PairOverlaps(*(part[kept] for part in overlaps))
        thresholds = recall_thresholds(self._hit_scores(pairs), int(states.gt_valid.sum()))
        hits, similarity, false = self._count(pairs, thresholds, covered)
        positive = np.maximum(hits + false, 1)
        slots = np.zeros((2, NUM_SLOTS))
        slots[:, : len(thresholds)] = hits / positive, similarity / positive
        precision, orientation = np.maximum.accumulate(slots[:, ::-1], axis=1)[:, ::-1]
        return precision, orientation

    def _hit_scores(self, pairs: PairOverlaps) -> np.ndarray:
        """First pass: each annotation takes the highest score; scores of the hits."""
        states = self._states
        order = np.argsort(-self._scores[pairs.pred], kind="stable")
        partner = greedy_matching(pairs.gt[order], pairs.pred[order], self._ranks)
        chosen = partner[(partner >= 0) & states.gt_valid]
        return self._scores[chosen[states.pred_valid[chosen]]]

    def _count(
        self, pairs: PairOverlaps, thresholds: np.ndarray, covered: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Second pass: hits, sum of their similarities, and false detections by threshold (T,)."""
        states, count = self._states, len(thresholds)
        valid = states.pred_valid[pairs.pred]
        # The highest overlap among the valid detections, then the first of the ignored ones.
        order = np.lexsort((np.where(valid, -pairs.values, 0.0), ~valid))
        annotations, items = np.unique(pairs.gt[order], return_inverse=True)
        detections, partners = np.unique(pairs.pred[order], return_inverse=True)
        # One copy of all objects for each threshold.
        copies, rows = np.nonzero(self._scores[detections][partners] >= thresholds[:, None])
        partner = greedy_matching(
            copies * len(annotations) + items[rows],
            copies * len(detections) + partners[rows],
            np.tile(self._ranks[annotations], count),
        )
        taken = np.flatnonzero(partner >= 0)
        copies, rows = np.divmod(taken, max(len(annotations), 1))
        matched_gt = annotations[rows]
        matched_pred = detections[partner[taken] - copies * len(detections)]

        matched_valid = states.pred_valid[matched_pred]
        is_hit = matched_valid & states.gt_valid[matched_gt]
        hits = np.bincount(copies[is_hit], minlength=count)
        turn = self._gt_alphas[matched_gt] - self._pred_alphas[matched_pred]
        weights = (1 + np.cos(turn[is_hit])) / 2
        similarity = np.bincount(copies[is_hit], weights, minlength=count)

        counting = np.sort(self._scores[states.pred_valid & ~covered])
        above = len(counting) - np.searchsorted(counting, thresholds, side="left")
        is_taken = matched_valid & ~covered[matched_pred]
        return hits, similarity, above - np.bincount(copies[is_taken], minlength=count)


def recall_thresholds(scores: np.ndarray, num_annotated: int) -> np.ndarray:
    """Scores at which the recall comes nearest to 0, 1/40, ..., 1.

    Args:
        scores: (K,) of the hits.
        num_annotated: annotations that count, at least K.

    Returns:
        (T,) float64, falling, T <= 41.
    """
    count = len(scores)
    if count == 0:
        return np.zeros(0)
    left = np.arange(1, count + 1) / num_annotated
    right = np.append(left[1:], left[-1])
    # Steps of 1 / 40 are added up, with the rounding of the published code.
    current = np.cumsum(np.append(0.0, np.full(NUM_SLOTS - 1, 1 / (NUM_SLOTS - 1))))[:, None]
    reached = right - current >= current - left
    reached[:, -1] = True
    # The first score that reaches each recall; every one serves for one recall only.
    slots = np.arange(NUM_SLOTS)
    chosen = np.maximum.accumulate(reached.argmax(axis=1) - slots) + slots
    return -np.sort(-scores)[chosen[chosen < count]]
