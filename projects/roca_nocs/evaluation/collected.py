"""What evaluators keep of model outputs, collected over the processes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pycocotools.mask as mask_util
import torch
from detectron2.evaluation import DatasetEvaluator
from detectron2.structures import BoxMode, Instances
from detectron2.utils import comm

from roca_nocs.data.cad_catalog import CadKey
from roca_nocs.data.images import describe
from roca_nocs.geometry.rotation import quaternion_to_matrix

from .frame_metrics import FrameObjects

ImageResult = dict[str, Any]


class CollectingEvaluator(DatasetEvaluator):
    """Keeps one result per image and brings those of all processes together on the first."""

    def __init__(self) -> None:
        self._results: dict[Any, ImageResult] = {}

    def reset(self) -> None:
        """Forget all results."""
        self._results = {}

    def gather(self) -> dict[Any, ImageResult] | None:
        """Results of all processes by image id, ascending; ``None`` on all but the first."""
        comm.synchronize()
        parts = comm.gather(self._results, dst=0)
        if not comm.is_main_process():
            return None
        joined = {image_id: each for part in parts for image_id, each in part.items()}
        return dict(sorted(joined.items()))


@dataclass(frozen=True)
class Detections:
    """N detected objects of all images with their poses in the camera frames.

    Attributes:
        images: (N,) int64 number of the image.
        categories: (N,) int64.
        boxes: (N, 4) float64 XYXY, pixels.
        scores: (N,) float64.
        translations: (N, 3) float64, metres.
        rotations: (N, 3, 3) float64.
        scales: (N, 3) float64, metres per model unit.
        cads: (N,) int64 row in the table of CAD models, -1 = none.
        has_alignment: (N,) bool, whether pose and model are valid.
    """

    images: np.ndarray
    categories: np.ndarray
    boxes: np.ndarray
    scores: np.ndarray
    translations: np.ndarray
    rotations: np.ndarray
    scales: np.ndarray
    cads: np.ndarray
    has_alignment: np.ndarray

    def __len__(self) -> int:
        return len(self.images)

    def frame_objects(self) -> FrameObjects:
        """The two-dimensional part."""
        return FrameObjects(self.images, self.categories, self.boxes, self.scores)


POSE_FIELDS = ("pred_translations", "pred_rotations", "pred_scales", "has_alignment")


def boxes_of(instances: Instances) -> ImageResult:
    """``categories``, ``boxes``, ``scores`` of the detections of an image, as arrays."""
    return {
        "categories": instances.pred_classes.cpu().numpy().astype(np.int64),
        "boxes": instances.pred_boxes.tensor.detach().cpu().numpy().astype(np.float64),
        "scores": instances.scores.detach().cpu().numpy().astype(np.float64),
    }


def poses_of(image: Mapping[str, Any], output: Mapping[str, Any]) -> ImageResult:
    """``translations``, ``quaternions``, ``scales``, ``has_alignment``, ``cads`` of an image.

    Args:
        image: the model's input, for messages.
        output: the model's output with ``instances`` and ``cad_ids``.

    Raises:
        ValueError: a field is missing, or there is not one CAD model (or ``None``) per instance.
    """
    instances = output["instances"]
    missing = [name for name in POSE_FIELDS if not instances.has(name)]
    if missing or "cad_ids" not in output:
        raise ValueError(
            f"{describe(image)}: the model's output has no {', '.join(missing) or 'cad_ids'}; "
            "alignments need a model with an alignment head"
        )
    cads = [None if key is None else (str(key[0]), str(key[1])) for key in output["cad_ids"]]
    if len(cads) != len(instances):
        raise ValueError(
            f"{describe(image)}: {len(cads)} cad_ids for {len(instances)} instances; expected one "
            "per instance of the image"
        )
    translations, quaternions, scales, has_alignment = (
        instances.get(name).detach().cpu().numpy() for name in POSE_FIELDS
    )
    return {
        "translations": translations.astype(np.float64),
        "quaternions": quaternions.astype(np.float64),
        "scales": scales.astype(np.float64),
        "has_alignment": has_alignment.astype(bool),
        "cads": cads,
    }


def encode_masks(masks: torch.Tensor) -> list[dict[str, Any]]:
    """Run-length encoding of masks (N, H, W) bool."""
    pixels = masks.detach().cpu().permute(1, 2, 0).numpy()
    return mask_util.encode(np.asfortranarray(pixels, dtype=np.uint8))


def join_boxes(results: Sequence[ImageResult]) -> dict[str, np.ndarray]:
    """Arrays of `boxes_of` of all images joined, and ``images``, their numbers."""
    counts = [len(result["scores"]) for result in results]
    return {
        "images": np.repeat(np.arange(len(results)), counts),
        "categories": joined(results, "categories", ()).astype(np.int64),
        "boxes": joined(results, "boxes", (4,)),
        "scores": joined(results, "scores", ()),
    }


def join_detections(results: Sequence[ImageResult], cad_rows: Mapping[CadKey, int]) -> Detections:
    """Join the results of all images.

    Args:
        results: per image what `boxes_of` and `poses_of` returned.
        cad_rows: table of all CAD models.

    Raises:
        KeyError: a predicted CAD model is not in the table.
    """
    keys = [key for result in results for key in result["cads"]]
    unknown = sorted({key for key in keys if key is not None and key not in cad_rows})
    if unknown:
        raise KeyError(
            f"{len(unknown)} predicted CAD models are not in the catalogues of the evaluated "
            f"datasets, e.g. {'/'.join(unknown[0])}; name the dataset that has them as "
            "train_dataset_name"
        )
    quaternions = torch.from_numpy(joined(results, "quaternions", (4,)))
    return Detections(
        **join_boxes(results),
        translations=joined(results, "translations", (3,)),
        rotations=quaternion_to_matrix(quaternions).numpy(),
        scales=joined(results, "scales", (3,)),
        cads=np.array([-1 if key is None else cad_rows[key] for key in keys], np.int64),
        has_alignment=joined(results, "has_alignment", ()).astype(bool),
    )


def annotated_boxes(records: Sequence[Mapping[str, Any]]) -> dict[str, np.ndarray]:
    """``images``, ``categories``, ``boxes``, ``scores`` (ones) of the objects of records."""
    objects = annotated_objects(records)
    boxes = [
        BoxMode.convert(each["bbox"], each["bbox_mode"], BoxMode.XYXY_ABS) for _, each in objects
    ]
    return {
        "images": np.array([image for image, _ in objects], np.int64),
        "categories": np.array([each["category_id"] for _, each in objects], np.int64),
        "boxes": np.array(boxes, np.float64).reshape(-1, 4),
        "scores": np.ones(len(objects)),
    }


def annotated_objects(
    records: Sequence[Mapping[str, Any]],
) -> list[tuple[int, Mapping[str, Any]]]:
    """(number of the record, annotation) of all annotations that are no crowds."""
    return [
        (image, annotation)
        for image, record in enumerate(records)
        for annotation in record["annotations"]
        if not annotation.get("iscrowd", 0)
    ]


def joined(results: Sequence[ImageResult], name: str, shape: tuple[int, ...]) -> np.ndarray:
    """An array of all images joined; `shape` is that of one object."""
    return np.concatenate([np.zeros((0, *shape)), *(result[name] for result in results)])
