"""Evaluator of category-level poses and sizes (NOCS), next to trivial predictors."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from tabulate import tabulate

from roca_nocs.data.coco_json import DatasetError
from roca_nocs.data.images import describe
from roca_nocs.geometry.box3d import IOU_MODES
from roca_nocs.geometry.failures import FailureReason, alignment_failures
from roca_nocs.geometry.rotation import quaternion_to_matrix

from .collected import (
    CollectingEvaluator,
    Detections,
    ImageResult,
    annotated_objects,
    boxes_of,
    join_boxes,
    joined,
)
from .nocs_coordinates import coordinate_errors
from .nocs_metrics import HANDLE_CLASS, PosedObjects, SymmetryRule
from .nocs_precision import (
    ANY_CENTIMETRES,
    ANY_DEGREES,
    CENTIMETRES,
    DEGREES,
    IOU_THRESHOLDS,
    class_mean,
    pose_precision,
)
from .nocs_results import write_results
from .trivial_predictors import class_means, identity_rotation, mean_pose

logger = logging.getLogger(__name__)

Metrics = dict[str, dict[str, float]]

POSE_FIELDS = {"pred_rotations": (3, 3), "pred_translations": (3,), "pred_scales": (3,)}

POSE_THRESHOLDS = (
    (5.0, 2.0),
    (5.0, 5.0),
    (10.0, 2.0),
    (10.0, 5.0),
    (10.0, 10.0),
    (15.0, 10.0),
    (5.0, ANY_CENTIMETRES),
    (ANY_DEGREES, 5.0),
)

RESULTS_FOLDER = "nocs_results"


class NocsEvaluator(CollectingEvaluator):
    """Average precision at 3D IoUs and at errors of rotation and translation, as NOCS reports them.

    Results, in percent, each as the mean over the classes and as ``<metric>-<class>``; NaN for a
    class without annotations, which the mean leaves out:

    * ``iou3d_<mode>``: ``IoU25``, ``IoU50``, ``IoU75``, by IoU mode (``nocs``: the published code,
      ``aabb``: corrected, ``obb``: exact);
    * ``pose_<mode>``: ``5deg_2cm`` and so on in the published protocol, where only pairs matched at
      the 3D IoU 0.1 of the mode count; ``pose_detection``: all objects count;
    * ``nocs_coordinates``, with ``pred_nocs``: ``mean`` distance of the coordinates in percent of
      the diagonal, for the best detection of each object;
    * ``pose_failures``: ``detections``, ``failed`` and the number by reason, as counts;
    * ``trivial_predictors``, with ``train_dataset_name``: ``<predictor>-<metric>``.

    Images with an object whose pose is not annotated are left out and counted. Symmetric are the
    classes of the metadata ``symmetries`` and, where their handle is hidden, of ``handle_class``;
    without this metadata those of the published code, by their names.
    """

    def __init__(
        self,
        dataset_name: str,
        train_dataset_name: str | None = None,
        output_dir: str | None = None,
        iou_modes: Sequence[str] = ("nocs", "aabb"),
    ) -> None:
        """
        Args:
            dataset_name: in the NOCS layout.
            train_dataset_name: source of the mean poses; ``None``: no trivial predictors.
            output_dir: where ``nocs_results/`` with the pickles of the published format is
                written; ``None``: nowhere.
            iou_modes: of ``IOU_MODES``.

        Raises:
            ValueError: an unknown mode.
        """
        super().__init__()
        if unknown := set(iou_modes) - set(IOU_MODES):
            raise ValueError(f"unknown iou_modes {sorted(unknown)}; there are {IOU_MODES}")
        self._dataset_name = dataset_name
        self._train_dataset_name = train_dataset_name
        self._output_dir = output_dir
        self._modes = tuple(iou_modes)
        self._records = {each["image_id"]: each for each in DatasetCatalog.get(dataset_name)}
        metadata = MetadataCatalog.get(dataset_name)
        self._classes = list(metadata.thing_classes)
        handle_class = metadata.get("handle_class", HANDLE_CLASS)
        symmetries = metadata.get("symmetries")
        if symmetries is None:
            self._rule = SymmetryRule.of_classes(self._classes, handle_class=handle_class)
        else:
            self._rule = SymmetryRule.of_symmetries(self._classes, symmetries, handle_class)

    def process(self, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> None:
        """Take one batch.

        Args:
            inputs: per image ``image_id``.
            outputs: per image ``instances`` at the size of the record with ``pred_boxes``,
                ``scores``, ``pred_classes``, ``pred_rotations`` (N, 3, 3), ``pred_translations``
                (N, 3) in metres, ``pred_scales`` (N, 3) metric extents of the boxes, ``pose_valid``
                (N) bool, ``pose_reasons`` (N) of ``FailureReason``; optionally ``pred_nocs``
                (N, 3, S, S) in [0, 1] on the grid of each box, with ``pred_masks`` (N, H, W) bool.

        Raises:
            ValueError: a field is missing, or the image is not one of the dataset.
        """
        for image, output in zip(inputs, outputs, strict=True):
            if image["image_id"] not in self._records:
                raise ValueError(f"{describe(image)}: not an image of {self._dataset_name}")
            record, instances = self._records[image["image_id"]], output["instances"]
            missing = [
                name
                for name in (*POSE_FIELDS, "pose_valid", "pose_reasons")
                if not instances.has(name)
            ]
            if missing:
                raise ValueError(
                    f"{describe(image)}: the model's output has no {', '.join(missing)}; poses "
                    "need a model with a NOCS head"
                )
            result = boxes_of(instances)
            for name, shape in POSE_FIELDS.items():
                values = instances.get(name).detach().cpu().numpy().astype(np.float64)
                result[name] = values.reshape(len(instances), *shape)
            result["valid"] = instances.pose_valid.cpu().numpy().astype(bool)
            result["reasons"] = instances.pose_reasons.cpu().numpy().astype(np.int64)
            if instances.has("pred_nocs"):
                result["coordinates"] = coordinate_errors(instances, record, self._rule)
            self._results[image["image_id"]] = result

    def evaluate(self) -> Metrics | None:
        """Compute the metrics; ``None`` on all but the first process.

        Raises:
            DatasetError: none of the images has poses.
        """
        gathered = self.gather()
        if gathered is None:
            return None
        if not gathered:
            logger.warning("NocsEvaluator has received no images, nothing to evaluate.")
            return {}
        kept = [image_id for image_id in gathered if _all_posed(self._records[image_id])]
        if len(kept) < len(gathered):
            logger.warning(
                "%s: left out %d of %d images, where an object has no pose.",
                self._dataset_name,
                len(gathered) - len(kept),
                len(gathered),
            )
        if not kept:
            raise DatasetError(f"{self._dataset_name} has no poses for any of the images.")
        records = [self._records[image_id] for image_id in kept]
        results = [gathered[image_id] for image_id in kept]
        detections = join_poses(results)
        truth = annotated_poses(records)
        if self._output_dir is not None:
            folder = os.path.join(self._output_dir, RESULTS_FOLDER)
            write_results(folder, records, detections, truth)

        present = set(truth.categories.tolist())
        if absent := [name for row, name in enumerate(self._classes) if row not in present]:
            logger.info("Classes without annotations, which have no AP: %s.", ", ".join(absent))
        metrics = self._metrics(detections, truth)
        logger.info("3D boxes and poses, percent:\n%s", _table(metrics, self._classes, truth))
        metrics["pose_failures"] = _failures(results)
        if all("coordinates" in result for result in results):
            metrics["nocs_coordinates"] = self._coordinates(results)
        if self._train_dataset_name is not None:
            metrics["trivial_predictors"] = self._trivial(detections, truth, records, metrics)
        return metrics

    def _metrics(self, detections: Detections, truth: PosedObjects) -> Metrics:
        precision = pose_precision(posed_objects(detections), truth, self._rule, modes=self._modes)
        metrics: Metrics = {}
        for mode in self._modes:
            metrics[f"iou3d_{mode}"] = {}
            for column, threshold in enumerate(IOU_THRESHOLDS):
                name = f"IoU{round(100 * threshold)}"
                metrics[f"iou3d_{mode}"] |= self._named(name, precision.iou[mode][:, column])
        poses = {f"pose_{mode}": precision.matched[mode] for mode in self._modes}
        for task, values in (poses | {"pose_detection": precision.detection}).items():
            metrics[task] = {}
            for angle, distance in POSE_THRESHOLDS:
                place = DEGREES.index(angle), CENTIMETRES.index(distance)
                metrics[task] |= self._named(_pose_name(angle, distance), values[:, *place])
        return metrics

    def _named(self, name: str, values: np.ndarray) -> dict[str, float]:
        """A metric of each class (C,), a fraction, as percent with its mean first."""
        per_class = zip(self._classes, (100 * values).tolist(), strict=True)
        return {
            name: 100 * float(class_mean(values)),
            **{f"{name}-{category}": value for category, value in per_class},
        }

    def _coordinates(self, results: Sequence[ImageResult]) -> dict[str, float]:
        categories, errors = (
            np.concatenate([result["coordinates"][part] for result in results])
            for part in ("categories", "errors")
        )
        counts = np.bincount(categories, minlength=len(self._classes))
        sums = np.bincount(categories, errors, minlength=len(self._classes))
        means = np.divide(sums, counts, out=np.full(len(counts), np.nan), where=counts > 0)
        named = self._named("mean", means)
        found = ", ".join(f"{name} {value:.2f}" for name, value in named.items())
        logger.info("Error of the coordinates, percent of the diagonal: %s", found)
        return named

    def _trivial(
        self,
        detections: Detections,
        truth: PosedObjects,
        records: Sequence[Mapping[str, Any]],
        metrics: Metrics,
    ) -> dict[str, float]:
        training = _with_sizes(DatasetCatalog.get(self._train_dataset_name))
        means = class_means(training, len(self._classes))
        intrinsics = np.array([record["intrinsics"] for record in records])
        always = np.ones(len(detections), bool)
        predictors = {
            "identity_rotation": identity_rotation(detections),
            "mean_pose_per_class": replace(
                mean_pose(detections, means, intrinsics[detections.images]), has_alignment=always
            ),
        }
        rows = {"model": self._summary(metrics)} | {
            name: self._summary(self._metrics(each, truth)) for name, each in predictors.items()
        }
        table = tabulate(
            [{"predictor": name, **row} for name, row in rows.items()],
            headers="keys",
            floatfmt=".1f",
            tablefmt="pipe",
        )
        logger.info("The model and trivial predictors on its detections:\n%s", table)
        return {
            f"{name}-{metric}": value for name in predictors for metric, value in rows[name].items()
        }

    def _summary(self, metrics: Metrics) -> dict[str, float]:
        """The row of a predictor: means over the classes, by task and metric."""
        tasks = [f"iou3d_{mode}" for mode in self._modes] + ["pose_detection"]
        return {
            f"{task}_{name}": value
            for task in tasks
            for name, value in metrics[task].items()
            if "-" not in name
        }


def posed_objects(detections: Detections) -> PosedObjects:
    """Detections as objects with boxes; a pose that is not finite counts as none."""
    values = [detections.rotations.reshape(-1, 9), detections.translations, detections.scales]
    finite = np.isfinite(np.concatenate(values, axis=1)).all(axis=1)
    return PosedObjects(
        images=detections.images,
        categories=detections.categories,
        scores=detections.scores,
        rotations=detections.rotations,
        translations=detections.translations,
        sizes=detections.scales,
        posed=detections.has_alignment & finite & (detections.scales > 0).all(axis=1),
        handle_visible=np.ones(len(detections), bool),
    )


def join_poses(results: Sequence[ImageResult]) -> Detections:
    """Join what `NocsEvaluator.process` kept of each image."""
    boxes = join_boxes(results)
    return Detections(
        **boxes,
        translations=joined(results, "pred_translations", (3,)),
        rotations=joined(results, "pred_rotations", (3, 3)),
        scales=joined(results, "pred_scales", (3,)),
        cads=np.full(len(boxes["images"]), -1, np.int64),
        has_alignment=joined(results, "valid", ()).astype(bool),
    )


def annotated_poses(records: Sequence[Mapping[str, Any]]) -> PosedObjects:
    """The annotated objects of records that all have poses."""
    objects = annotated_objects(records)

    def numbers(name: str, size: int) -> np.ndarray:
        return np.array([each[name] for _, each in objects], np.float64).reshape(-1, size)

    return PosedObjects(
        images=np.array([image for image, _ in objects], np.int64),
        categories=np.array([each["category_id"] for _, each in objects], np.int64),
        scores=np.ones(len(objects)),
        rotations=quaternion_to_matrix(torch.from_numpy(numbers("q", 4))).numpy(),
        translations=numbers("t", 3),
        sizes=numbers("s", 3) * numbers("extents", 3),
        posed=np.ones(len(objects), bool),
        handle_visible=np.array([each["handle_visible"] for _, each in objects], bool),
    )


def _all_posed(record: Mapping[str, Any]) -> bool:
    return all("q" in each for _, each in annotated_objects([record]))


def _with_sizes(records: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Only the annotations with poses, with the metric extents as the scale."""
    return [
        {
            "annotations": [
                {**each, "s": [s * e for s, e in zip(each["s"], each["extents"], strict=True)]}
                for each in record["annotations"]
                if "q" in each
            ]
        }
        for record in records
    ]


def _pose_name(angle: float, distance: float) -> str:
    degrees = "any" if angle == ANY_DEGREES else f"{angle:g}deg"
    return f"{degrees}_any" if distance == ANY_CENTIMETRES else f"{degrees}_{distance:g}cm"


def _failures(results: Sequence[ImageResult]) -> dict[str, float]:
    """Number of detections, of those without a pose, and of these by reason."""
    reasons = torch.from_numpy(joined(results, "reasons", ()).astype(np.int64))
    failures = alignment_failures(reasons)
    counts = Counter(failure.reason.name for failure in failures)
    found = ", ".join(f"{name} {count}" for name, count in sorted(counts.items()))
    logger.info(
        "Detections without a pose: %d of %d%s",
        len(failures),
        len(reasons),
        f" ({found})" if found else "",
    )
    return {
        "detections": len(reasons),
        "failed": len(failures),
        **{reason.name: counts[reason.name] for reason in FailureReason if reason != 0},
    }


def _table(metrics: Metrics, classes: Sequence[str], truth: PosedObjects) -> str:
    """Metrics by class; one row for each metric of each task."""
    rows = [
        [task, name, values[name], *(values[f"{name}-{category}"] for category in classes)]
        for task, values in metrics.items()
        for name in values
        if "-" not in name
    ]
    counts = np.bincount(truth.categories, minlength=len(classes)).tolist()
    rows.append(["annotated", "objects", len(truth), *counts])
    return tabulate(
        rows, headers=["task", "metric", "mean", *classes], floatfmt=".1f", tablefmt="pipe"
    )
