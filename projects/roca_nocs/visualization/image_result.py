"""The objects of one image as plain arrays: the common form of detections and annotations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from pycocotools import mask as rle

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
        nocs: (N, 3, G, G) model coordinates on a grid over each box, or ``None``.
    """

    translations: np.ndarray
    rotations: np.ndarray
    scales: np.ndarray
    valid: np.ndarray
    cads: Sequence[CadKey | None]
    wild_cads: Sequence[CadKey | None]
    nocs: np.ndarray | None = None

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
class ImageResult:
    """What a model found, or what is annotated, in one image of height H and width W.

    Attributes:
        boxes: (N, 4) float64, XYXY pixels, right and bottom edges exclusive.
        classes: (N,) int64.
        scores: (N,) float64 in [0, 1]; ``None`` for annotations.
        masks: (N, H, W) bool, or ``None``.
        alignments: ``None`` for models and annotations without 3D.
        depth: (h, w) float32 metres, of any size that covers the image; 0 = none; or ``None``.
    """

    boxes: np.ndarray
    classes: np.ndarray
    scores: np.ndarray | None
    masks: np.ndarray | None
    alignments: Alignments | None
    depth: np.ndarray | None

    def __len__(self) -> int:
        return len(self.boxes)

    def labels(self, names: Sequence[str]) -> list[str]:
        """Class and score of each object as text."""
        classes = [names[label] for label in self.classes]
        if self.scores is None:
            return classes
        return [f"{name} {score:.0%}" for name, score in zip(classes, self.scores, strict=True)]


def from_output(output: Mapping[str, Any], threshold: float) -> ImageResult:
    """The detections of a model above a score.

    Args:
        output: of one image: ``instances`` and, from models with 3D, ``depth``, ``cad_ids`` and
            maybe ``wild_cad_ids``.
        threshold: smallest score to keep.

    Returns:
        Objects in the order of the model. A pose with a value that is not finite is not valid.
    """
    instances = output["instances"].to("cpu")
    rows = (instances.scores >= threshold).nonzero().flatten()
    instances = instances[rows]
    masks = instances.pred_masks.numpy() if instances.has("pred_masks") else None
    depth = output["depth"].float().cpu().numpy() if "depth" in output else None
    return ImageResult(
        boxes=instances.pred_boxes.tensor.double().numpy(),
        classes=instances.pred_classes.numpy(),
        scores=instances.scores.double().numpy(),
        masks=masks,
        alignments=_predicted_alignments(instances, output, rows.tolist()),
        depth=depth,
    )


def _predicted_alignments(
    instances: Any, output: Mapping[str, Any], rows: Sequence[int]
) -> Alignments | None:
    if not instances.has("pred_rotations"):
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
        nocs=instances.pred_nocs.float().numpy() if instances.has("pred_nocs") else None,
    )


def from_annotations(
    annotations: Sequence[Mapping[str, Any]], depth: np.ndarray | None = None
) -> ImageResult:
    """The ground truth of a dataset record.

    Args:
        annotations: with ``bbox`` (XYWH), ``category_id`` and maybe ``segmentation`` (RLE) and
            ``q``, ``t``, ``s``, ``model``.
        depth: (H, W) metres, where the record has it.
    """
    boxes = np.array([each["bbox"] for each in annotations], dtype=np.float64).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
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
    )
