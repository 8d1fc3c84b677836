"""Objects with a 2D box and a metric 3D box, of all images of a dataset."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch

from roca_nocs.geometry.box3d_overlap import OrientedBoxes
from roca_nocs.geometry.cuboids import alpha_from_rotation_y, oriented_boxes, yaw_from_rotation


@dataclass(frozen=True)
class Boxes3D:
    """N detected or annotated objects, their 3D boxes in the camera frames of the images.

    Attributes:
        images: (N,) int64 number of the image.
        categories: (N,) int64.
        boxes: (N, 4) float64 XYXY, pixels.
        scores: (N,) float64.
        centers: (N, 3) float64, metres.
        dimensions: (N, 3) float64 width, height and length, along z, y and x of the object, metres.
        rotations: (N, 3, 3) float64, object to camera.
        rotation_y: (N,) float64 heading about the camera's y axis, radians.
        alphas: (N,) float64 heading relative to the viewing ray, radians.
    """

    images: np.ndarray
    categories: np.ndarray
    boxes: np.ndarray
    scores: np.ndarray
    centers: np.ndarray
    dimensions: np.ndarray
    rotations: np.ndarray
    rotation_y: np.ndarray
    alphas: np.ndarray

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, rows: np.ndarray) -> Boxes3D:
        """The objects of some rows, given by numbers or a mask."""
        return Boxes3D(**{f.name: getattr(self, f.name)[rows] for f in fields(self)})

    def oriented(self) -> OrientedBoxes:
        """The boxes in the form of the exact overlap."""
        parts = self.centers, self.dimensions, self.rotations
        return oriented_boxes(*(torch.from_numpy(part) for part in parts))


def headings(rotations: np.ndarray, centers: np.ndarray) -> dict[str, np.ndarray]:
    """``rotation_y`` and ``alphas`` (N,) of rotations (N, 3, 3) and centres (N, 3)."""
    rotation_y = yaw_from_rotation(torch.from_numpy(rotations))
    alphas = alpha_from_rotation_y(rotation_y, torch.from_numpy(centers))
    return {"rotation_y": rotation_y.numpy(), "alphas": alphas.numpy()}


def annotated_boxes3d(objects: Sequence[tuple[int, Mapping[str, Any]]]) -> Boxes3D:
    """Annotations with their numbers of images, as of ``collected.annotated_objects``.

    Boxes have to be XYXY. Objects without a usable 3D box are included.
    """

    def numbers(name: str, *shape: int) -> np.ndarray:
        return np.array([each[name] for _, each in objects], np.float64).reshape(-1, *shape)

    return Boxes3D(
        images=np.array([image for image, _ in objects], np.int64),
        categories=np.array([each["category_id"] for _, each in objects], np.int64),
        boxes=numbers("bbox", 4),
        scores=np.ones(len(objects)),
        centers=numbers("center", 3),
        dimensions=numbers("dimensions", 3),
        rotations=numbers("rotation", 3, 3),
        rotation_y=numbers("rotation_y"),
        alphas=numbers("alpha"),
    )
