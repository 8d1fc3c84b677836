"""The class-mean box at the class-mean depth, to which monocular 3D boxes have to be compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from roca_nocs.geometry.procrustes import project_to_rotation
from roca_nocs.geometry.projection import back_project_points

from .boxes3d import Boxes3D, annotated_boxes3d, headings
from .collected import annotated_objects

_ROUNDS = 5


@dataclass(frozen=True)
class ClassBoxes:
    """Typical boxes of C classes in the camera frame.

    Attributes:
        dimensions: (C, 3) float64 mean width, height, length, metres.
        depths: (C,) float64 mean Z, metres.
        rotations: (C, 3, 3) float64, see `axial_mean`.
    """

    dimensions: np.ndarray
    depths: np.ndarray
    rotations: np.ndarray


def class_boxes(records: Sequence[Mapping[str, Any]], num_classes: int) -> ClassBoxes:
    """Means over the usable 3D boxes of a dataset; a class without any gets those of all objects.

    Args:
        records: usually of the training data.
        num_classes: C.

    Raises:
        ValueError: there is no 3D box at all.
    """
    boxes = annotated_boxes3d([each for each in annotated_objects(records) if each[1]["has3d"]])
    if not len(boxes):
        raise ValueError("the mean boxes of the classes need a dataset with 3D boxes")
    dimensions, depths, rotations = [], [], []
    for category in range(num_classes):
        rows = boxes.categories == category
        chosen = boxes[rows] if rows.any() else boxes
        dimensions.append(chosen.dimensions.mean(axis=0))
        depths.append(chosen.centers[:, 2].mean())
        rotations.append(axial_mean(torch.from_numpy(chosen.rotations)).numpy())
    return ClassBoxes(np.array(dimensions), np.array(depths), np.array(rotations))


def axial_mean(rotations: torch.Tensor) -> torch.Tensor:
    """Mean of rotations up to half turns about the object's y axis, facing as most of them do.

    Cars on a road point both ways along it: the plain mean of their headings would lie across.

    Args:
        rotations: (N, 3, 3), at least one.

    Returns:
        (3, 3), a chordal mean.
    """
    half_turn = torch.diag(rotations.new_tensor([-1.0, 1.0, -1.0]))
    turned = rotations @ half_turn
    mean = rotations[0]
    for _ in range(_ROUNDS):
        opposite = ((turned - rotations) * mean).sum(dim=(1, 2)) > 0
        aligned = torch.where(opposite[:, None, None], turned, rotations)
        mean = project_to_rotation(aligned.mean(dim=0, keepdim=True))[0]
    return mean @ half_turn if 2 * int(opposite.sum()) > len(rotations) else mean


def mean_box(detections: Boxes3D, means: ClassBoxes, projections: np.ndarray) -> Boxes3D:
    """Each object is the mean box of its class, in the direction of the centre of its 2D box.

    Args:
        detections: N objects, whose images, classes, scores and 2D boxes are kept.
        means: of the classes.
        projections: (N, 3, 4) of the image of each object.
    """
    categories = detections.categories
    pixels = (detections.boxes[:, :2] + detections.boxes[:, 2:]) / 2
    projective_depths = means.depths[categories] + projections[:, 2, 3]
    centers = back_project_points(
        torch.from_numpy(pixels)[:, None],
        torch.from_numpy(projective_depths)[:, None],
        torch.from_numpy(projections),
    )[:, 0].numpy()
    rotations = means.rotations[categories]
    return replace(
        detections,
        centers=centers,
        dimensions=means.dimensions[categories],
        rotations=rotations,
        **headings(rotations, centers),
    )
