"""The objects of one image as plain arrays: the common form of detections and annotations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from detectron2.structures import BoxMode
from pycocotools import mask as rle
from scipy.ndimage import distance_transform_edt

from roca_nocs.geometry.cuboids import alpha_from_rotation_y, yaw_from_rotation
from roca_nocs.geometry.failures import alignment_failures
from roca_nocs.geometry.rotation import matrix_to_quaternion, quaternion_to_matrix

CadKey = tuple[str, str]
"""(ShapeNet synset, model id)."""


@dataclass(frozen=True)
class Alignments:
    """Nine-parameter poses of N objects in the camera frame, and their CAD models.

    Attributes:
        translations: (N, 3) float64, metres.
        rotations: (N, 3, 3) float64.
        scales: (N, 3) float64, metres per model unit.
        valid: (N,) bool; elsewhere the pose means nothing.
        cads: the CAD model of each object, ``None`` where retrieval gave none.
        wild_cads: the same from the whole data base instead of the models of the scene.
    """

    translations: np.ndarray
    rotations: np.ndarray
    scales: np.ndarray
    valid: np.ndarray
    cads: Sequence[CadKey | None]
    wild_cads: Sequence[CadKey | None]

    def quaternions(self) -> np.ndarray:
        """(N, 4) as (w, x, y, z), w >= 0."""
        return matrix_to_quaternion(torch.from_numpy(self.rotations)).numpy()

    def poses(self) -> np.ndarray:
        """(N, 4, 4): model to camera."""
        poses = np.tile(np.eye(4), (len(self.rotations), 1, 1))
        poses[:, :3, :3] = self.rotations * self.scales[:, None, :]
        poses[:, :3, 3] = self.translations
        return poses

    def shown_cads(self) -> list[CadKey | None]:
        """The model to draw of each object: of its scene, else of the whole data base."""
        return [
            cad or wild if valid else None
            for cad, wild, valid in zip(self.cads, self.wild_cads, self.valid, strict=True)
        ]


@dataclass(frozen=True)
class PosedBoxes:
    """Boxes of N objects in the camera frame (x right, y down, z forward).

    Attributes:
        centers: (N, 3) float64, metres.
        rotations: (N, 3, 3) float64, box axes to camera.
        extents: (N, 3) float64, sides along the x, y and z axes of the box, metres.
        valid: (N,) bool; elsewhere the box means nothing.
        has_front: whether x is the length of the object and points to its front, y down (monocular
            3D boxes); otherwise the axes are those of a model (NOCS).
        failures: why an object has no box, ``None`` where it has one.
    """

    centers: np.ndarray
    rotations: np.ndarray
    extents: np.ndarray
    valid: np.ndarray
    has_front: bool
    failures: Sequence[str | None]

    def moved(self, offset: np.ndarray) -> PosedBoxes:
        """The boxes in the frame in which the points p are p + offset (3,)."""
        return replace(self, centers=self.centers + offset)

    def headings(self) -> tuple[np.ndarray, np.ndarray]:
        """``rotation_y`` and ``alpha`` (N,), radians, of boxes with a front."""
        rotation_y = yaw_from_rotation(torch.from_numpy(self.rotations))
        alpha = alpha_from_rotation_y(rotation_y, torch.from_numpy(self.centers))
        return rotation_y.numpy(), alpha.numpy()


@dataclass(frozen=True)
class ImageResult:
    """What a model found, or what is annotated, in one image of height H and width W.

    Attributes:
        boxes: (N, 4) float64, XYXY pixels, right and bottom edges exclusive.
        classes: (N,) int64.
        scores: (N,) float64 in [0, 1]; ``None`` for annotations.
        masks: (N, H, W) bool, or ``None``.
        alignments: poses of CAD models; ``None`` for models and annotations without them.
        depth: (h, w) float32 metres, of any size that covers the image; 0 = none; or ``None``.
        boxes3d: ``None`` for models and annotations without them.
        nocs: N grids (g, g', 3) over the 2D boxes, model coordinates in [-0.5, 0.5]; or ``None``.
    """

    boxes: np.ndarray
    classes: np.ndarray
    scores: np.ndarray | None
    masks: np.ndarray | None
    alignments: Alignments | None = None
    depth: np.ndarray | None = None
    boxes3d: PosedBoxes | None = None
    nocs: Sequence[np.ndarray] | None = None

    def __len__(self) -> int:
        return len(self.boxes)

    @property
    def in_space(self) -> bool:
        """Whether there are objects in 3D, even if none was found in this image."""
        return self.alignments is not None or self.boxes3d is not None

    def moved(self, offset: np.ndarray) -> ImageResult:
        """The same with its 3D boxes moved by an offset (3,), metres."""
        return self if self.boxes3d is None else replace(self, boxes3d=self.boxes3d.moved(offset))

    def limited_to(self, other: ImageResult) -> ImageResult:
        """The same without the kinds of 3D that another result lacks."""
        return replace(
            self,
            alignments=None if other.alignments is None else self.alignments,
            boxes3d=None if other.boxes3d is None else self.boxes3d,
        )

    def labels(self, names: Sequence[str]) -> list[str]:
        """Class and score of each object as text."""
        classes = [names[label] for label in self.classes]
        if self.scores is None:
            return classes
        return [f"{name} {score:.0%}" for name, score in zip(classes, self.scores, strict=True)]


def from_output(
    output: Mapping[str, Any], threshold: float, depth: np.ndarray | None = None
) -> ImageResult:
    """The detections of a model above a score.

    Args:
        output: of one image: ``instances`` of any model of this package and, from ROCA, ``depth``,
            ``cad_ids`` and maybe ``wild_cad_ids``.
        threshold: smallest score to keep.
        depth: (H, W) metres, what the model was given, shown where it predicts none itself.

    Returns:
        Objects in the order of the model. A pose with a value that is not finite is not valid.
    """
    instances = output["instances"].to("cpu")
    rows = (instances.scores >= threshold).nonzero().flatten()
    instances = instances[rows]
    masks = instances.pred_masks.numpy() if instances.has("pred_masks") else None
    if "depth" in output:
        depth = output["depth"].float().cpu().numpy()
    return ImageResult(
        boxes=instances.pred_boxes.tensor.double().numpy(),
        classes=instances.pred_classes.numpy(),
        scores=instances.scores.double().numpy(),
        masks=masks,
        alignments=_predicted_alignments(instances, output, rows.tolist()),
        depth=depth,
        boxes3d=_predicted_boxes(instances),
        nocs=_predicted_nocs(instances),
    )


def _predicted_alignments(
    instances: Any, output: Mapping[str, Any], rows: Sequence[int]
) -> Alignments | None:
    if not instances.has("has_alignment"):
        return None
    translations, quaternions, scales = (
        getattr(instances, f"pred_{name}").double()
        for name in ("translations", "rotations", "scales")
    )
    finite = torch.cat([translations, quaternions, scales], dim=1).isfinite().all(dim=1)
    valid = instances.has_alignment & finite
    # A placeholder that can be normalised; invalid poses are shown nowhere.
    identity = quaternions.new_tensor([1.0, 0.0, 0.0, 0.0])
    rotations = quaternion_to_matrix(torch.where(valid[:, None], quaternions, identity))
    nowhere = [None] * len(output["instances"])
    cads, wild_cads = (output.get(name, nowhere) for name in ("cad_ids", "wild_cad_ids"))
    return Alignments(
        translations=translations.numpy(),
        rotations=rotations.numpy(),
        scales=scales.numpy(),
        valid=valid.numpy(),
        cads=[cads[row] for row in rows],
        wild_cads=[wild_cads[row] for row in rows],
    )


def _predicted_boxes(instances: Any) -> PosedBoxes | None:
    """Boxes of a monocular 3D model, or those that NOCS has fitted."""
    has_front = instances.has("pred_center_cam")
    failures: list[str | None] = [None] * len(instances)
    if has_front:
        centers, rotations = instances.pred_center_cam, instances.pred_R
        extents = instances.pred_dimensions.flip(-1)  # width, height, length
    elif instances.has("pose_valid"):
        centers, rotations = instances.pred_translations, instances.pred_rotations
        extents = instances.pred_scales
        for failure in alignment_failures(instances.pose_reasons):
            failures[failure.index] = failure.reason.name
    else:
        return None
    numbers = torch.cat([centers, rotations.flatten(1), extents], dim=1)
    valid = numbers.isfinite().all(dim=1) & (extents > 0).all(dim=1)
    posed = np.array([failure is None for failure in failures], dtype=bool)
    parts = (part.double().numpy() for part in (centers, rotations, extents))
    return PosedBoxes(*parts, valid.numpy() & posed, has_front, failures)


def _predicted_nocs(instances: Any) -> list[np.ndarray] | None:
    if not instances.has("pred_nocs"):
        return None
    grids = instances.pred_nocs.float().permute(0, 2, 3, 1).numpy()
    # NOCS predicts in the unit cube, ROCA about its centre.
    return list(grids - 0.5 if instances.has("pose_valid") else grids)


def from_annotations(
    annotations: Sequence[Mapping[str, Any]],
    depth: np.ndarray | None = None,
    nocs: np.ndarray | None = None,
) -> ImageResult:
    """The ground truth of a dataset record.

    Args:
        annotations: with ``bbox`` (XYWH unless ``bbox_mode`` says otherwise), ``category_id`` and
            maybe ``segmentation`` (RLE); ``q``, ``t``, ``s`` with ``model``, or with ``extents``;
            or the fields of monocular 3D boxes.
        depth: (H, W) metres, where the record has it.
        nocs: (H, W, 3) model coordinates, where the record has them.
    """
    boxes = np.array(
        [
            BoxMode.convert(each["bbox"], each.get("bbox_mode", BoxMode.XYWH_ABS), BoxMode.XYXY_ABS)
            for each in annotations
        ],
        dtype=np.float64,
    ).reshape(-1, 4)
    segmentations = [each.get("segmentation") for each in annotations]
    masks = None
    if segmentations and all(isinstance(each, dict) for each in segmentations):
        masks = np.stack([rle.decode(each).astype(bool) for each in segmentations])
    alignments = None
    if annotations and all("q" in each for each in annotations):
        quaternions, translations, scales = (
            np.array([each[key] for each in annotations], dtype=np.float64) for key in "qts"
        )
        alignments = Alignments(
            translations=translations,
            rotations=quaternion_to_matrix(torch.from_numpy(quaternions)).numpy(),
            scales=scales,
            valid=np.ones(len(annotations), dtype=bool),
            cads=[(each["model"]["catid_cad"], each["model"]["id_cad"]) for each in annotations],
            wild_cads=[None] * len(annotations),
        )
    return ImageResult(
        boxes=boxes,
        classes=np.array([each["category_id"] for each in annotations], dtype=np.int64),
        scores=None,
        masks=masks,
        alignments=alignments,
        depth=depth,
        boxes3d=_annotated_boxes(annotations, alignments),
        nocs=None if nocs is None or masks is None else _cut_out(nocs, boxes, masks),
    )


def _annotated_boxes(
    annotations: Sequence[Mapping[str, Any]], alignments: Alignments | None
) -> PosedBoxes | None:
    """Monocular 3D boxes, or those around posed models of known extents."""

    def numbers(name: str) -> np.ndarray:
        return np.array([each[name] for each in annotations], dtype=np.float64)

    nothing: list[str | None] = [None] * len(annotations)
    if annotations and all("center" in each for each in annotations):
        extents = numbers("dimensions")[:, ::-1].copy()
        valid = np.array([each["has3d"] for each in annotations], dtype=bool)
        return PosedBoxes(numbers("center"), numbers("rotation"), extents, valid, True, nothing)
    if alignments is None or not all("extents" in each for each in annotations):
        return None
    extents = alignments.scales * numbers("extents")
    return PosedBoxes(
        alignments.translations, alignments.rotations, extents, alignments.valid, False, nothing
    )


def _cut_out(nocs: np.ndarray, boxes: np.ndarray, masks: np.ndarray) -> list[np.ndarray]:
    """The map (H, W, 3) inside each box, beyond the mask as at its nearest pixel."""
    grids = []
    for (x0, y0, x1, y1), mask in zip(np.round(boxes).astype(int).tolist(), masks, strict=True):
        grid, inside = nocs[y0:y1, x0:x1], mask[y0:y1, x0:x1]
        if inside.any():
            nearest = distance_transform_edt(~inside, return_distances=False, return_indices=True)
            grid = grid[tuple(nearest)]
        grids.append(grid)
    return grids
