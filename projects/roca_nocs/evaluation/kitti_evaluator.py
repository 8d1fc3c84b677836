"""Evaluator of the KITTI object benchmark."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence

import numpy as np
from tabulate import tabulate

from .boxes3d import Boxes3D
from .kitti_ap import DIFFICULTIES, METRICS, MIN_OVERLAP, KittiPrecision, kitti_precision
from .mono3d_evaluator import Metrics, Mono3DEvaluator, Records
from .mono3d_writers import kitti_objects, read_kitti_objects, write_kitti_results
from .nocs_precision import class_mean

logger = logging.getLogger(__name__)

RESULTS_FOLDER = "kitti_results"
RECALLS = (40, 11)


class KittiEvaluator(Mono3DEvaluator):
    """Average precision of 2D boxes, orientations, bird's-eye view and 3D boxes.

    The ground truth is that of the label files, with the types and areas that records leave out.
    Results, in percent, for the three classes of the benchmark that the dataset has:

    * ``kitti_<metric>_R40`` and ``kitti_<metric>_R11``, for ``2d``, ``aos``, ``bev_strict``,
      ``bev_loose``, ``3d_strict``, ``3d_loose``: ``easy``, ``moderate`` and ``hard``, the means
      over the classes, and ``<class>-<difficulty>``, NaN without annotations that count;
    * ``kitti_annotated``: the number of annotations that count, by ``<class>-<difficulty>``. With
      less than 41 of them, no detections reach 100.

    In the test split, which has no labels, only result files are written.
    """

    benchmark = "kitti"

    def __init__(
        self,
        dataset_name: str | Sequence[str],
        train_dataset_name: str | Sequence[str] | None = None,
        output_dir: str | None = None,
    ) -> None:
        """
        Args:
            dataset_name: with ``label_file`` in its records.
            train_dataset_name: source of the mean boxes; ``None``: no trivial predictor.
            output_dir: where ``kitti_results/`` is written, one file per image; ``None``: nowhere.

        Raises:
            ValueError: the dataset has none of the classes of the benchmark.
        """
        super().__init__(dataset_name, train_dataset_name, output_dir)
        self._evaluated = [name for name in self._classes if name.lower() in MIN_OVERLAP]
        if not self._evaluated:
            raise ValueError(
                f"{self._title} has the classes {self._classes}; KITTI evaluates "
                f"{list(MIN_OVERLAP)}"
            )

    def _write(self, output_dir: str, pred: Boxes3D, records: Records) -> None:
        folder = os.path.join(output_dir, RESULTS_FOLDER)
        write_kitti_results(folder, records, pred, self._classes)

    def _is_annotated(self, records: Records) -> bool:
        return all("label_file" in record for record in records)

    def _precision(self, pred: Boxes3D, records: Records) -> Metrics:
        truth = read_kitti_objects([record["label_file"] for record in records])
        found = kitti_precision(kitti_objects(pred, self._classes), truth, self._evaluated)
        metrics = {
            f"kitti_{metric}_R{recalls}": self._named(found, found.average(metric, recalls))
            for recalls in RECALLS
            for metric in METRICS
        }
        metrics["kitti_annotated"] = self._by_class(found.num_annotated)
        return metrics

    def _named(self, found: KittiPrecision, values: np.ndarray) -> dict[str, float]:
        """Means over the classes, then the values (C, 3) of each."""
        values = np.where(found.num_annotated > 0, values, np.nan)
        means = class_mean(values).tolist()
        return dict(zip(DIFFICULTIES, means, strict=True)) | self._by_class(values)

    def _by_class(self, values: np.ndarray) -> dict[str, float]:
        return {
            f"{category}-{difficulty}": value
            for category, row in zip(self._evaluated, values.tolist(), strict=True)
            for difficulty, value in zip(DIFFICULTIES, row, strict=True)
        }

    def _headline(self, precision: Metrics) -> dict[str, float]:
        return {
            f"{metric}_R40_{difficulty}": precision[f"kitti_{metric}_R40"][difficulty]
            for metric in METRICS
            for difficulty in DIFFICULTIES
        }

    def _log(self, precision: Metrics) -> None:
        columns = [f"{name}-{level}" for name in self._evaluated for level in DIFFICULTIES]
        rows = [
            [task.removeprefix("kitti_"), *(values[column] for column in columns)]
            for task, values in precision.items()
        ]
        table = tabulate(rows, headers=["percent", *columns], floatfmt=".2f", tablefmt="pipe")
        logger.info(
            "KITTI, strict (official) and loose overlaps, mean over 40 and 11 recalls:\n%s", table
        )
