"""Evaluator of instance masks of the present and the future in the bird's-eye view."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from tabulate import tabulate

from roca_nocs.data.images import describe
from roca_nocs.geometry.bev import BevGrid

from .bev_baselines import BASELINES
from .collected import CollectingEvaluator
from .vpq import (
    COUNTS,
    ClipMatches,
    foreground_counts,
    foreground_iou,
    match_clip,
    quality,
    vpq_counts,
)

logger = logging.getLogger(__name__)

Metrics = dict[str, dict[str, float]]

SHORT_RANGE = 30.0
"""Side of the central square of the short range, metres."""
RANGES = ("long", "short")
_BINS = 10


class BevEvaluator(CollectingEvaluator):
    """IoU and VPQ over the present and the F future frames, with the trivial predictions beside.

    ``long`` is the whole raster, ``short`` its central 30 m x 30 m cut out with the ids kept.
    Published figures of the short range come from two incompatible protocols, this one and a model
    of its own on finer cells; ``resolution`` and ``short_range`` in the results say what was done.

    Results, in percent where nothing else is said:

    * ``bev``: ``IoU``, ``VPQ``, ``SQ``, ``RQ`` with ``_long`` and ``_short``, ``id_switches`` (a
      number), ``birth_recall`` (agents first seen in a future frame that are matched in any; NaN
      without such agents), ``score_error`` (expected calibration error of the existence scores;
      NaN where the model gives none), ``resolution`` and ``short_range`` in metres;
    * ``bev_steps``: ``IoU_<f>``, ``VPQ_<f>`` of each frame, and ``displacement_<f>``, the mean
      distance in metres of the mask centres of agents and the predictions that matched them in the
      present;
    * ``bev_baselines``: ``<baseline>-<metric>`` for static, constant velocity (both from the
      annotations of the present) and the oracle.
    """

    def process(self, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> None:
        """Take one batch.

        Args:
            inputs: samples of the mapper with ``instance``, ``agents``, ``grid``, ``frame_dt``.
            outputs: per clip ``instances`` (F+1, H, W) integers, 0 = background; optionally
                ``ids`` (n,) and ``scores_per_step`` (F+1, n).

        Raises:
            ValueError: the output has other frames or another size than the annotations.
        """
        for sample, output in zip(inputs, outputs, strict=True):
            truth = np.asarray(sample["instance"])
            pred = _array(output["instances"])
            if pred.shape != truth.shape:
                raise ValueError(
                    f"{describe(sample)}: the model's instances {pred.shape} do not have the "
                    f"frames and size of the annotations {truth.shape}"
                )
            matches = match_clip(pred, truth)
            predicted = {"model": pred} | {name: make(sample) for name, make in BASELINES.items()}
            result: dict[str, Any] = {
                name: _range_counts(ids, truth, sample["grid"]) for name, ids in predicted.items()
            }
            result["displacement"] = _displacements(matches, pred, truth, sample["grid"])
            result["births"] = _births(matches)
            result["scores"] = _scored(matches, output)
            result["resolution"] = sample["grid"].resolution
            self._results[sample["image_id"]] = result

    def evaluate(self) -> Metrics | None:
        """Compute the metrics; ``None`` on all but the first process."""
        gathered = self.gather()
        if gathered is None:
            return None
        if not gathered:
            logger.warning("%s has received no clips, nothing to evaluate.", type(self).__name__)
            return {}
        results = list(gathered.values())
        counts = {
            name: np.sum([result[name] for result in results], axis=0)
            for name in ("model", *BASELINES)
        }
        metrics: Metrics = {
            "bev": _summary(counts["model"]) | _extras(results, counts["model"]),
            "bev_steps": _steps(counts["model"]),
            "bev_baselines": {
                f"{name}-{metric}": value
                for name in BASELINES
                for metric, value in _summary(counts[name]).items()
            },
        }
        displacement = np.sum([result["displacement"] for result in results], axis=0)
        for step, (total, number) in enumerate(displacement.tolist()):
            metrics["bev_steps"][f"displacement_{step}"] = (
                total / number if number else float("nan")
            )
        _log(counts, metrics)
        return metrics


def central_range(grid: BevGrid, side: float = SHORT_RANGE) -> tuple[slice, slice]:
    """Rows and columns whose cells lie within a square around the origin, sides in metres."""
    parts = []
    for low, size in ((grid.x_min, grid.height), (grid.y_min, grid.width)):
        centres = low + (np.arange(size) + 0.5) * grid.resolution
        inside = np.flatnonzero(np.abs(centres) < 0.5 * side)
        parts.append(slice(inside[0], inside[-1] + 1) if len(inside) else slice(0, 0))
    return parts[0], parts[1]


def _array(values: Any) -> np.ndarray:
    return values.detach().cpu().numpy() if isinstance(values, torch.Tensor) else np.asarray(values)


def _range_counts(pred: np.ndarray, truth: np.ndarray, grid: BevGrid) -> np.ndarray:
    """(2, F+1, 8): counts of VPQ and of cells, for each of RANGES and each frame."""
    whole = slice(None), slice(None)
    counts = []
    for rows, columns in (whole, central_range(grid)):
        ours, theirs = pred[:, rows, columns], truth[:, rows, columns]
        segments = vpq_counts(match_clip(ours, theirs))
        counts.append(np.concatenate([segments, foreground_counts(ours, theirs)], axis=-1))
    return np.stack(counts)


def _displacements(
    matches: ClipMatches, pred: np.ndarray, truth: np.ndarray, grid: BevGrid
) -> np.ndarray:
    """(F+1, 2): sum of the distances of centres, and number of agents, of each frame."""
    target = np.flatnonzero(matches.matched[0] >= 0)
    partner = matches.matched[0, target]
    sums = np.zeros((len(truth), 2))
    centres = _centres(truth, matches.gt_ids)[:, target]
    apart = centres - _centres(pred, matches.pred_ids)[:, partner]
    distance = np.hypot(apart[..., 0], apart[..., 1]) * grid.resolution
    sums[:, 0], sums[:, 1] = np.nansum(distance, axis=1), np.isfinite(distance).sum(axis=1)
    return sums


def _centres(ids: np.ndarray, listed: np.ndarray) -> np.ndarray:
    """(F+1, N, 2) mean (row, column) of each listed id, NaN where it has no cell."""
    time, row, column = np.nonzero(ids)
    slot = time * len(listed) + np.searchsorted(listed, ids[time, row, column])
    size = len(ids) * len(listed)
    area = np.bincount(slot, minlength=size)
    sums = [np.bincount(slot, weights=each, minlength=size) for each in (row, column)]
    with np.errstate(invalid="ignore"):
        return (np.stack(sums, axis=-1) / area[:, None]).reshape(len(ids), len(listed), 2)


def _births(matches: ClipMatches) -> np.ndarray:
    """(2,): agents first seen in a future frame, and those of them matched in any frame."""
    born = ~matches.gt_present[0]
    return np.array([born.sum(), (born & (matches.matched >= 0).any(axis=0)).sum()], np.float64)


def _scored(matches: ClipMatches, output: Mapping[str, Any]) -> np.ndarray:
    """(K, 2): existence score of each predicted segment, and whether it matches an agent."""
    if "scores_per_step" not in output or "ids" not in output:
        return np.zeros((0, 2))
    ids, scores = _array(output["ids"]), _array(output["scores_per_step"])
    order = np.argsort(ids, kind="stable")
    known = np.isin(matches.pred_ids, ids)
    frame, row = np.nonzero(matches.pred_present & known)
    slot = order[np.searchsorted(ids[order], matches.pred_ids[row])]
    hit = (matches.matched[frame] == row[:, None]).any(axis=1)
    return np.column_stack([scores[frame, slot], hit]).astype(np.float64)


def calibration_error(scored: np.ndarray) -> float:
    """Expected calibration error in [0, 1] over ten bins of scores; NaN without scores.

    Args:
        scored: (K, 2) score in [0, 1], and whether it was right.
    """
    if not len(scored):
        return float("nan")
    bins = np.clip((scored[:, 0] * _BINS).astype(np.int64), 0, _BINS - 1)
    sums = [np.bincount(bins, weights=each, minlength=_BINS) for each in scored.T]
    return float(np.abs(sums[0] - sums[1]).sum() / len(scored))


def _summary(counts: np.ndarray) -> dict[str, float]:
    """IoU, VPQ, SQ and RQ of each range from counts (2, F+1, 8)."""
    found = {}
    for name, total in zip(RANGES, counts.sum(axis=1), strict=True):
        segments, cells = np.split(total, [len(COUNTS)])
        values = quality(segments)
        found[f"IoU_{name}"] = 100 * foreground_iou(cells)
        for title, key in (("VPQ", "pq"), ("SQ", "sq"), ("RQ", "rq")):
            found[f"{title}_{name}"] = 100 * values[key]
    return found


def _steps(counts: np.ndarray) -> dict[str, float]:
    """IoU and VPQ of the frames, whole raster; a switch counts in the frame where it happens."""
    found = {}
    for step, total in enumerate(counts[0]):
        segments, cells = np.split(total, [len(COUNTS)])
        found[f"IoU_{step}"] = 100 * foreground_iou(cells)
        found[f"VPQ_{step}"] = 100 * quality(segments)["pq"]
    return found


def _extras(results: Sequence[Mapping[str, Any]], counts: np.ndarray) -> dict[str, float]:
    born, recalled = np.sum([result["births"] for result in results], axis=0)
    scored = np.concatenate([result["scores"] for result in results])
    return {
        "id_switches": float(counts[0, :, COUNTS.index("switches")].sum()),
        "birth_recall": float(100 * recalled / born) if born else float("nan"),
        "score_error": 100 * calibration_error(scored),
        "resolution": results[0]["resolution"],
        "short_range": SHORT_RANGE,
    }


def _log(counts: Mapping[str, np.ndarray], metrics: Metrics) -> None:
    """One row for the model and each baseline."""
    rows = {name: _summary(values) for name, values in counts.items()}
    headers = ["percent", *rows["model"]]
    lines = [[name, *row.values()] for name, row in rows.items()]
    table = tabulate(lines, headers=headers, floatfmt=".2f", tablefmt="pipe")
    logger.info(
        "Present and future in cells of %.2f m, short range cut out of the same raster:\n%s",
        metrics["bev"]["resolution"],
        table,
    )
    lines = [[name, value] for name, value in metrics["bev_steps"].items()]
    table = tabulate(lines, headers=["step", "value"], floatfmt=".2f", tablefmt="pipe")
    logger.info("Single frames, percent and metres:\n%s", table)
