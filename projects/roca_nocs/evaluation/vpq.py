"""Video panoptic quality and foreground IoU of instance ids over time, as FIERY defines them.

Known properties of the definition, which are kept:

* It is a quantity per frame with bookkeeping of ids, not the IoU of tubes of the video-panoptic
  literature.
* An id switch costs one false positive and one false negative in its frame; from then on the new
  id is the right one.
* One prediction may serve two targets in different frames without a penalty.
* Masks match above an IoU of 0.5, an IoU of exactly 0.5 is no match.
* Nothing predicted where nothing is annotated gives 0, not 1.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from roca_nocs.data.bev_labels import instance_ids


@dataclass(frozen=True)
class ClipMatches:
    """Which predictions cover which targets in the T frames of a clip.

    Attributes:
        pred_ids: (P,) ids of the predictions, ascending.
        gt_ids: (G,) ids of the targets, ascending.
        pred_present: (T, P) bool, whether a prediction has cells in a frame.
        gt_present: (T, G) bool.
        matched: (T, G) int64 row in ``pred_ids``, -1 = none.
        iou: (T, G) float64 with the matched prediction, 0 without one.
    """

    pred_ids: np.ndarray
    gt_ids: np.ndarray
    pred_present: np.ndarray
    gt_present: np.ndarray
    matched: np.ndarray
    iou: np.ndarray


def match_clip(pred: np.ndarray, gt: np.ndarray) -> ClipMatches:
    """Match segments, the sets of cells with one id, of which IoU is above 0.5 in each frame.

    Args:
        pred, gt: (T, H, W) integers, 0 = background; ids are arbitrary.

    Raises:
        ValueError: the shapes differ.
    """
    if pred.shape != gt.shape:
        raise ValueError(f"The predicted ids {pred.shape} and the annotated {gt.shape} differ.")
    pred_ids, gt_ids = instance_ids(pred), instance_ids(gt)
    frames, count, targets = len(gt), len(pred_ids), len(gt_ids)
    cells = np.flatnonzero((pred > 0) | (gt > 0))
    # Row 0 of the table is the background.
    row, column = _rows(gt_ids, gt.ravel()[cells]), _rows(pred_ids, pred.ravel()[cells])
    time = cells // max(gt[0].size, 1) if frames else cells
    shape = frames, targets + 1, count + 1
    table = np.bincount(
        np.ravel_multi_index((time, row, column), shape), minlength=int(np.prod(shape))
    ).reshape(shape)
    gt_area, pred_area = table.sum(axis=2)[:, 1:], table.sum(axis=1)[:, 1:]
    shared = table[:, 1:, 1:]
    union = gt_area[:, :, None] + pred_area[:, None] - shared
    # In whole numbers, so that exactly half is told from more.
    over_half = 2 * shared > union
    found = over_half.any(axis=2)
    best = over_half.argmax(axis=2) if count else np.zeros((frames, targets), np.int64)
    matched = np.where(found, best, -1)
    iou = np.zeros((frames, targets))
    at = (*np.nonzero(found), best[found])
    iou[found] = shared[at] / union[at]
    return ClipMatches(pred_ids, gt_ids, pred_area > 0, gt_area > 0, matched, iou)


def _rows(ids: np.ndarray, values: np.ndarray) -> np.ndarray:
    """1 + position of values in ids; 0 for the background."""
    return np.where(values > 0, np.searchsorted(ids, values) + 1, 0)


COUNTS = ("tp", "fp", "fn", "iou_sum", "switches")


def vpq_counts(matches: ClipMatches, check_ids: bool = True) -> np.ndarray:
    """Counts of the T frames of a clip, which may be added over frames and clips.

    Args:
        matches: of the clip.
        check_ids: whether a target that changes its prediction is an error.

    Returns:
        (T, 5) float64, in the order of :data:`COUNTS`.
    """
    counts = np.zeros((len(matches.matched), len(COUNTS)))
    last = np.full(len(matches.gt_ids), -1)
    for frame, matched in enumerate(matches.matched):
        found = matched >= 0
        switched = found & (last >= 0) & (last != matched) & check_ids
        good = found & ~switched
        missed = matches.gt_present[frame] & ~found
        spurious = matches.pred_present[frame].sum() - found.sum()
        counts[frame] = (
            good.sum(),
            spurious + switched.sum(),
            missed.sum() + switched.sum(),
            matches.iou[frame][good].sum(),
            switched.sum(),
        )
        last = np.where(found, matched, last)
    return counts


def quality(counts: np.ndarray) -> dict[str, float]:
    """``pq``, ``sq`` and ``rq`` in [0, 1] of added counts (5,)."""
    tp, fp, fn, iou_sum = counts[:4].tolist()
    total = max(tp + 0.5 * fp + 0.5 * fn, 1.0)
    return {"pq": iou_sum / total, "sq": iou_sum / max(tp, 1.0), "rq": tp / total}


def foreground_counts(pred: np.ndarray, gt: np.ndarray) -> np.ndarray:
    """(T, 3) float64: cells of T frames that are true positive, false positive, false negative."""
    pred, gt = pred > 0, gt > 0
    parts = pred & gt, pred & ~gt, ~pred & gt
    return np.stack([part.sum(axis=(1, 2)) for part in parts], axis=-1).astype(np.float64)


def foreground_iou(counts: np.ndarray) -> float:
    """IoU in [0, 1] of added counts (3,); 0 without any foreground."""
    return float(counts[0] / max(counts.sum(), 1.0))
