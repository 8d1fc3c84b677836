"""Evaluator of single images: boxes, masks and depth, as ROCA reports them."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pycocotools.mask as mask_util
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.utils.file_io import PathManager
from tabulate import tabulate

from roca_nocs.data.images import describe
from roca_nocs.data.maps import read_map

from .collected import (
    CollectingEvaluator,
    ImageResult,
    annotated_boxes,
    annotated_objects,
    boxes_of,
    encode_masks,
    join_boxes,
    poses_of,
)
from .frame_metrics import (
    AveragePrecision,
    FrameObjects,
    average_precision,
    depth_error,
    match_frames,
)

logger = logging.getLogger(__name__)

PREDICTIONS_FILE = "per_frame_preds.json"
DEPTH_MAPS = ("depth", "depth_full")


class RocaFrameEvaluator(CollectingEvaluator):
    """AP at IoU 0.5 of boxes and masks, and the error of depth maps.

    Results, where the model has such outputs (percent; centimetres):

    * ``frame_box`` and ``frame_mask``: ``AP50``, the mean over the classes with annotations;
      ``AP50_all``, of the instances of all classes together; ``AP50-<class>``, NaN for a class
      without annotations;
    * ``depth``: ``mean`` and ``median`` over the images of the mean absolute error on the pixels of
      annotated objects; ``full_mean`` and ``full_median`` on all pixels, for datasets that have
      depth everywhere. NaN where no image has ground truth.
    """

    def __init__(self, dataset_name: str, output_dir: str | None = None) -> None:
        """
        Args:
            dataset_name: in ROCA's layout.
            output_dir: where ``per_frame_preds.json`` is written: detections by
                ``<scene>/color/<frame>.jpg``, poses in the camera frame; ``None``: nowhere.
        """
        super().__init__()
        self._records = {each["image_id"]: each for each in DatasetCatalog.get(dataset_name)}
        self._dataset_name = dataset_name
        self._classes = list(MetadataCatalog.get(dataset_name).thing_classes)
        self._output_dir = output_dir

    def process(self, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> None:
        """Take one batch.

        Args:
            inputs: per image ``image_id``.
            outputs: per image ``instances`` at the size of the record (``pred_boxes``, ``scores``,
                ``pred_classes``, optionally ``pred_masks`` (N, H, W) bool and poses with
                ``cad_ids``), optionally ``depth`` (H, W) metres.
        """
        for image, output in zip(inputs, outputs, strict=True):
            if image["image_id"] not in self._records:
                raise ValueError(f"{describe(image)}: not an image of {self._dataset_name}")
            record = self._records[image["image_id"]]
            instances = output["instances"]
            result: ImageResult = boxes_of(instances)
            if instances.has("pred_masks"):
                result["masks"] = encode_masks(instances.pred_masks)
            if instances.has("pred_translations"):
                result |= poses_of(image, output)
                result["wild_cads"] = output.get("wild_cad_ids")
            if "depth" in output:
                depth = output["depth"].detach().cpu().numpy()
                result["depth"] = _depth_errors(depth, record)
            self._results[image["image_id"]] = result

    def evaluate(self) -> dict[str, dict[str, float]] | None:
        """Compute the metrics; ``None`` on all but the first process."""
        gathered = self.gather()
        if gathered is None:
            return None
        if not gathered:
            logger.warning("RocaFrameEvaluator has received no images, nothing to evaluate.")
            return {}
        records, results = [self._records[i] for i in gathered], list(gathered.values())
        if self._output_dir is not None:
            self._write(records, results)
        metrics = {"frame_box": self._precision(records, results, by_mask=False)}
        if all("masks" in result for result in results):
            metrics["frame_mask"] = self._precision(records, results, by_mask=True)
        if all("depth" in result for result in results):
            metrics["depth"] = _average_depth([result["depth"] for result in results])
            table = tabulate([metrics["depth"]], headers="keys", floatfmt=".2f", tablefmt="pipe")
            logger.info(f"Depth errors in cm:\n{table}")
        return metrics

    def _precision(
        self,
        records: Sequence[Mapping[str, Any]],
        results: Sequence[ImageResult],
        *,
        by_mask: bool,
    ) -> dict[str, float]:
        masks: list[dict[str, Any]] = []
        gt_masks: list[dict[str, Any]] = []
        if by_mask:
            masks = [mask for result in results for mask in result["masks"]]
            gt_masks = [
                _annotated_mask(annotation, records[image])
                for image, annotation in annotated_objects(records)
            ]
        predictions = _frame_objects(join_boxes(results), masks)
        annotations = _frame_objects(annotated_boxes(records), gt_masks)
        matched = match_frames(predictions, annotations, by_mask=by_mask)
        precision = average_precision(predictions, annotations, matched, len(self._classes))
        return self._report(precision, "masks" if by_mask else "boxes")

    def _report(self, precision: AveragePrecision, kind: str) -> dict[str, float]:
        metrics = {"AP50": 100 * precision.mean, "AP50_all": 100 * precision.pooled}
        values = (100 * precision.classes).tolist()
        per_class = dict(zip(self._classes, values, strict=True))
        row = [*metrics.values(), *values]
        header = ["mean", "all instances", *self._classes]
        table = tabulate([row], headers=header, floatfmt=".2f", tablefmt="pipe")
        logger.info(f"Per-frame AP50 of {kind}:\n{table}")
        if precision.unannotated:
            names = ", ".join(self._classes[category] for category in precision.unannotated)
            logger.info(
                f"Left out of the mean AP50 of {kind}: {names} (predicted, but not annotated)."
            )
        return {**metrics, **{f"AP50-{name}": value for name, value in per_class.items()}}

    def _write(self, records: Sequence[Mapping[str, Any]], results: Sequence[ImageResult]) -> None:
        predictions = {
            "/".join(record["file_name"].split(os.sep)[-3:]): _published_layout(
                result, self._classes
            )
            for record, result in zip(records, results, strict=True)
        }
        PathManager.mkdirs(self._output_dir)
        path = os.path.join(self._output_dir, PREDICTIONS_FILE)
        with PathManager.open(path, "w") as file:
            json.dump(predictions, file)
        logger.info(f"Predictions are in {path}")


def _frame_objects(
    arrays: Mapping[str, np.ndarray], masks: Sequence[dict[str, Any]]
) -> FrameObjects:
    return FrameObjects(
        arrays["images"], arrays["categories"], arrays["boxes"], arrays["scores"], masks
    )


def _annotated_mask(annotation: Mapping[str, Any], record: Mapping[str, Any]) -> dict[str, Any]:
    segmentation = annotation.get("segmentation")
    if segmentation is None:
        raise ValueError(
            f"{describe(record)}: annotation {annotation['annotation_id']} has no 'segmentation'; "
            "the AP of masks needs one"
        )
    if isinstance(segmentation, Mapping):
        return dict(segmentation)
    polygons = mask_util.frPyObjects(segmentation, record["height"], record["width"])
    return mask_util.merge(polygons)


def _depth_errors(depth: np.ndarray, record: Mapping[str, Any]) -> dict[str, float]:
    """Metres, by the name of the map."""
    errors = {}
    for name in DEPTH_MAPS:
        if f"{name}_file_name" in record:
            try:
                errors[name] = depth_error(depth, read_map(record, name))
            except ValueError as error:
                raise ValueError(f"{describe(record)}: {error}") from error
    return errors


def _average_depth(errors: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Centimetres with two decimals, over the images that have ground truth."""
    metrics = {}
    for name, prefix in zip(DEPTH_MAPS, ("", "full_"), strict=True):
        known = np.array([each[name] for each in errors if name in each])
        if not known.size and prefix:
            continue
        known = known[~np.isnan(known)]
        for what, average in (("mean", np.mean), ("median", np.median)):
            value = round(100 * float(average(known)), 2) if known.size else float("nan")
            metrics[prefix + what] = value
    return metrics


def _published_layout(result: ImageResult, classes: Sequence[str]) -> list[dict[str, Any]]:
    """The detections of an image as ROCA publishes them."""
    columns: dict[str, Sequence[Any]] = {
        "score": result["scores"].tolist(),
        "bbox": result["boxes"].tolist(),
        "category": [classes[category] for category in result["categories"]],
    }
    if "translations" in result:
        columns |= {
            "t": result["translations"].tolist(),
            "q": result["quaternions"].tolist(),
            "s": result["scales"].tolist(),
            "scene_cad_id": result["cads"],
        }
        if result["wild_cads"] is not None:
            columns["wild_cad_id"] = result["wild_cads"]
    if "masks" in result:
        columns["segmentation"] = [
            {"size": list(mask["size"]), "counts": mask["counts"].decode("ascii")}
            for mask in result["masks"]
        ]
    rows = zip(*columns.values(), strict=True)
    return [
        {name: value for name, value in zip(columns, row, strict=True) if value is not None}
        for row in rows
    ]
