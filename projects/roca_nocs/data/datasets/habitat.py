"""Reader of multi-view sequences rendered with Habitat (``habitat_datagen_util`` of ganocs).

Layout below one folder, which holds one folder per scene at any depth::

    <scene>/metadata.json
    <scene>/<i>_{color,depth,mask,coord}.png, <i>_meta.txt

``metadata.json``: ``source`` ("habitat"); ``meta``: ``camera_intrinsic`` (3x3), ``hfov``
(degrees), ``resolution`` (width, height), ``img_format``; ``episodes``, one per image: names of
the files, and ``objects`` by handle with ``camera_T_object``, ``world_T_rgb`` (4x4), ``bbox`` of
the model, ``2box`` (rows and columns) and ``semantic_id``. ``_meta.txt``: lines
``semantic_id class model``.

What differs from NOCS: a mask is 0 in the background; a map holds x in blue and z in red, not
mirrored; the files' camera is OpenGL's (x right, y up, z backward), while intrinsics and depth
belong to OpenCV's; everything is relative to the model's origin, not to the centre of its box.

The published generator puts the objects elsewhere for every image, so that the world of a scene is
the same for the walls only: see ``roca_nocs.data.multiview.group_views``.
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.structures import BoxMode
from scipy.spatial.transform import Rotation

from ..coco_json import DatasetError, check_files, get_field, get_numbers, read_json

logger = logging.getLogger(__name__)

CLASSES = ("chair",)
CLASS_IDS = {7: 0}
"""Class ids of ``_meta.txt`` -> contiguous ids; objects of other classes are left out."""

OPENGL_TO_OPENCV = np.diag([1.0, -1.0, -1.0, 1.0])
"""The change of camera axes, its own inverse."""

_FOCAL_TOLERANCE = 0.01


def load_habitat(root: str | os.PathLike[str], split: str) -> list[dict[str, Any]]:
    """Read all scenes below ``root/split`` into detectron2 records.

    Returns:
        One dictionary per image, as ``load_nocs`` makes them, with ``layout`` "habitat",
        ``scene_id`` (the scene's folder) and, where the image has an object, ``camera_pose``
        ((4, 4) float64, camera to world, metres, OpenCV axes). Annotations have poses, and
        ``extents`` of the model with unit diagonal. Boxes are those of the file.

    Raises:
        DatasetError: no scene, a missing image, or a wrong field; names file, record and field.
    """
    base = Path(root) / split
    files = sorted(base.rglob("metadata.json")) if base.is_dir() else []
    if not files:
        raise DatasetError(f"{base}: there is no folder with a metadata.json below it.")
    records: list[dict[str, Any]] = []
    for file in files:
        records += _scene_records(file, base, len(records) + 1)
    for kind in ("file_name", "depth_file_name", "instance_file_name", "nocs_file_name"):
        check_files((record[kind] for record in records), kind, str(base))
    objects = sum(len(record["annotations"]) for record in records)
    logger.info("%s: %d scenes, %d images, %d objects.", base, len(files), len(records), objects)
    return records


def decode_habitat_coordinates(coord: np.ndarray) -> np.ndarray:
    """NOCS map of a ``_coord.png`` as OpenCV reads it: (H, W, 3) float32 in [0, 1].

    OpenCV's channel order is that of the axes: blue, green, red hold x, y and z.
    """
    if coord.ndim != 3 or coord.dtype != np.uint8:
        raise ValueError(
            f"The map is {coord.shape} of {coord.dtype}; expected (H, W, 3) of 8 bits."
        )
    return coord[..., :3].astype(np.float32) / 255


def _scene_records(file: Path, base: Path, first_id: int) -> list[dict[str, Any]]:
    data = read_json(file)
    source = get_field(data, "source", str(file))
    if source != "habitat":
        raise DatasetError(f"{file}: 'source' is {source!r}; expected 'habitat'.")
    meta = get_field(data, "meta", str(file))
    where = f"{file}: meta"
    width, height = (int(value) for value in get_numbers(meta, "resolution", (2,), where))
    intrinsics = np.array(get_numbers(meta, "camera_intrinsic", (3, 3), where), dtype=np.float64)
    _check_focal_length(meta, intrinsics, width, where)
    ending = get_field(meta, "img_format", where)
    if ending != "png":
        raise DatasetError(f"{where}: 'img_format' is {ending!r}; only 'png' is read.")
    records = []
    for number, episode in enumerate(get_field(data, "episodes", str(file))):
        place = f"{file}: episode {number}"
        names = {
            kind: os.path.join(file.parent, f"{get_field(episode, kind, place)}.png")
            for kind in ("color", "depth", "mask", "coord")
        }
        objects = get_field(episode, "objects", place)
        models = _read_models(Path(names["color"].removesuffix("color.png") + "meta.txt"))
        record = {
            "layout": "habitat",
            "file_name": names["color"],
            "height": height,
            "width": width,
            "image_id": first_id + number,
            "scene_id": file.parent.relative_to(base).as_posix(),
            "intrinsics": intrinsics,
            "instance_file_name": names["mask"],
            "nocs_file_name": names["coord"],
            "depth_file_name": names["depth"],
            "annotations": [],
        }
        for handle, entry in objects.items():
            annotation = _annotation(entry, models, f"{place}: object {handle}")
            if annotation is not None:
                record["annotations"].append(annotation)
            # The pose of the sensor is repeated in every object.
            pose = np.array(get_numbers(entry, "world_T_rgb", (4, 4), f"{place}: object {handle}"))
            record["camera_pose"] = pose @ OPENGL_TO_OPENCV
        records.append(record)
    return records


def _check_focal_length(
    meta: Mapping[str, Any], intrinsics: np.ndarray, width: int, where: str
) -> None:
    """The intrinsics must belong to the image size: a copy of another resolution is an error."""
    angle = math.radians(get_numbers(meta, "hfov", (), where))
    expected = width / 2 / math.tan(angle / 2)
    if abs(intrinsics[0, 0] / expected - 1) > _FOCAL_TOLERANCE:
        raise DatasetError(
            f"{where}: the focal length {intrinsics[0, 0]:.1f} does not belong to an image {width} "
            f"pixels wide with a horizontal field of view of {meta['hfov']:.1f} degrees, which has "
            f"{expected:.1f}."
        )


def _read_models(path: Path) -> dict[int, tuple[int, str]]:
    """Semantic id -> class id and model of a ``_meta.txt``."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise DatasetError(f"{path}: {error.strerror}.") from error
    models = {}
    for number, line in enumerate(lines, start=1):
        words = line.split(maxsplit=2)
        if not words:
            continue
        if len(words) != 3 or not (words[0].isdigit() and words[1].isdigit()):
            raise DatasetError(
                f"{path}: line {number} is {line!r}; expected 'semantic_id class model', with "
                "whole numbers for the first two."
            )
        models[int(words[0])] = (int(words[1]), words[2])
    return models


def _annotation(
    entry: Mapping[str, Any], models: Mapping[int, tuple[int, str]], where: str
) -> dict[str, Any] | None:
    """An object of an episode; None for a class that is not ours."""
    semantic_id = get_field(entry, "semantic_id", where)
    if semantic_id not in models:
        raise DatasetError(f"{where}: the semantic id {semantic_id!r} has no line in _meta.txt.")
    if not 0 < semantic_id < 256:
        raise DatasetError(f"{where}: 'semantic_id' is {semantic_id}; masks hold 1 to 255.")
    class_id, model = models[semantic_id]
    if class_id not in CLASS_IDS:
        return None
    box, corners = get_field(entry, "bbox", where), get_field(entry, "2box", where)
    size = np.subtract(*(get_numbers(box, side, (3,), where) for side in ("max", "min")))
    diagonal = float(np.linalg.norm(size))
    if not (size > 0).all():
        raise DatasetError(f"{where}: 'bbox' has the extents {size}; expected positive ones.")
    (top, left), (bottom, right) = (get_numbers(corners, s, (2,), where) for s in ("min", "max"))
    pose = OPENGL_TO_OPENCV @ np.array(get_numbers(entry, "camera_T_object", (4, 4), where))
    determinant = float(np.linalg.det(pose[:3, :3]))
    if determinant <= 0:
        raise DatasetError(
            f"{where}: 'camera_T_object' is no rotation (determinant {determinant:.3g})."
        )
    scale = determinant ** (1 / 3)
    x, y, z, w = Rotation.from_matrix(pose[:3, :3] / scale).as_quat(canonical=True).tolist()
    return {
        # The last row and column of the file's box belong to the object.
        "bbox": [left, top, right + 1, bottom + 1],
        "bbox_mode": BoxMode.XYXY_ABS,
        "category_id": CLASS_IDS[class_id],
        "iscrowd": 0,
        "alignment_id": int(semantic_id),
        "model": {"catid_cad": "", "id_cad": model},
        "extents": (size / diagonal).tolist(),
        "sym": "__SYM_NONE",
        "q": [w, x, y, z],
        "t": pose[:3, 3].tolist(),
        "s": [scale * diagonal] * 3,
        "handle_visible": True,
    }
