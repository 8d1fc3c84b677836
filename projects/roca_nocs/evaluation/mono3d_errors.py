"""Errors and counts of the 3D boxes of detections that found an object in the image."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from roca_nocs.geometry.box3d_overlap import elementwise_overlap
from roca_nocs.geometry.pose import rotation_error_degrees

from .boxes3d import Boxes3D
from .frame_metrics import FrameObjects, match_frames

MIN_IOU_3D = 0.25


def errors_and_counts(
    pred: Boxes3D, gt: Boxes3D, classes: Sequence[str]
) -> tuple[dict[str, float], dict[str, float]]:
    """Medians over the detections that match an annotation of their class at a 2D IoU of 0.5.

    Args:
        pred: N detections.
        gt: M annotations with 3D boxes.
        classes: names of the C classes.

    Returns:
        errors: ``rotation`` (degrees), ``depth`` (percent of the annotated depth), ``dimensions``
            (percent of the annotated ones, mean of the three), NaN without matches; ``matched``,
            their number.
        counts: ``annotated``, ``detected``, ``hits_2d`` (matched), ``hits_3d`` (matched and with a
            3D IoU of 0.25), in total and as ``<count>-<class>``.
    """
    partner = match_frames(_in_image(pred), _in_image(gt))
    found = pred[partner >= 0]
    truth = gt[partner[partner >= 0]]
    rotation = rotation_error_degrees(
        torch.from_numpy(found.rotations), torch.from_numpy(truth.rotations)
    ).numpy()
    depth = np.abs(found.centers[:, 2] - truth.centers[:, 2]) / truth.centers[:, 2]
    dimensions = np.abs(found.dimensions / truth.dimensions - 1).mean(axis=1)
    errors = {
        "rotation": _median(rotation),
        "depth": 100 * _median(depth),
        "dimensions": 100 * _median(dimensions),
        "matched": len(found),
    }

    _, iou = elementwise_overlap(found.oriented(), truth.oriented())
    counted = {
        "annotated": gt.categories,
        "detected": pred.categories,
        "hits_2d": found.categories,
        "hits_3d": found.categories[iou.numpy() >= MIN_IOU_3D],
    }
    counts: dict[str, float] = {name: len(each) for name, each in counted.items()}
    for name, each in counted.items():
        by_class = np.bincount(each, minlength=len(classes)).tolist()
        counts |= {f"{name}-{key}": n for key, n in zip(classes, by_class, strict=True)}
    return errors, counts


def _in_image(objects: Boxes3D) -> FrameObjects:
    return FrameObjects(objects.images, objects.categories, objects.boxes, objects.scores)


def _median(values: np.ndarray) -> float:
    return float(np.median(values)) if len(values) else float("nan")
