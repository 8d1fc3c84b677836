"""Reader of ROCA's COCO-style files: Scan2CAD alignments on ScanNet25k images, and the rooms.

Layout (``docs`` of the fields: roca's format; the embedded rooms add ``depth_full`` and ``noc``)::

    <image_root>/tasks/scannet_frames_25k/<scene>/{color/<frame>.jpg, pose/<frame>.txt}
    <image_root>/tasks/scannet_frames_25k/<scene>/intrinsics_color.txt
    <rendering_root>/<scene>/{depth,instance,noc,depth_full}/<frame>.png

Frames: CAD (y up), camera (x right, y down, z forward, metres). A CAD point p lies at
``R(q) @ (s * p) + t`` in the camera frame.
"""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.data.build import (
    filter_images_with_only_crowd_annotations,
    get_detection_dataset_dicts,
)
from detectron2.structures import BoxMode

from roca_nocs.geometry.symmetry import SYMMETRY_TAGS

from ..categories import SCAN2CAD_SYNSETS
from ..coco_json import (
    CocoFile,
    DatasetError,
    check_files,
    get_field,
    get_numbers,
    read_coco,
    usable_segmentation,
)

logger = logging.getLogger(__name__)

CLASSES = tuple(SCAN2CAD_SYNSETS)
BENCHMARK_CLASSES = tuple(name for name in CLASSES if name != "bed")

# How often ROCA repeats a training image: the largest number over the classes in it.
CLASS_REPEATS = {
    "bathtub": 4,
    "bed": 4,
    "bin": 3,
    "bookcase": 3,
    "cabinet": 2,
    "chair": 1,
    "display": 3,
    "sofa": 3,
    "table": 2,
}

_COLOR_FOLDER = "color"
# Known of generated objects only.
_OCCLUSION_FIELDS = ("visibility", "truncation")
_OPTIONAL_MAPS = {"nocs_file_name": "noc", "depth_full_file_name": "depth_full"}


def load_scan2cad(
    json_file: str | os.PathLike[str],
    image_root: str | os.PathLike[str],
    rendering_root: str | os.PathLike[str],
    *,
    center_filter: bool = False,
) -> list[dict[str, Any]]:
    """Read a ``scan2cad_instances_*.json`` into detectron2 records.

    Images that the published training file repeats (``duplicate`` true) are read once;
    :func:`image_repeat_factors` tells the training loader how often to show them.
    Whatever is left out is counted in the log.

    Args:
        json_file: the file of annotations.
        image_root: folder of the file names in it.
        rendering_root: folder with ``<scene>/{depth,instance,noc,depth_full}``; the last two are
            used where they exist.
        center_filter: see :func:`keep_centered`.

    Returns:
        One dictionary per image: ``layout`` ("scan2cad"), ``file_name``, ``height``, ``width``,
        ``image_id``, ``scene_id``, ``intrinsics`` ((3, 3) float64, pixels),
        ``depth_file_name``, ``instance_file_name``, ``pose_file_name``, (``nocs_file_name``,
        ``depth_full_file_name``), ``annotations``: ``bbox`` (XYWH_ABS), ``bbox_mode``,
        ``category_id``, ``iscrowd``, (``segmentation``), ``alignment_id`` (the object's value in
        the instance image), ``q`` (w, x, y, z), ``t`` (metres), ``s`` (metres per model unit along
        each CAD axis), ``sym``, ``model`` ({``catid_cad``, ``id_cad``, ...}), ``annotation_id``,
        (``visibility``, ``truncation``).

    Raises:
        DatasetError: names the file, the record and the field, or the image file.
    """
    coco = read_coco(json_file)
    _check_classes(coco)
    image_root, rendering_root = os.fspath(image_root), os.fspath(rendering_root)
    left_out: Counter[str] = Counter()
    scene_intrinsics: dict[str, np.ndarray] = {}
    records = []
    for image in coco.images:
        if image.get("duplicate", False):
            left_out["repeated image"] += 1
            continue
        record = _image_record(image, image_root, rendering_root, str(coco.path))
        found = coco.annotations.get(image["id"], ())
        record["intrinsics"] = _intrinsics(found, record, coco.path, scene_intrinsics)
        for annotation in found:
            where = f"{coco.path}: annotation {annotation['id']}"
            if not annotation.get("is_cad", True):
                left_out["object without CAD model"] += 1
                continue
            record["annotations"].append(_annotation_record(annotation, where))
        _check_alignment_ids(record, coco.path)
        records.append(record)
    _add_optional_maps(records, rendering_root)
    _check_record_files(records, str(coco.path))
    objects = sum(len(record["annotations"]) for record in records)
    logger.info("%s: %d images, %d objects.", coco.path, len(records), objects)
    for reason, count in left_out.items():
        logger.info("%s: left out %d x %s.", coco.path, count, reason)
    return keep_centered(records) if center_filter else records


def scan2cad_records(
    names: str | Sequence[str], *, center_filter: bool = False, filter_empty: bool = True
) -> list[dict[str, Any]]:
    """Records of registered datasets in this layout, for training configs.

    Args:
        names: one name or several.
        center_filter: see :func:`keep_centered`; the published files need none.
        filter_empty: leave out images without an object.
    """
    records = get_detection_dataset_dicts(names, filter_empty=filter_empty and not center_filter)
    if not center_filter:
        return records
    records = keep_centered(records)
    return filter_images_with_only_crowd_annotations(records) if filter_empty else records


def keep_centered(records: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Leave out objects whose CAD origin lies behind the camera or projects outside the image.

    So the published files are made. What is left out is counted in the log; images stay.

    Args:
        records: records of :func:`load_scan2cad`, not changed.
    """
    kept = []
    for record in records:
        inside = [each for each in record["annotations"] if _center_in_image(each["t"], record)]
        kept.append({**record, "annotations": inside})
    before, after = (sum(len(each["annotations"]) for each in group) for group in (records, kept))
    logger.info("Left out %d x object whose CAD centre is outside the image.", before - after)
    return kept


def _check_classes(coco: CocoFile) -> None:
    expected = dict(enumerate(CLASSES))
    if dict(coco.categories) != expected:
        raise DatasetError(
            f"{coco.path}: the categories are {dict(coco.categories)}; expected {expected}."
        )


def _image_record(
    image: Mapping[str, Any], image_root: str, rendering_root: str, source: str
) -> dict[str, Any]:
    parts = image["file_name"].split("/")
    if len(parts) < 3 or parts[-2] != _COLOR_FOLDER:
        raise DatasetError(
            f"{source}: image {image['id']}: 'file_name' is {image['file_name']!r}; expected "
            ".../<scene>/color/<frame>.jpg."
        )
    scene, frame = parts[-3], os.path.splitext(parts[-1])[0]
    scene_folder = os.path.join(image_root, *parts[:-2])
    return {
        "layout": "scan2cad",
        "file_name": os.path.join(image_root, *parts),
        "height": image["height"],
        "width": image["width"],
        "image_id": image["id"],
        "scene_id": scene,
        "depth_file_name": os.path.join(rendering_root, scene, "depth", f"{frame}.png"),
        "instance_file_name": os.path.join(rendering_root, scene, "instance", f"{frame}.png"),
        "pose_file_name": os.path.join(scene_folder, "pose", f"{frame}.txt"),
        "annotations": [],
    }


def _intrinsics(
    annotations: Sequence[Mapping[str, Any]],
    record: Mapping[str, Any],
    path: Path,
    scene_intrinsics: dict[str, np.ndarray],
) -> np.ndarray:
    """Of the first annotation; of the scene's file where an image has no annotation."""
    if annotations:
        where = f"{path}: annotation {annotations[0]['id']}"
        matrix = np.array(get_numbers(annotations[0], "intrinsics", (3, 3), where), np.float64)
        if matrix[0, 0] <= 0 or matrix[1, 1] <= 0:
            raise DatasetError(f"{where}: 'intrinsics' has a focal length that is not positive.")
        return matrix
    scene = record["scene_id"]
    if scene not in scene_intrinsics:
        file = Path(record["file_name"]).parents[1] / "intrinsics_color.txt"
        scene_intrinsics[scene] = read_matrix(file)[:3, :3]
    return scene_intrinsics[scene].copy()


def read_matrix(path: str | os.PathLike[str]) -> np.ndarray:
    """Read a 4x4 matrix of a text file (a pose or intrinsics) as (4, 4) float64.

    Raises:
        DatasetError: the file is missing or does not hold 16 finite numbers.
    """
    try:
        numbers = Path(path).read_text(encoding="utf-8").split()
        matrix = np.array(numbers, dtype=np.float64).reshape(4, 4)
    except (OSError, ValueError) as error:
        raise DatasetError(f"{path}: expected a 4x4 matrix as text ({error}).") from error
    if not np.isfinite(matrix).all():
        raise DatasetError(f"{path}: the matrix is not finite.")
    return matrix


def _annotation_record(annotation: Mapping[str, Any], where: str) -> dict[str, Any]:
    kept: dict[str, Any] = {
        "bbox": annotation["bbox"],
        "bbox_mode": BoxMode.XYWH_ABS,
        "category_id": annotation["category_id"],
        "iscrowd": annotation.get("iscrowd", 0),
        "annotation_id": annotation["id"],
        "q": get_numbers(annotation, "q", (4,), where),
        "t": get_numbers(annotation, "t", (3,), where),
        "s": get_numbers(annotation, "s", (3,), where),
        "sym": get_field(annotation, "sym", where),
        "model": get_field(annotation, "model", where),
        "alignment_id": get_field(annotation, "alignment_id", where),
    }
    norm = float(np.linalg.norm(kept["q"]))
    if abs(norm - 1) > 1e-3:
        raise DatasetError(f"{where}: 'q' has the norm {norm:.4g}; expected a unit quaternion.")
    if 0 in kept["s"]:
        raise DatasetError(f"{where}: 's' is {kept['s']}; a scale of zero has no inverse.")
    if kept["sym"] not in SYMMETRY_TAGS:
        raise DatasetError(f"{where}: 'sym' is {kept['sym']!r}; expected one of {SYMMETRY_TAGS}.")
    identifier = kept["alignment_id"]
    if type(identifier) is not int or not 1 <= identifier <= 255:
        raise DatasetError(
            f"{where}: 'alignment_id' is {identifier!r}; expected a whole number from 1 to 255 "
            "(instance images have 8 bits)."
        )
    for field in ("catid_cad", "id_cad"):
        if not isinstance(get_field(kept["model"], field, f"{where}: 'model'"), str):
            raise DatasetError(f"{where}: '{field}' of 'model' is not text.")
    segmentation = annotation.get("segmentation")
    usable = usable_segmentation(segmentation) if segmentation else None
    if usable is not None:
        kept["segmentation"] = usable
    for field in _OCCLUSION_FIELDS:
        if field in annotation:
            kept[field] = get_numbers(annotation, field, (), where)
    return kept


def _check_alignment_ids(record: Mapping[str, Any], path: Path) -> None:
    """Objects of an image with the same id would have the same mask."""
    seen: dict[int, int] = {}
    for annotation in record["annotations"]:
        number = annotation["alignment_id"]
        if number in seen:
            raise DatasetError(
                f"{path}: annotation {annotation['annotation_id']}: 'alignment_id' is {number}, as "
                f"that of annotation {seen[number]} of the same image."
            )
        seen[number] = annotation["annotation_id"]


def _center_in_image(translation: Sequence[float], record: Mapping[str, Any]) -> bool:
    x, y, z = record["intrinsics"] @ np.asarray(translation, dtype=np.float64)
    if z <= 0:
        return False
    return 0 <= x / z < record["width"] and 0 <= y / z < record["height"]


def _add_optional_maps(records: list[dict[str, Any]], rendering_root: str) -> None:
    """Name the maps that this copy of the data has: decided once, by the first image."""
    if not records:
        return
    for key, folder in _OPTIONAL_MAPS.items():
        if os.path.isdir(os.path.join(rendering_root, records[0]["scene_id"], folder)):
            for record in records:
                frame = os.path.basename(record["depth_file_name"])
                record[key] = os.path.join(rendering_root, record["scene_id"], folder, frame)


def _check_record_files(records: list[dict[str, Any]], source: str) -> None:
    kinds = {
        "file_name": "image",
        "instance_file_name": "instance",
        "depth_file_name": "depth",
        "nocs_file_name": "NOC",
        "depth_full_file_name": "full depth",
    }
    for key, what in kinds.items():
        check_files((record[key] for record in records if key in record), what, source)


def image_repeat_factors(records: Sequence[Mapping[str, Any]]) -> list[float]:
    """How often each image is to be seen per epoch: the maximum over the classes in it.

    Give the function to ``roca_nocs.data.loader.build_train_loader`` as ``repeat_factors``.

    Args:
        records: records of :func:`load_scan2cad`.

    Returns:
        One factor per record, at least 1.
    """
    repeats = [CLASS_REPEATS[name] for name in CLASSES]
    return [
        float(max((repeats[a["category_id"]] for a in record["annotations"]), default=1))
        for record in records
    ]
