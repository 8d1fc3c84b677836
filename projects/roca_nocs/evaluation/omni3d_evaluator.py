"""Evaluator of Omni3D: AP of 3D boxes and of their 2D boxes."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from detectron2.data import MetadataCatalog
from tabulate import tabulate

from .boxes3d import Boxes3D, annotated_boxes3d
from .collected import annotated_objects
from .mono3d_evaluator import Metrics, Mono3DEvaluator, Records
from .mono3d_writers import write_omni3d_results
from .omni3d_ap import IN_IMAGE, IN_SPACE, Omni3DPrecision, Protocol, omni3d_precision

logger = logging.getLogger(__name__)

RESULTS_FILE = "omni3d_results.json"
TASKS = {"omni3d_3d": IN_SPACE, "omni3d_2d": IN_IMAGE}


class Omni3DEvaluator(Mono3DEvaluator):
    """AP over 3D IoUs of 0.05 to 0.5, and over 2D IoUs of 0.5 to 0.95, for any 3D dataset.

    Results, in percent:

    * ``omni3d_3d``: ``AP``, ``AP15``, ``AP25``, ``AP50``, ``APnear``, ``APmedium``, ``APfar``
      (limits at 10 and 35 m), ``AR1``, ``AR10``, ``AR100``, ``ARnear``, ``ARmedium``, ``ARfar``,
      means over the classes with annotations, and ``AP-<class>``, NaN without annotations;
    * ``omni3d_2d``: likewise, with ``AP50``, ``AP75``, ``AP95`` and ``small``, ``medium``,
      ``large``;
    * ``omni3d_by_dataset``, for images with several ``dataset_id``: ``AP3D-<id>`` and
      ``AP2D-<id>``, each over the classes that are annotated there. ``omni3d_3d`` is not their
      mean.

    Neither found nor missed are the ``ignored`` objects of a record and objects without a usable
    3D box. Detections of classes that the image's dataset does not know (``known_classes`` of its
    records) do not count and are not written. Where the metadata of a dataset says that it is not
    ``exhaustive``, as of Objectron and SUN RGB-D, detections far from all annotations of their
    class do not count either, see ``omni3d_ap.omni3d_precision``.
    """

    benchmark = "omni3d"

    def __init__(
        self,
        dataset_name: str | Sequence[str],
        train_dataset_name: str | Sequence[str] | None = None,
        output_dir: str | None = None,
    ) -> None:
        """
        Args:
            dataset_name: with 3D boxes; several ones, with the same classes, count as one.
            train_dataset_name: source of the mean boxes; ``None``: no trivial predictor.
            output_dir: where ``omni3d_results.json`` is written; ``None``: nowhere.

        Raises:
            ValueError: several datasets have different classes, share an image id, or mean
                different classes by one category id.
        """
        super().__init__(dataset_name, train_dataset_name, output_dir)
        self._contiguous_ids: dict[int, int] = {}
        self._exhaustive: dict[str, bool] = {}
        for name in self._dataset_names:
            metadata = MetadataCatalog.get(name)
            own = metadata.get(
                "thing_dataset_id_to_contiguous_id", {i: i for i in range(len(self._classes))}
            )
            for identifier, category in own.items():
                if self._contiguous_ids.setdefault(identifier, category) != category:
                    raise ValueError(
                        f"{name} means {self._classes[category]} by the category id {identifier}, "
                        f"another dataset of {self._dataset_names} does not"
                    )
            self._exhaustive[name] = metadata.get("exhaustive", True)

    def _write(self, output_dir: str, pred: Boxes3D, records: Records) -> None:
        os.makedirs(output_dir, exist_ok=True)
        path = os.path.join(output_dir, RESULTS_FILE)
        write_omni3d_results(path, records, self._counting(pred, records), self._contiguous_ids)

    def _is_annotated(self, records: Records) -> bool:
        return any(record["annotations"] for record in records)

    def _precision(self, pred: Boxes3D, records: Records) -> Metrics:
        gt, ignored = annotated_truth(records)
        pred = self._counting(pred, records)
        metrics = {}
        for task, protocol in TASKS.items():
            found = self._compare(pred, gt, ignored, records, protocol)
            values = found.summary() | {
                f"AP-{name}": value
                for name, value in zip(self._classes, found.classes().tolist(), strict=True)
            }
            metrics[task] = {name: 100 * value for name, value in values.items()}
        if len({record.get("dataset_id") for record in records}) > 1:
            metrics["omni3d_by_dataset"] = self._by_dataset(pred, gt, ignored, records)
        return metrics

    def _by_dataset(
        self, pred: Boxes3D, gt: Boxes3D, ignored: np.ndarray, records: Records
    ) -> dict[str, float]:
        sources = np.array([record["dataset_id"] for record in records])
        values = {}
        for source in np.unique(sources).tolist():
            rows = sources[gt.images] == source
            parts = pred[sources[pred.images] == source], gt[rows], ignored[rows]
            for name, protocol in (("AP3D", IN_SPACE), ("AP2D", IN_IMAGE)):
                found = self._compare(*parts, records, protocol)
                values[f"{name}-{source}"] = 100 * found.summary()["AP"]
        return values

    def _compare(
        self,
        pred: Boxes3D,
        gt: Boxes3D,
        ignored: np.ndarray,
        records: Records,
        protocol: Protocol,
    ) -> Omni3DPrecision:
        sources = [self._dataset_of[record["image_id"]] for record in records]
        proximity = np.array([not self._exhaustive[name] for name in sources])
        return omni3d_precision(
            pred, gt, ignored, len(self._classes), protocol, proximity=proximity
        )

    def _counting(self, pred: Boxes3D, records: Records) -> Boxes3D:
        """Detections of classes that the dataset of their image annotates."""
        known = np.zeros((len(records), len(self._classes)), bool)
        for row, record in zip(known, records, strict=True):
            row[record.get("known_classes", slice(None))] = True
        return pred[known[pred.images, pred.categories]]

    def _headline(self, precision: Metrics) -> dict[str, float]:
        return {f"3d_{name}": precision["omni3d_3d"][name] for name in ("AP", "AP25", "AP50")}

    def _log(self, precision: Metrics) -> None:
        for task, values in precision.items():
            plain = {name: value for name, value in values.items() if "-" not in name}
            rows: list[dict[str, Any]] = [plain] if plain else [values]
            table = tabulate(rows, headers="keys", floatfmt=".2f", tablefmt="pipe")
            logger.info("%s, percent:\n%s", task, table)


def annotated_truth(records: Records) -> tuple[Boxes3D, np.ndarray]:
    """The annotations of records and (M,) bool, which of them are neither found nor missed."""
    counting = annotated_objects(records)
    others = annotated_objects([{"annotations": record.get("ignored", ())} for record in records])
    ignored = [not each["has3d"] for _, each in counting] + [True] * len(others)
    return annotated_boxes3d([*counting, *others]), np.array(ignored, bool)
