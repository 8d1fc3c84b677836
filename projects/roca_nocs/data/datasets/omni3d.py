"""Reader of Omni3D's annotation files, which bring KITTI, nuScenes, SUN RGB-D, Hypersim,
ARKitScenes and Objectron into one format.

A file ``<Name>_<split>.json`` is COCO-like. Images have ``K`` (3x3) and a ``file_path`` below a
common root. Annotations have ``bbox2D_tight``, ``bbox2D_proj``, ``bbox2D_trunc`` (XYXY, -1 where
missing), ``center_cam``, ``dimensions`` (W, H, L), ``R_cam`` (object to camera), ``valid3D``,
``behind_camera``, ``truncation``, ``visibility``, ``segmentation_pts``, ``lidar_pts`` and
``depth_error`` (-1 where unknown). Ids of categories are those of all datasets together.
"""

from __future__ import annotations

import logging
import os
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.data import MetadataCatalog

from ..coco_json import DatasetError, check_files, get_field, get_numbers, read_json
from .box3d_records import box3d_annotation

logger = logging.getLogger(__name__)

ALL_CLASSES = (
    *("pedestrian", "car", "cyclist", "van", "truck", "traffic cone", "barrier", "motorcycle"),
    *("bicycle", "bus", "trailer", "books", "bottle", "camera", "cereal box", "chair", "cup"),
    *("laptop", "shoes", "towel", "blinds", "window", "lamp", "shelves", "mirror", "sink"),
    *("cabinet", "bathtub", "door", "toilet", "desk", "box", "bookcase", "picture", "table"),
    *("counter", "bed", "night stand", "pillow", "sofa", "television", "floor mat", "curtain"),
    *("clothes", "stationery", "refrigerator", "bin", "stove", "oven", "machine"),
)
"""By ascending id in the files: the order of the outputs of the published Cube R-CNN models."""

OUTDOOR = ALL_CLASSES[: ALL_CLASSES.index("books")]
INDOOR = tuple(
    name
    for name in ALL_CLASSES
    if name == "bicycle" or name not in {*OUTDOOR, "camera", "cereal box"}
)

DATASETS = {
    "SUNRGBD": INDOOR,
    "Hypersim": INDOOR,
    "ARKitScenes": INDOOR,
    "Objectron": ALL_CLASSES,
    "KITTI": OUTDOOR,
    "nuScenes": OUTDOOR,
}
"""Name of each dataset in its files -> the classes that are detected in such images."""

NOT_EXHAUSTIVE = ("SUNRGBD", "Objectron")
"""Datasets that leave objects without an annotation: see ``evaluation.omni3d_ap``."""

IGNORED_NAMES = ("dontcare", "ignore", "void")
"""Categories that are neither objects nor background."""

_BOXES = ("bbox2D_trunc", "bbox2D_proj", "bbox2D_tight")  # by preference
_MAX_HEIGHT = 1.5
_MAX_DEPTH_ERROR = 0.5


@dataclass(frozen=True)
class Limits:
    """Which objects are too hard to count.

    Attributes:
        truncation: share outside the image from which on.
        visibility: visible share up to which.
        height: of the 2D box over that of the image, up to which.
    """

    truncation: float
    visibility: float
    height: float


TRAIN_LIMITS = Limits(truncation=0.75, visibility=0.25, height=0.05)
TEST_LIMITS = Limits(truncation=1 / 3, visibility=1 / 3, height=0.0625)


def load_omni3d(
    json_file: str | os.PathLike[str],
    image_root: str | os.PathLike[str],
    *,
    is_train: bool,
    classes: Sequence[str] | None = None,
    dataset_name: str | None = None,
    truncated_boxes: bool = True,
) -> list[dict[str, Any]]:
    """Read a file into detectron2 records.

    In training, objects too hard by ``TRAIN_LIMITS`` become ignored boxes, and objects without a
    usable 3D box keep their 2D part (``has3d`` False). In evaluation both are ignored objects.

    Args:
        json_file: the annotations.
        image_root: folder that ``file_path`` is relative to.
        is_train: which of the two rules.
        classes: names in the order of their contiguous ids; other categories are left out. By
            default those of the file but the ignored ones, by ascending id.
        dataset_name: registered name whose metadata gets ``thing_dataset_id_to_contiguous_id``: the
            id in the file of each class that the file has.
        truncated_boxes: take ``bbox2D_trunc`` first, the projected box within the image; otherwise
            ``bbox2D_proj``, which may reach beyond it.

    Returns:
        One dictionary per image: ``layout`` "omni3d", ``file_name``, ``height``, ``width``,
        ``image_id``, ``dataset_id``, ``scene_id`` (the image's folder), ``intrinsics`` (3, 3) and
        ``projection`` (3, 4) float64; ``annotations`` of
        :func:`~roca_nocs.data.datasets.box3d_records.box3d_annotation`; ``ignore_boxes``, XYXY;
        ``ignored``, the objects of the classes that do not count, as annotations;
        ``known_classes``, ids of the classes that the file annotates: others are unknown there,
        not background.

    Raises:
        DatasetError: names the file, the record and the field, or the image file.
    """
    path = Path(json_file)
    data = read_json(path)
    if not isinstance(data, dict):
        raise DatasetError(f"{path}: the file holds a {type(data).__name__}, expected an object.")
    categories = {
        int(get_field(record, "id", f"{path}: categories")): get_field(
            record, "name", f"{path}: categories"
        )
        for record in get_field(data, "categories", str(path))
    }
    if classes is None:
        names = [categories[identifier] for identifier in sorted(categories)]
        classes = [name for name in names if name not in IGNORED_NAMES]
    contiguous = {
        identifier: classes.index(name)
        for identifier, name in categories.items()
        if name in classes
    }
    ignored = {i for i, name in categories.items() if name in IGNORED_NAMES}
    known = sorted(contiguous.values())
    if dataset_name is not None:
        MetadataCatalog.get(dataset_name).thing_dataset_id_to_contiguous_id = contiguous
    records: dict[int, dict[str, Any]] = {}
    for image in get_field(data, "images", str(path)):
        record = _image_record(image, Path(image_root), path)
        if record["image_id"] in records:
            raise DatasetError(f"{path}: the image id {record['image_id']} occurs twice.")
        record["known_classes"] = known
        records[record["image_id"]] = record
    of_image = _annotations_by_image(data, records, categories, path)
    counts: Counter[str] = Counter()
    limits = TRAIN_LIMITS if is_train else TEST_LIMITS
    fields = _BOXES if truncated_boxes else _BOXES[1:]
    for image_id, record in records.items():
        for annotation in of_image.get(image_id, ()):
            where = f"{path}: annotation {annotation['id']}"
            category_id = annotation["category_id"]
            if category_id not in ignored and category_id not in contiguous:
                continue
            box = _choose_box(annotation, fields, where)
            if category_id in ignored:
                if box is not None:
                    record["ignore_boxes"].append(box.tolist())
            else:
                category_id = contiguous[category_id]
                counts[_add(record, annotation, box, category_id, limits, is_train, where)] += 1
    check_files((record["file_name"] for record in records.values()), "image", str(path))
    logger.info("%s: %d images; objects: %s.", path, len(records), dict(sorted(counts.items())))
    return list(records.values())


def _image_record(image: Mapping[str, Any], image_root: Path, path: Path) -> dict[str, Any]:
    image_id = get_field(image, "id", f"{path}: images")
    where = f"{path}: image {image_id}"
    intrinsics = np.array(get_numbers(image, "K", (3, 3), where), dtype=np.float64)
    if not (intrinsics[0, 0] > 0 and intrinsics[1, 1] > 0):
        raise DatasetError(f"{where}: 'K' has no positive focal lengths: {intrinsics.tolist()}.")
    file_path = get_field(image, "file_path", where)
    return {
        "layout": "omni3d",
        "file_name": os.path.join(image_root, file_path),
        "height": int(get_numbers(image, "height", (), where)),
        "width": int(get_numbers(image, "width", (), where)),
        "image_id": image_id,
        "dataset_id": image.get("dataset_id", -1),
        "scene_id": os.path.dirname(file_path),
        "intrinsics": intrinsics,
        "projection": np.column_stack([intrinsics, np.zeros(3)]),
        "annotations": [],
        "ignore_boxes": [],
        "ignored": [],
    }


def _annotations_by_image(
    data: Mapping[str, Any],
    records: Mapping[int, Any],
    categories: Mapping[int, str],
    path: Path,
) -> dict[int, list[dict[str, Any]]]:
    of_image: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for index, annotation in enumerate(get_field(data, "annotations", str(path))):
        where = f"{path}: annotation {get_field(annotation, 'id', f'{path}: annotations[{index}]')}"
        image_id = get_field(annotation, "image_id", where)
        if image_id not in records:
            raise DatasetError(f"{where}: 'image_id' is {image_id!r}, which no image has.")
        category_id = get_field(annotation, "category_id", where)
        if category_id not in categories:
            raise DatasetError(f"{where}: 'category_id' is {category_id!r}, which is not listed.")
        of_image[image_id].append(annotation)
    return of_image


def _choose_box(
    annotation: Mapping[str, Any], fields: Sequence[str], where: str
) -> np.ndarray | None:
    """(4,) XYXY of the first of these fields that is there."""
    for field in fields:
        if field not in annotation:
            continue
        box = np.array(get_numbers(annotation, field, (4,), where), dtype=np.float64)
        if (box == -1).all():
            continue
        if not (box[2] >= box[0] and box[3] >= box[1]):
            raise DatasetError(f"{where}: '{field}' is {box.tolist()}; its size is negative.")
        return box
    return None


def _add(
    record: dict[str, Any],
    annotation: Mapping[str, Any],
    box: np.ndarray | None,
    category_id: int,
    limits: Limits,
    is_train: bool,
    where: str,
) -> str:
    """Sort an object into the record; returns what became of it."""
    if box is None:
        return "without a 2D box"
    dimensions = np.array(get_numbers(annotation, "dimensions", (3,), where), dtype=np.float64)
    center = np.array(get_numbers(annotation, "center_cam", (3,), where), dtype=np.float64)
    has3d = (
        bool(get_field(annotation, "valid3D", where))
        and not get_field(annotation, "behind_camera", where)
        and bool((dimensions > 0).all())
        and center[2] > 0
    )
    numbers = {
        field: float(get_numbers(annotation, field, (), where))
        for field in ("truncation", "visibility", "segmentation_pts", "lidar_pts", "depth_error")
    }
    rotation = np.eye(3)
    if has3d:
        rotation = np.array(get_numbers(annotation, "R_cam", (3, 3), where), dtype=np.float64)
        if not np.allclose(rotation @ rotation.T, np.eye(3), atol=1e-3):
            raise DatasetError(f"{where}: 'R_cam' is no rotation: {rotation.tolist()}.")
    kept = box3d_annotation(
        box=box,
        category_id=category_id,
        center=center,
        dimensions=dimensions,
        rotation=rotation,
        truncation=numbers["truncation"],
        occlusion=_occlusion(numbers["visibility"]),
        annotation_id=annotation["id"],
        has3d=has3d,
    )
    hard = _too_hard(box[3] - box[1], record["height"], numbers, limits)
    if not hard and (has3d or is_train):
        record["annotations"].append(kept)
        return "annotated" if has3d else "annotated in 2D only"
    record["ignored"].append(kept)
    record["ignore_boxes"].append(kept["bbox"])
    return "ignored"


def _too_hard(
    box_height: float, image_height: int, numbers: Mapping[str, float], limits: Limits
) -> bool:
    share = box_height / image_height
    return (
        numbers["truncation"] >= limits.truncation
        or 0 <= numbers["visibility"] <= limits.visibility
        or not limits.height < share < _MAX_HEIGHT
        or numbers["segmentation_pts"] == 0
        or numbers["lidar_pts"] == 0
        or numbers["depth_error"] > _MAX_DEPTH_ERROR
    )


def _occlusion(visibility: float) -> int:
    """KITTI's level of a visible share: 0 above 0.8, 1 above 0.4, else 2; 3 = unknown."""
    if visibility < 0:
        return 3
    return 0 if visibility > 0.8 else 1 if visibility > 0.4 else 2
