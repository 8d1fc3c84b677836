"""Average precision of boxes and masks with pycocotools."""

import contextlib
import io
import itertools
import json
import logging
import os
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import numpy as np
import pycocotools.mask as mask_util
import torch
from detectron2.data import MetadataCatalog
from detectron2.data.datasets.coco import convert_to_coco_json
from detectron2.structures import BoxMode, Instances
from detectron2.utils import comm
from detectron2.utils.file_io import PathManager
from detectron2.utils.logger import create_small_table
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from tabulate import tabulate

from .evaluator import DatasetEvaluator

logger = logging.getLogger(__name__)

TASKS = ("bbox", "segm")
# Metric name: IoU threshold (None: mean over 0.5, 0.55, ..., 0.95) and object size.
METRICS: dict[str, tuple[float | None, str]] = {
    "AP": (None, "all"),
    "AP50": (0.5, "all"),
    "AP75": (0.75, "all"),
    "APs": (None, "small"),
    "APm": (None, "medium"),
    "APl": (None, "large"),
}
# Columns of the table of per-class values.
NUM_TABLE_COLUMNS = 6


class COCOEvaluator(DatasetEvaluator):
    """Box and mask AP of a registered data set, in percent.

    Results look like ``{"bbox": {"AP": ..., "AP50": ..., "AP-person": ...}, "segm": {...}}``;
    per-class values exist for data sets with more than one class. A value that the ground truth
    does not define (no object of that size) is NaN.
    """

    def __init__(
        self,
        dataset_name: str,
        tasks: Sequence[str] | None = None,
        distributed: bool = True,
        output_dir: str | None = None,
        *,
        max_dets_per_image: int | None = None,
        use_fast_impl: bool = True,
        kpt_oks_sigmas: Sequence[float] = (),
        allow_cached_coco: bool = True,
    ) -> None:
        """
        Args:
            dataset_name: ground truth is the ``json_file`` of its metadata. Without one the
                data set is converted to ``<output_dir>/<dataset_name>_coco_format.json``.
            tasks: out of ``bbox`` and ``segm``; ``None``: what the predictions contain.
            distributed: collect predictions from all processes.
            output_dir: where ``instances_predictions.pth`` and ``coco_instances_results.json``
                are written, ``None``: nowhere.
            max_dets_per_image: detections per image that count, 100 by default.
            use_fast_impl: asks for an accelerated evaluation, which does not exist here.
            kpt_oks_sigmas: must be empty, keypoints are not evaluated.
            allow_cached_coco: use a converted file that exists, even if the data set or its
                registration has changed since.

        Raises:
            ValueError: the data set must be converted and there is no ``output_dir``, or
                keypoints are asked for.
        """
        if len(kpt_oks_sigmas) > 0:
            raise ValueError(
                "kpt_oks_sigmas is set, but detectron2-standalone does not evaluate keypoints"
            )
        if use_fast_impl:
            logger.info("No accelerated COCO evaluation available, using pycocotools.")
        self._tasks = None if tasks is None else tuple(tasks)
        self._distributed = distributed
        self._output_dir = output_dir
        limit = 100 if max_dets_per_image is None else max_dets_per_image
        # pycocotools sorts the limits, and the last one is reported.
        self._max_dets = (1, min(10, limit), limit)
        self._metadata = MetadataCatalog.get(dataset_name)
        if not hasattr(self._metadata, "json_file"):
            if output_dir is None:
                raise ValueError(
                    f"output_dir must be provided to COCOEvaluator: '{dataset_name}' has no "
                    "json_file in its metadata and must be converted"
                )
            json_file = os.path.join(output_dir, f"{dataset_name}_coco_format.json")
            logger.info(f"Converting '{dataset_name}' to COCO format in {json_file}")
            convert_to_coco_json(dataset_name, json_file, allow_cached=allow_cached_coco)
            self._metadata.json_file = json_file
        with contextlib.redirect_stdout(io.StringIO()):
            self._coco_api = COCO(PathManager.get_local_path(self._metadata.json_file))
        self._predictions: list[dict[str, Any]] = []

    def reset(self) -> None:
        """Forget all predictions."""
        self._predictions = []

    def process(self, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> None:
        """Take the predictions of one batch.

        Args:
            inputs: per image ``image_id``.
            outputs: per image ``instances`` at the resolution of the data set, with
                ``pred_boxes``, ``scores``, ``pred_classes`` and optionally ``pred_masks``.
        """
        for record, output in zip(inputs, outputs, strict=True):
            if "instances" in output:
                image_id = record["image_id"]
                converted = instances_to_coco_json(output["instances"].to("cpu"), image_id)
                self._predictions.append({"image_id": image_id, "instances": converted})

    def evaluate(self, img_ids: Sequence[int] | None = None) -> dict[str, dict[str, float]]:
        """Compute the metrics.

        Args:
            img_ids: evaluate these images only.

        Returns:
            Results by task; empty without predictions, on other than the main process, and
            where the ground truth has no annotations.
        """
        predictions = self._predictions
        if self._distributed:
            comm.synchronize()
            predictions = list(itertools.chain(*comm.gather(predictions, dst=0)))
            if not comm.is_main_process():
                return {}
        if not predictions:
            logger.warning("COCOEvaluator has received no predictions, nothing to evaluate.")
            return {}

        results = list(itertools.chain(*(x["instances"] for x in predictions)))
        if self._output_dir:
            PathManager.mkdirs(self._output_dir)
            path = os.path.join(self._output_dir, "instances_predictions.pth")
            with PathManager.open(path, "wb") as file:
                torch.save(predictions, file)
        results = self._with_dataset_ids(results)
        if self._output_dir:
            path = os.path.join(self._output_dir, "coco_instances_results.json")
            logger.info(f"Saving results to {path}")
            with PathManager.open(path, "w") as file:
                json.dump(results, file)

        if "annotations" not in self._coco_api.dataset:
            logger.info("The ground truth has no annotations, nothing to evaluate.")
            return {}
        by_task: dict[str, dict[str, float]] = OrderedDict()
        for task in sorted(self._tasks or _tasks_in(results)):
            assert task in TASKS, f"Got unknown task: {task}! Known are {TASKS}."
            by_task[task] = self._evaluate_task(task, results, img_ids)
        return by_task

    def _with_dataset_ids(self, results: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Replace contiguous class ids by those of the data set, in copies."""
        if not hasattr(self._metadata, "thing_dataset_id_to_contiguous_id"):
            return results
        to_dataset_id = {v: k for k, v in self._metadata.thing_dataset_id_to_contiguous_id.items()}
        num_classes = len(to_dataset_id)
        assert set(to_dataset_id) == set(range(num_classes)), (
            f"thing_dataset_id_to_contiguous_id must map to 0..K-1, got {sorted(to_dataset_id)}"
        )
        for result in results:
            category_id = result["category_id"]
            assert category_id in to_dataset_id, (
                f"predicted class {category_id} of image {result['image_id']} is outside "
                f"0..{num_classes - 1}, the classes of the data set"
            )
        return [{**x, "category_id": to_dataset_id[x["category_id"]]} for x in results]

    def _evaluate_task(
        self, task: str, results: list[dict[str, Any]], img_ids: Sequence[int] | None
    ) -> dict[str, float]:
        """Metrics of one task in percent; all NaN without a single detection."""
        if not results:
            logger.warning(f"No predictions from the model for {task}.")
            return dict.fromkeys(METRICS, float("nan"))
        if task == "segm" and "segmentation" not in results[0]:
            raise ValueError("task 'segm' needs pred_masks in the predictions, which have none")
        coco_eval = _run_coco_eval(self._coco_api, results, task, img_ids, self._max_dets)
        metrics = {
            name: _mean_precision(coco_eval, iou_threshold, size)
            for name, (iou_threshold, size) in METRICS.items()
        }
        logger.info(f"Evaluation results for {task}:\n{create_small_table(metrics)}")
        undefined = [name for name, value in metrics.items() if not np.isfinite(value)]
        if undefined:
            logger.info(f"Not defined by the ground truth: {', '.join(undefined)}")

        class_names = self._metadata.get("thing_classes")
        if class_names is None or len(class_names) <= 1:
            return metrics
        num_categories = len(coco_eval.params.catIds)
        assert len(class_names) == num_categories, (
            f"metadata has {len(class_names)} thing_classes, the ground truth "
            f"{num_categories} categories"
        )
        per_class = {
            name: _mean_precision(coco_eval, None, "all", index)
            for index, name in enumerate(class_names)
        }
        logger.info(f"Per-category {task} AP:\n{_per_class_table(per_class)}")
        return {**metrics, **{f"AP-{name}": value for name, value in per_class.items()}}


def instances_to_coco_json(instances: Instances, img_id: int) -> list[dict[str, Any]]:
    """Convert the detections of one image to COCO results.

    Args:
        instances: on the CPU, with ``pred_boxes``, ``scores``, ``pred_classes`` and optionally
            ``pred_masks``, boolean ``(N, H, W)``.
        img_id: id of the image in the data set.

    Returns:
        One JSON-serialisable dict per detection, boxes as XYWH, masks as compressed RLE.
    """
    if len(instances) == 0:
        return []
    boxes = BoxMode.convert(
        instances.pred_boxes.tensor.numpy(), BoxMode.XYXY_ABS, BoxMode.XYWH_ABS
    ).tolist()
    results = [
        {"image_id": img_id, "category_id": category_id, "bbox": box, "score": score}
        for category_id, box, score in zip(
            instances.pred_classes.tolist(), boxes, instances.scores.tolist(), strict=True
        )
    ]
    if instances.has("pred_masks"):
        masks = instances.pred_masks.numpy().astype(np.uint8)
        # pycocotools wants (H, W, N) in Fortran order and encodes all masks in one call.
        encoded = mask_util.encode(np.asfortranarray(masks.transpose(1, 2, 0)))
        for result, rle in zip(results, encoded, strict=True):
            result["segmentation"] = {**rle, "counts": rle["counts"].decode("ascii")}
    return results


def _tasks_in(results: list[dict[str, Any]]) -> set[str]:
    """Tasks that COCO results can be evaluated for."""
    return set(TASKS) if any("segmentation" in x for x in results) else {"bbox"}


def _run_coco_eval(
    coco_api: COCO,
    results: list[dict[str, Any]],
    task: str,
    img_ids: Sequence[int] | None,
    max_dets: tuple[int, int, int],
) -> COCOeval:
    """Match and accumulate; what pycocotools prints is dropped."""
    # pycocotools writes into what it is given, and would take the size of an object from its
    # box instead of its mask if both are there.
    dropped = "bbox" if task == "segm" else "segmentation"
    results = [{k: v for k, v in x.items() if k != dropped} for x in results]
    with contextlib.redirect_stdout(io.StringIO()):
        coco_eval = COCOeval(coco_api, coco_api.loadRes(results), task)
        coco_eval.params.maxDets = list(max_dets)
        if img_ids is not None:
            coco_eval.params.imgIds = list(img_ids)
        coco_eval.evaluate()
        coco_eval.accumulate()
    return coco_eval


def _mean_precision(
    coco_eval: COCOeval, iou_threshold: float | None, size: str, category: int | None = None
) -> float:
    """Mean precision in percent over thresholds, recall levels and categories.

    Args:
        coco_eval: accumulated evaluation.
        iou_threshold: one threshold, ``None``: all.
        size: ``all``, ``small``, ``medium`` or ``large``.
        category: index of one category, ``None``: all.

    Returns:
        NaN where no ground truth exists.
    """
    params = coco_eval.params
    # Axes: threshold, recall level, category, size, number of detections.
    precision = coco_eval.eval["precision"][:, :, :, params.areaRngLbl.index(size), -1]
    if iou_threshold is not None:
        precision = precision[np.isclose(params.iouThrs, iou_threshold)]
    if category is not None:
        precision = precision[:, :, category]
    defined = precision[precision > -1]
    return float(defined.mean() * 100) if defined.size else float("nan")


def _per_class_table(per_class: dict[str, float]) -> str:
    """Names and values in a few pairs of columns."""
    cells = [cell for name, value in per_class.items() for cell in (name, value)]
    num_columns = min(NUM_TABLE_COLUMNS, len(cells))
    rows = itertools.zip_longest(*(cells[start::num_columns] for start in range(num_columns)))
    headers = ["category", "AP"] * (num_columns // 2)
    return tabulate(rows, headers=headers, tablefmt="pipe", floatfmt=".3f", numalign="left")
