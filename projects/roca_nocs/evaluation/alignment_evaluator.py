"""Evaluator of CAD alignments in the scenes of a dataset, next to trivial predictors."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from typing import Any

import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog
from tabulate import tabulate

from .alignment_truth import TASKS, VISIBLE_TASK, AlignmentTruth
from .collected import CollectingEvaluator, Detections, boxes_of, join_detections, poses_of
from .scene_models import load_cad_table, load_scene_models, require_scenes_file
from .trivial_predictors import class_means, identity_rotation, mean_pose, random_cad

logger = logging.getLogger(__name__)

Metrics = dict[str, dict[str, float]]

CSV_FOLDER = "alignments"


class AlignmentEvaluator(CollectingEvaluator):
    """Alignment accuracy of Scan2CAD and Vid2CAD, retrieval accuracy and pose errors.

    Results (percent unless said otherwise):

    * ``alignment`` (scale error ``mean_ratio``, the published protocol), ``alignment_per_axis``
      (SPARC's scale error), ``alignment_retrieval`` and ``alignment_retrieval_per_axis`` (the CAD
      model has to be the annotated one): ``instance``, ``class``, ``instance_benchmark``,
      ``class_benchmark``, ``AC-<class>``, NaN for a class without annotations;
    * ``alignment_visible``: as ``alignment``, but only models that are annotated in at least one
      image of the dataset count. This is no published protocol: it tells what is reachable where
      the images show a part of each scene;
    * ``detections``: over detections above the score 0.5 that an annotation of the class is matched
      with at a box IoU of 0.5: ``retrieval_accuracy``, ``rotation_error`` (degrees, up to the
      symmetry of the annotated model), ``translation_error`` (cm), ``scale_error`` (mean over the
      axes), ``matched`` (their number). NaN without any;
    * ``trivial_predictors``, with ``train_dataset_name``: ``<predictor>-<metric>``.

    Feeding the ground truth as prediction gives 100 % in ``alignment_visible`` as long as no two
    objects of a class are so close and alike that the protocol takes them for duplicates, and the
    share of visible models in ``alignment``.
    """

    def __init__(
        self,
        dataset_name: str,
        train_dataset_name: str | None = None,
        output_dir: str | None = None,
    ) -> None:
        """
        Args:
            dataset_name: in ROCA's layout, with annotated scenes.
            train_dataset_name: source of the mean poses, and of the CAD models of retrieval
                without scenes; ``None``: no trivial predictors.
            output_dir: where ``alignments/<scene>.csv`` are written; ``None``: nowhere.

        Raises:
            DatasetError: the dataset has no annotated scenes.
        """
        super().__init__()
        require_scenes_file(dataset_name)
        self._dataset_name = dataset_name
        self._train_dataset_name = train_dataset_name
        self._classes = list(MetadataCatalog.get(dataset_name).thing_classes)
        self._output_dir = output_dir

    def process(self, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> None:
        """Take one batch.

        Args:
            inputs: per image ``image_id``.
            outputs: per image ``instances`` at the size of the record with ``pred_boxes``,
                ``scores``, ``pred_classes``, ``pred_translations``, ``pred_rotations`` (wxyz),
                ``pred_scales``, ``has_alignment``, and ``cad_ids``, one (synset, model id) or
                ``None`` per instance.
        """
        for image, output in zip(inputs, outputs, strict=True):
            result = boxes_of(output["instances"]) | poses_of(image, output)
            self._results[image["image_id"]] = result

    def evaluate(self) -> Metrics | None:
        """Compute the metrics; ``None`` on all but the first process."""
        gathered = self.gather()
        if gathered is None:
            return None
        if not gathered:
            logger.warning("AlignmentEvaluator has received no images, nothing to evaluate.")
            return {}
        records = DatasetCatalog.get(self._dataset_name)
        names = [self._dataset_name]
        if self._train_dataset_name is not None:
            names.append(self._train_dataset_name)
        cads = load_cad_table(names)
        scene_models = load_scene_models(self._dataset_name, records, cads.rows)
        by_id = {record["image_id"]: record for record in records}
        if unknown := gathered.keys() - by_id.keys():
            raise ValueError(f"{self._dataset_name} has no images with the ids {sorted(unknown)}")
        truth = AlignmentTruth(
            [by_id[image_id] for image_id in gathered], scene_models, cads, self._classes
        )
        detections = join_detections(list(gathered.values()), cads.rows)
        if self._output_dir is not None:
            truth.write_csv(detections, os.path.join(self._output_dir, CSV_FOLDER))

        metrics = truth.metrics(detections)
        _log_accuracies(metrics, truth)
        if self._train_dataset_name is not None:
            predictors = _trivial(detections, truth, self._train_dataset_name)
            rows = {name: _summary(truth.metrics(each)) for name, each in predictors.items()}
            _log_predictors({"model": _summary(metrics), **rows})
            metrics["trivial_predictors"] = {
                f"{name.replace(' ', '_')}-{metric}": value
                for name, row in rows.items()
                for metric, value in row.items()
            }
        return metrics


def _trivial(
    detections: Detections, truth: AlignmentTruth, train_dataset_name: str
) -> dict[str, Detections]:
    """What the trivial predictors make of the detections."""
    means = class_means(DatasetCatalog.get(train_dataset_name), len(truth.classes))
    images = detections.images
    return {
        "identity rotation": identity_rotation(detections),
        "mean pose per class": mean_pose(detections, means, truth.intrinsics[images]),
        "random CAD": random_cad(detections, truth.image_scenes[images], truth.scene_models.models),
    }


def _summary(metrics: Metrics) -> dict[str, float]:
    """The row of a predictor in the table of predictors."""
    return {
        "instance": metrics["alignment"]["instance"],
        "class": metrics["alignment"]["class"],
        "visible_instance": metrics[VISIBLE_TASK]["instance"],
        "visible_class": metrics[VISIBLE_TASK]["class"],
        "retrieval_instance": metrics["alignment_retrieval"]["instance"],
        **{name: value for name, value in metrics["detections"].items() if name != "matched"},
    }


def _log_accuracies(metrics: Metrics, truth: AlignmentTruth) -> None:
    models, visible = truth.scene_models.models, truth.scene_models.visible
    rows = []
    for task in (*TASKS.values(), VISIBLE_TASK):
        values = metrics[task]
        per_class = [values[f"AC-{name}"] for name in truth.classes]
        rows.append([task, *per_class, values["class"], values["instance"]])
    for what, chosen in (("annotated", models), ("annotated, visible", models[visible])):
        counts = np.bincount(chosen.categories, minlength=len(truth.classes))
        rows.append([what, *counts.tolist(), None, len(chosen)])
    header = ["percent", *truth.classes, "class", "instance"]
    table = tabulate(rows, headers=header, floatfmt=".1f", tablefmt="pipe")
    found = ", ".join(f"{name} {value:.1f}" for name, value in metrics["detections"].items())
    logger.info(f"Alignment accuracy:\n{table}")
    logger.info(f"Detections matched with an annotation (degrees, cm, percent): {found}")
    annotated = set(np.unique(truth.scene_models.models.categories).tolist())
    absent = [name for row, name in enumerate(truth.classes) if row not in annotated]
    if absent:
        logger.info(f"Left out of the class averages (not annotated): {', '.join(absent)}.")


def _log_predictors(rows: Mapping[str, Mapping[str, float]]) -> None:
    table = tabulate(
        [{"predictor": name, **row} for name, row in rows.items()],
        headers="keys",
        floatfmt=".1f",
        tablefmt="pipe",
    )
    logger.info(f"The model and trivial predictors on its detections:\n{table}")
