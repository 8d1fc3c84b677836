"""Errors of category-level poses and overlaps of their boxes, for pairs of objects.

Source: the evaluation of NOCS (Wang et al., CVPR 2019). Symmetric classes look the same after a
rotation about the model's y axis; a mug does where the annotation says that its handle is hidden.
Departure: cosines are clipped, so that equal rotations have the error 0 instead of NaN. Symmetries
of other orders and about other axes, which the source does not have, count in the same way: an
error is the smallest, an overlap the largest over the rotations.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from roca_nocs.geometry.box3d import NUM_TURNS, elementwise_iou
from roca_nocs.geometry.symmetry import (
    RotationalSymmetry,
    axis_direction,
    check_symmetries,
    read_symmetry,
)

NO_SYMMETRY, HALF_TURN, ROUND = 0, 1, 2
"""Kinds of symmetry about y: none, by 180 degrees, by any angle."""

PUBLISHED_SYMMETRIES = tuple(RotationalSymmetry("y", order) for order in (1, 2, math.inf))
"""Of these kinds; a rule may have further ones behind them."""

ROUND_CLASSES = ("bottle", "bowl", "can")
HALF_TURN_CLASSES = ("phone", "eggbox", "glue")
HANDLE_CLASS = "mug"
"""Round where its handle is hidden."""


@dataclass(frozen=True)
class PosedObjects:
    """N predicted or annotated objects of all images with their boxes in the camera frames.

    Attributes:
        images: (N,) int64 number of the image.
        categories: (N,) int64.
        scores: (N,) float64; not used for annotations.
        rotations: (N, 3, 3) float64, model to camera.
        translations: (N, 3) float64, metres, the centre of the box.
        sizes: (N, 3) float64, metres along the model's axes.
        posed: (N,) bool; the other rows have no pose and match nothing.
        handle_visible: (N,) bool; used for annotations only.
    """

    images: np.ndarray
    categories: np.ndarray
    scores: np.ndarray
    rotations: np.ndarray
    translations: np.ndarray
    sizes: np.ndarray
    posed: np.ndarray
    handle_visible: np.ndarray

    def __len__(self) -> int:
        return len(self.images)


@dataclass(frozen=True)
class SymmetryRule:
    """Which of C classes are symmetric, and how.

    Attributes:
        kinds: (C,) int64, positions in ``symmetries``.
        has_handle: (C,) bool: round where the handle is hidden.
        symmetries: ``PUBLISHED_SYMMETRIES`` and further ones.
    """

    kinds: np.ndarray
    has_handle: np.ndarray
    symmetries: tuple[RotationalSymmetry, ...] = PUBLISHED_SYMMETRIES

    @classmethod
    def of_classes(
        cls,
        names: Sequence[str],
        round_classes: Sequence[str] = ROUND_CLASSES,
        handle_class: str = HANDLE_CLASS,
    ) -> SymmetryRule:
        """The published rule for classes with these names, in the order of their ids."""
        kinds = np.select(
            [np.isin(names, round_classes), np.isin(names, HALF_TURN_CLASSES)],
            [ROUND, HALF_TURN],
            NO_SYMMETRY,
        )
        return cls(kinds, np.isin(names, handle_class))

    @classmethod
    def of_symmetries(
        cls,
        names: Sequence[str],
        symmetries: Mapping[str, Mapping[str, Any]],
        handle_class: str = HANDLE_CLASS,
    ) -> SymmetryRule:
        """The rule of a dataset that tells its symmetries.

        Args:
            names: of the classes, in the order of their ids.
            symmetries: by class, see ``geometry.symmetry.class_rotations``.
            handle_class: round about y where its handle is hidden.

        Raises:
            ValueError: symmetries of an unknown class, or with a wrong value.
        """
        check_symmetries(names, symmetries)
        known = list(PUBLISHED_SYMMETRIES)
        kinds = np.full(len(names), NO_SYMMETRY)
        for row, name in enumerate(names):
            if name in symmetries:
                symmetry = read_symmetry(name, symmetries[name])
                if symmetry not in known:
                    known.append(symmetry)
                kinds[row] = known.index(symmetry)
        return cls(kinds, np.isin(names, handle_class), tuple(known))

    def of_objects(self, categories: np.ndarray, handle_visible: np.ndarray) -> np.ndarray:
        """(N,) int64 kinds of annotated objects, given (N,) categories and (N,) bool."""
        hidden = self.has_handle[categories] & ~np.asarray(handle_visible, bool)
        return np.where(hidden, ROUND, self.kinds[categories])


def pose_errors(
    pred: PosedObjects,
    gt: PosedObjects,
    kinds: np.ndarray,
    symmetries: Sequence[RotationalSymmetry] = PUBLISHED_SYMMETRIES,
) -> tuple[np.ndarray, np.ndarray]:
    """Errors of P predictions against one annotation each.

    Args:
        pred: P predictions, all posed.
        gt: the P annotations that they are compared with.
        kinds: (P,) int64 symmetry of the annotations.
        symmetries: of the kinds.

    Returns:
        Degrees (P,): the angle between the rotations, the smallest over the symmetry's rotations;
        for a continuous symmetry between the axes. Centimetres (P,).
    """
    # For R = pred gt^T the trace is the sum of all products; half a turn negates columns x and z.
    products = (pred.rotations * gt.rotations).sum(axis=1)
    x, y, z = products.T
    cosines = np.stack([(x + y + z - 1) / 2, (y - x - z - 1) / 2])
    cosine = np.where(kinds == HALF_TURN, cosines.max(axis=0), cosines[0])
    cosine = np.where(kinds == ROUND, y, cosine)
    for kind in range(len(PUBLISHED_SYMMETRIES), len(symmetries)):
        rows = np.flatnonzero(kinds == kind)
        cosine[rows] = _cosines(pred.rotations[rows], gt.rotations[rows], symmetries[kind])
    degrees = np.degrees(np.arccos(np.clip(cosine, -1, 1)))
    return degrees, 100 * np.linalg.norm(pred.translations - gt.translations, axis=1)


def _cosines(pred: np.ndarray, gt: np.ndarray, symmetry: RotationalSymmetry) -> np.ndarray:
    """(N,) of the angles between rotations (N, 3, 3), up to a symmetry."""
    if symmetry.continuous:
        axis = axis_direction(symmetry.axis).numpy()
        return ((pred @ axis) * (gt @ axis)).sum(axis=1)
    turned = pred[:, None] @ symmetry.rotations(1).numpy()
    return ((turned * gt[:, None]).sum(axis=(2, 3)).max(axis=1) - 1) / 2


def box_overlaps(
    pred: PosedObjects,
    gt: PosedObjects,
    kinds: np.ndarray,
    mode: str,
    symmetries: Sequence[RotationalSymmetry] = PUBLISHED_SYMMETRIES,
) -> np.ndarray:
    """Intersection over union of P pairs of boxes.

    Args:
        pred: P predictions, all posed.
        gt: the P annotations that they are compared with.
        kinds: (P,) int64 symmetry; the result is the maximum over the rotations of the prediction,
            20 for a continuous symmetry. As published, ``HALF_TURN`` has none: it leaves the box as
            it is.
        mode: of ``IOU_MODES``.
        symmetries: of the kinds.

    Returns:
        (P,) float64; ``"nocs"``, the published code, can give NaN.
    """
    boxes = [torch.from_numpy(array) for each in (pred, gt) for array in _box(each)]
    symmetric = torch.from_numpy(kinds == ROUND)
    overlaps = elementwise_iou(*boxes, mode=mode, symmetric=symmetric)
    for kind in range(len(PUBLISHED_SYMMETRIES), len(symmetries)):
        rows = torch.from_numpy(np.flatnonzero(kinds == kind))
        if len(rows):
            overlaps[rows] = elementwise_iou(
                *(part[rows] for part in boxes),
                mode=mode,
                symmetric=torch.ones(len(rows), dtype=torch.bool),
                turns=symmetries[kind].rotations(NUM_TURNS),
            )
    return overlaps.numpy()


def _box(objects: PosedObjects) -> tuple[np.ndarray, np.ndarray]:
    """Extents (N, 3) and rigid poses (N, 4, 4)."""
    poses = np.zeros((len(objects), 4, 4))
    poses[:, :3, :3] = objects.rotations
    poses[:, :3, 3] = objects.translations
    poses[:, 3, 3] = 1
    return objects.sizes, poses


def coordinate_distances(
    pred: torch.Tensor,
    gt: torch.Tensor,
    common: torch.Tensor,
    kinds: torch.Tensor,
    symmetries: Sequence[RotationalSymmetry] = PUBLISHED_SYMMETRIES,
) -> torch.Tensor:
    """Mean distance between NOCS maps, the smallest over the symmetry's rotations.

    Args:
        pred: (N, 3, H, W), coordinates in [0, 1].
        gt: (N, 3, H, W).
        common: (N, H, W) bool, the pixels in both masks.
        kinds: (N,) int64; 20 rotations stand for a continuous symmetry.
        symmetries: of the kinds.

    Returns:
        (N,) in units of the model's diagonal; NaN without a common pixel.
    """
    pixels = common.sum(dim=(1, 2))
    result = pred.new_full((len(pred),), float("nan"))
    for kind, symmetry in enumerate(symmetries):
        rows = ((kinds == kind) & (pixels > 0)).nonzero().flatten()
        turns = symmetry.rotations(NUM_TURNS).to(pred)
        turned = torch.einsum("kij,njhw->nkihw", turns, pred[rows] - 0.5)
        distances = (turned - (gt[rows] - 0.5)[:, None]).norm(dim=2)
        sums = (distances * common[rows, None]).sum(dim=(2, 3))
        result[rows] = sums.amin(dim=1) / pixels[rows]
    return result
