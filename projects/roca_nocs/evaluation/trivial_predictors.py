"""Predictions that need no image, to which a model's have to be compared.

Each replaces a part of what a model predicts for an object and keeps its detection: class, score,
box, and the rest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from roca_nocs.geometry.procrustes import project_to_rotation
from roca_nocs.geometry.rotation import quaternion_to_matrix

from .alignment import PlacedModels
from .collected import Detections, annotated_objects


@dataclass(frozen=True)
class ClassMeans:
    """Typical poses of C classes in the camera frame.

    Attributes:
        rotations: (C, 3, 3) float64, chordal means.
        scales: (C, 3) float64, metres per model unit.
        depths: (C,) float64, metres along the optical axis.
    """

    rotations: np.ndarray
    scales: np.ndarray
    depths: np.ndarray


def class_means(records: Sequence[Mapping[str, Any]], num_classes: int) -> ClassMeans:
    """Means over the annotations of a dataset; a class without any gets those of all objects.

    Args:
        records: with poses, usually of the training data.
        num_classes: C.

    Raises:
        ValueError: there is no annotation at all.
    """
    annotations = [annotation for _, annotation in annotated_objects(records)]
    if not annotations:
        raise ValueError("the mean poses of the classes need a dataset with annotations")
    categories = np.array([each["category_id"] for each in annotations])
    quaternions = torch.tensor([each["q"] for each in annotations], dtype=torch.float64)
    values = np.concatenate(
        [
            quaternion_to_matrix(quaternions).reshape(-1, 9).numpy(),
            np.array([each["s"] for each in annotations], np.float64),
            np.array([each["t"][2] for each in annotations], np.float64)[:, None],
        ],
        axis=1,
    )
    counts = np.bincount(categories, minlength=num_classes)[:, None]
    sums = np.zeros((num_classes, values.shape[1]))
    np.add.at(sums, categories, values)
    means = np.where(counts > 0, sums / np.maximum(counts, 1), values.mean(axis=0))
    rotations = project_to_rotation(torch.from_numpy(means[:, :9].reshape(-1, 3, 3)))
    return ClassMeans(rotations.numpy(), means[:, 9:12], means[:, 12])


def identity_rotation(detections: Detections) -> Detections:
    """All objects have the axes of the camera."""
    return replace(detections, rotations=np.broadcast_to(np.eye(3), (len(detections), 3, 3)).copy())


def mean_pose(detections: Detections, means: ClassMeans, intrinsics: np.ndarray) -> Detections:
    """Each object has the mean pose of its class, in the direction of the centre of its box.

    Args:
        detections: N objects.
        means: of the classes.
        intrinsics: (N, 3, 3) of the image of each object.
    """
    # Pixel centres are at integers, the right and bottom edges of a box are exclusive.
    centres = (detections.boxes[:, :2] + detections.boxes[:, 2:] - 1) / 2
    pixels = np.concatenate([centres, np.ones((len(centres), 1))], axis=1)
    rays = np.linalg.solve(intrinsics, pixels[..., None])[..., 0]
    categories = detections.categories
    return replace(
        detections,
        translations=rays * means.depths[categories, None],
        rotations=means.rotations[categories],
        scales=means.scales[categories],
    )


def random_cad(
    detections: Detections, scenes: np.ndarray, candidates: PlacedModels, seed: int = 0
) -> Detections:
    """A random model among those of the class in the scene; without one there is no alignment.

    Args:
        detections: N objects.
        scenes: (N,) int64 scene of each object.
        candidates: annotated models of the scenes; a model counts once per scene.
        seed: of the draw.
    """
    pool = np.stack([candidates.scenes, candidates.categories, candidates.cads], axis=1)
    pool = np.unique(pool, axis=0)
    stride = 1 + max(pool[:, 1].max(initial=0), detections.categories.max(initial=0))
    keys = pool[:, 0] * stride + pool[:, 1]
    wanted = scenes * stride + detections.categories
    first, last = np.searchsorted(keys, wanted), np.searchsorted(keys, wanted, side="right")
    draws = np.random.default_rng(seed).random(len(detections))
    chosen = first + np.floor(draws * (last - first)).astype(np.int64)
    found = last > first
    cads = np.full(len(detections), -1, dtype=np.int64)
    cads[found] = pool[chosen[found], 2]
    return replace(detections, cads=cads, has_alignment=found)
