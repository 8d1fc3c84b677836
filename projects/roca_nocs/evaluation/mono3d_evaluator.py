"""What the evaluators of monocular 3D boxes have in common."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog
from tabulate import tabulate

from roca_nocs.data.images import describe

from .boxes3d import Boxes3D, annotated_boxes3d
from .collected import (
    CollectingEvaluator,
    ImageResult,
    annotated_objects,
    boxes_of,
    join_boxes,
    joined,
)
from .mono3d_errors import errors_and_counts
from .mono3d_trivial import class_boxes, mean_box

logger = logging.getLogger(__name__)

Metrics = dict[str, dict[str, float]]
Records = Sequence[Mapping[str, Any]]

TRIVIAL = "class_mean_box"

# Field of the model's output -> name in Boxes3D and shape of one object.
_FIELDS: dict[str, tuple[str, tuple[int, ...]]] = {
    "pred_center_cam": ("centers", (3,)),
    "pred_dimensions": ("dimensions", (3,)),
    "pred_R": ("rotations", (3, 3)),
    "pred_rotation_y": ("rotation_y", ()),
    "pred_alpha": ("alphas", ()),
}


class Mono3DEvaluator(CollectingEvaluator, ABC):
    """Base of the evaluators: collects 3D boxes, and puts a trivial predictor beside the model.

    Results besides those of the benchmark, under its name, for a dataset can have several:

    * ``<benchmark>_errors`` and ``<benchmark>_counts``, see ``mono3d_errors.errors_and_counts``;
    * ``<benchmark>_trivial_predictors``, with ``train_dataset_name``: ``class_mean_box-<metric>``,
      for the 2D boxes, classes and scores of the model.
    """

    benchmark: str

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
            output_dir: where result files are written; ``None``: nowhere.

        Raises:
            ValueError: several datasets have different classes or share an image id.
        """
        super().__init__()
        self._dataset_names = _names(dataset_name)
        self._train_dataset_names = _names(train_dataset_name or ())
        self._output_dir = output_dir
        self._classes = list(MetadataCatalog.get(self._dataset_names[0]).thing_classes)
        self._records: dict[Any, Mapping[str, Any]] = {}
        self._dataset_of: dict[Any, str] = {}  # by image id
        for name in self._dataset_names:
            classes = list(MetadataCatalog.get(name).thing_classes)
            if classes != self._classes:
                raise ValueError(
                    f"{name} has the classes {classes}, and {self._dataset_names[0]} has "
                    f"{self._classes}; evaluated together they need the same ones"
                )
            own = {record["image_id"]: record for record in DatasetCatalog.get(name)}
            if shared := own.keys() & self._records.keys():
                raise ValueError(
                    f"{name} has images with ids of another dataset of {self._dataset_names}, for "
                    f"example {min(shared)}"
                )
            self._records |= own
            self._dataset_of |= dict.fromkeys(own, name)

    def process(self, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> None:
        """Take one batch.

        Args:
            inputs: per image ``image_id``.
            outputs: per image ``instances`` at the size of the record with ``pred_boxes``,
                ``scores``, ``pred_classes`` and, in the camera frame of the record,
                ``pred_center_cam`` (N, 3) and ``pred_dimensions`` (N, 3) (W, H, L) in metres,
                ``pred_R`` (N, 3, 3), ``pred_rotation_y`` (N,) and ``pred_alpha`` (N,) in radians.

        Raises:
            ValueError: a field is missing, or the image is not one of the dataset.
        """
        for image, output in zip(inputs, outputs, strict=True):
            if image["image_id"] not in self._records:
                raise ValueError(f"{describe(image)}: not an image of {self._title}")
            instances = output["instances"]
            missing = [name for name in _FIELDS if not instances.has(name)]
            if missing:
                raise ValueError(
                    f"{describe(image)}: the model's output has no {', '.join(missing)}; 3D boxes "
                    "need a model with a cube head"
                )
            result = boxes_of(instances)
            for field, (name, shape) in _FIELDS.items():
                values = instances.get(field).detach().cpu().numpy().astype(np.float64)
                result[name] = values.reshape(len(instances), *shape)
            self._results[image["image_id"]] = result

    def evaluate(self) -> Metrics | None:
        """Compute the metrics; ``None`` on all but the first process."""
        gathered = self.gather()
        if gathered is None:
            return None
        if not gathered:
            logger.warning("%s has received no images, nothing to evaluate.", type(self).__name__)
            return {}
        records = [self._records[image_id] for image_id in gathered]
        pred = join_boxes3d(list(gathered.values()))
        if self._output_dir is not None:
            self._write(self._output_dir, pred, records)
        if not self._is_annotated(records):
            logger.warning("%s has no annotations, nothing to evaluate.", self._title)
            return {}
        precision = self._precision(pred, records)
        self._log(precision)
        objects = [each for each in annotated_objects(records) if each[1]["has3d"]]
        truth = annotated_boxes3d(objects)
        errors, counts = errors_and_counts(pred, truth, self._classes)
        metrics = precision | {f"{self.benchmark}_counts": counts}
        metrics[f"{self.benchmark}_errors"] = errors
        if self._train_dataset_names:
            trivial = self._trivial(pred, truth, records, metrics)
            metrics[f"{self.benchmark}_trivial_predictors"] = trivial
        else:
            _log_rows("Detections that found their object:", {"model": errors})
        return metrics

    @property
    def _title(self) -> str:
        return ", ".join(self._dataset_names)

    @abstractmethod
    def _write(self, output_dir: str, pred: Boxes3D, records: Records) -> None:
        """Write the result files."""

    @abstractmethod
    def _is_annotated(self, records: Records) -> bool:
        """Whether there is anything to compare detections with."""

    @abstractmethod
    def _precision(self, pred: Boxes3D, records: Records) -> Metrics:
        """Metrics of the benchmark."""

    @abstractmethod
    def _log(self, precision: Metrics) -> None:
        """Print the metrics of the benchmark."""

    @abstractmethod
    def _headline(self, precision: Metrics) -> dict[str, float]:
        """The metrics of the benchmark that the trivial predictor is compared by."""

    def _trivial(
        self, pred: Boxes3D, truth: Boxes3D, records: Records, metrics: Metrics
    ) -> dict[str, float]:
        train = [each for name in self._train_dataset_names for each in DatasetCatalog.get(name)]
        means = class_boxes(train, len(self._classes))
        projections = np.array([record["projection"] for record in records], np.float64)
        trivial = mean_box(pred, means, projections[pred.images])
        errors, _ = errors_and_counts(trivial, truth, self._classes)
        row = self._headline(self._precision(trivial, records)) | errors
        model = self._headline(metrics) | metrics[f"{self.benchmark}_errors"]
        _log_rows(
            "The model and the mean box of the class on its detections:",
            {"model": model, TRIVIAL: row},
        )
        return {f"{TRIVIAL}-{name}": value for name, value in row.items()}


def _names(names: str | Sequence[str]) -> list[str]:
    return [names] if isinstance(names, str) else list(names)


def join_boxes3d(results: Sequence[ImageResult]) -> Boxes3D:
    """Join what `Mono3DEvaluator.process` kept of each image."""
    values = {name: joined(results, name, shape) for name, shape in _FIELDS.values()}
    return Boxes3D(**join_boxes(results), **values)


def _log_rows(title: str, rows: Mapping[str, Mapping[str, float]]) -> None:
    """One line for each metric, since there are more of them than predictors."""
    names = list(next(iter(rows.values())))
    lines = [[name, *(row[name] for row in rows.values())] for name in names]
    table = tabulate(lines, headers=["metric", *rows], floatfmt=".2f", tablefmt="pipe")
    logger.info("%s\n%s", title, table)
