"""Objects of the KITTI benchmark and their overlaps in the image, from above and in space."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from roca_nocs.geometry.box3d_overlap import OrientedBoxes, elementwise_overlap
from roca_nocs.geometry.cuboids import bev_boxes

from .frame_metrics import box_iou
from .matching import pairs_between

DONT_CARE = "dontcare"


@dataclass(frozen=True)
class KittiObjects:
    """N objects of all images, each with its box in the rectified reference camera.

    Attributes:
        images: (N,) int64 number of the image.
        types: (N,) lower-case names.
        boxes: (N, 4) float64 XYXY, pixels.
        scores: (N,) float64.
        centers: (N, 3) float64 geometric centres, metres.
        dimensions: (N, 3) float64 width, height, length, metres; not positive = no 3D box.
        rotation_y: (N,) float64 radians.
        alphas: (N,) float64 radians; -10 = unknown.
        truncation: (N,) float64 in [0, 1].
        occlusion: (N,) int64, 0 to 3.
    """

    images: np.ndarray
    types: np.ndarray
    boxes: np.ndarray
    scores: np.ndarray
    centers: np.ndarray
    dimensions: np.ndarray
    rotation_y: np.ndarray
    alphas: np.ndarray
    truncation: np.ndarray
    occlusion: np.ndarray

    def __len__(self) -> int:
        return len(self.images)


class PairOverlaps(NamedTuple):
    """Pairs of objects of the same image, ordered by the detection, then by the annotation.

    Attributes:
        pred: (P,) int64 row of the detection.
        gt: (P,) int64 row of the annotation.
        values: (P,) float64 intersection over union.
    """

    pred: np.ndarray
    gt: np.ndarray
    values: np.ndarray


def pair_overlaps(
    pred: KittiObjects, gt: KittiObjects, limits: Mapping[str, float]
) -> dict[str, PairOverlaps]:
    """Overlaps of detections and annotations, but not of areas to be ignored.

    Args:
        pred: N detections.
        gt: M annotations.
        limits: ``2d``, ``bev``, ``3d`` -> the overlap that the returned pairs exceed.
    """
    objects = np.flatnonzero(gt.types != DONT_CARE)
    first, second = pairs_between(pred.images, gt.images[objects])
    second = objects[second]
    flat = box_iou(pred.boxes[first], gt.boxes[second])
    near = _near(pred, gt, first, second)
    upright, other_upright = first[near], second[near]
    from_above, in_space = upright_overlaps(pred, upright, gt, other_upright)
    found = {
        "2d": PairOverlaps(first, second, flat),
        "bev": PairOverlaps(upright, other_upright, from_above),
        "3d": PairOverlaps(upright, other_upright, in_space),
    }
    return {
        metric: PairOverlaps(*(part[pairs.values > limits[metric]] for part in pairs))
        for metric, pairs in found.items()
    }


def upright_overlaps(
    pred: KittiObjects, pred_rows: np.ndarray, gt: KittiObjects, gt_rows: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Exact IoU (P,) from above and in space of P pairs of boxes that stand upright."""
    area_shared, _ = elementwise_overlap(_footprints(pred, pred_rows), _footprints(gt, gt_rows))
    shared = area_shared.numpy()
    width, height, length = pred.dimensions[pred_rows].T
    other_width, other_height, other_length = gt.dimensions[gt_rows].T
    area, other_area = width * length, other_width * other_length
    y, other_y = pred.centers[pred_rows, 1], gt.centers[gt_rows, 1]
    bottom = np.minimum(y + height / 2, other_y + other_height / 2)
    top = np.maximum(y - height / 2, other_y - other_height / 2)
    volume_shared = shared * np.maximum(bottom - top, 0)
    volumes = area * height + other_area * other_height
    return _over(shared, area + other_area - shared), _over(volume_shared, volumes - volume_shared)


def covered_share(pred: KittiObjects, gt: KittiObjects) -> np.ndarray:
    """(N,) the largest share of each detection's 2D box in one area to be ignored."""
    areas = np.flatnonzero(gt.types == DONT_CARE)
    first, second = pairs_between(pred.images, gt.images[areas])
    boxes, others = pred.boxes[first], gt.boxes[areas[second]]
    low, high = np.maximum(boxes[:, :2], others[:, :2]), np.minimum(boxes[:, 2:], others[:, 2:])
    shared = np.clip(high - low, 0, None).prod(axis=1)
    share = np.zeros(len(pred))
    np.maximum.at(share, first, _over(shared, (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)))
    return share


def _over(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.divide(part, whole, out=np.zeros(len(part)), where=whole > 0)


def _near(
    pred: KittiObjects, gt: KittiObjects, pred_rows: np.ndarray, gt_rows: np.ndarray
) -> np.ndarray:
    """(P,) bool: the circles around the footprints meet."""
    radius, other_radius = (
        np.hypot(each.dimensions[:, 0], each.dimensions[:, 2]) / 2 for each in (pred, gt)
    )
    offset = pred.centers[pred_rows] - gt.centers[gt_rows]
    return np.hypot(offset[:, 0], offset[:, 2]) <= radius[pred_rows] + other_radius[gt_rows]


def _footprints(objects: KittiObjects, rows: np.ndarray) -> OrientedBoxes:
    (x, _, z), (width, _, length) = objects.centers[rows].T, objects.dimensions[rows].T
    rectangles = np.stack([x, z, length, width, objects.rotation_y[rows]], axis=1)
    return bev_boxes(torch.from_numpy(rectangles))
