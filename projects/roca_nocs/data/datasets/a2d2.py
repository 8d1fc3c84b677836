"""Reader of the 3D bounding boxes of A2D2 (Audi Autonomous Driving Dataset), front camera.

Layout below one folder::

    cams_lidars.json                                  calibration (other spellings are found too)
    camera_lidar_semantic_bboxes/<sequence>/camera/cam_front_center/*_camera_frontcenter_*.png
    camera_lidar_semantic_bboxes/<sequence>/label3D/cam_front_center/*_label3D_frontcenter_*.json

Labels: x forward, y left, z up. ``size`` is length, width, height along the axes of the box, and
``axis``, ``rot_angle`` its rotation. Public readers disagree on two points, which therefore are
decided by the data (see :func:`choose_reading`): the frame of the labels, and the order of
``2d_bbox``. The calibration holds for undistorted images.
"""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice, product
from pathlib import Path
from typing import Any

import numpy as np

from ..coco_json import DatasetError, check_files, get_field, get_numbers, read_json
from .box3d_records import box3d_annotation

logger = logging.getLogger(__name__)

CLASSES = ("Car", "Pedestrian", "Cyclist")
MERGED = {"VanSUV": "Car"}
"""Published classes that count as another one; all that are left are background."""

CAMERA = "front_center"
CALIBRATIONS = ("cams_lidars.json", "camera_lidar.json", "camera_lidars.json")
VAL_EVERY = 5
"""One sequence in so many, by name, is for validation: the dataset has no split of its own."""

_BOXES_COMPARED = 50
_NEAR = 0.1
# x forward, y left, z up -> x right, y down, z forward.
_TO_CAMERA_AXES = np.array([[0.0, -1.0, 0.0], [0.0, 0.0, -1.0], [1.0, 0.0, 0.0]])
# Box axes (length, width, height) -> object axes (length, height down, width), still right-handed.
_BOX_TO_OBJECT = np.array([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0], [0.0, -1.0, 0.0]])
_CORNERS = np.array(list(product((-0.5, 0.5), repeat=3)))

BOX_ORDERS = {"left, top, right, bottom": [0, 1, 2, 3], "top, left, bottom, right": [1, 0, 3, 2]}


@dataclass(frozen=True)
class Calibration:
    """The front camera.

    Attributes:
        intrinsics: (3, 3) float64 of the undistorted image, pixels.
        size: (width, height) of the image.
        frames: name of a possible frame of the labels -> (4, 4) from it to the camera (x right,
            y down, z forward).
    """

    intrinsics: np.ndarray
    size: tuple[int, int]
    frames: dict[str, np.ndarray]


@dataclass(frozen=True)
class Box:
    """A labelled object in the frame of the labels.

    Attributes:
        where: its file and name, for messages.
        kind: published class.
        center: (3,) metres.
        size: (3,) length, width, height, metres.
        rotation: (3, 3) from the axes of the box.
        box: (4,) ``2d_bbox`` as it stands in the file, pixels.
        truncation, occlusion: as published.
        number: of the object within its file.
    """

    where: str
    kind: str
    center: np.ndarray
    size: np.ndarray
    rotation: np.ndarray
    box: np.ndarray
    truncation: float
    occlusion: float
    number: int


def load_a2d2(
    root: str | os.PathLike[str], split: str, classes: Sequence[str] = CLASSES
) -> list[dict[str, Any]]:
    """Read a split into detectron2 records.

    Args:
        root: the folder above.
        split: ``"train"`` or ``"val"``: sequences by name, every fifth one is for validation.
        classes: in the order of their ids.

    Returns:
        One dictionary per image: ``layout`` "a2d2", ``file_name``, ``height``, ``width``,
        ``image_id``, ``scene_id`` (the sequence), ``intrinsics`` and ``projection`` (3, 4)
        float64, and ``annotations`` of
        :func:`~roca_nocs.data.datasets.box3d_records.box3d_annotation`. 2D boxes are those of the
        projected 3D boxes within the image; objects wholly outside are left out.

    Raises:
        DatasetError: a missing or damaged file; names the file, the record and the field.
    """
    if split not in ("train", "val"):
        raise ValueError(f"split is {split!r}; expected 'train' or 'val'.")
    root = Path(root)
    calibration = read_calibration(root)
    base = root / "camera_lidar_semantic_bboxes"
    if not base.is_dir():
        raise DatasetError(f"{base}: no such folder.")
    sequences = sorted(entry.name for entry in os.scandir(base) if entry.is_dir())
    chosen = [
        name
        for number, name in enumerate(sequences)
        if (number % VAL_EVERY == VAL_EVERY - 1) == (split == "val")
    ]
    files = [path for name in chosen for path in _label_files(base / name)]
    frame = choose_reading(calibration, (box for path in files for box in read_boxes(path)))
    records: list[dict[str, Any]] = []
    left_out: Counter[str] = Counter()
    for path in files:
        record = _image_record(path, base, calibration, len(records) + 1)
        for box in read_boxes(path):
            kind = MERGED.get(box.kind, box.kind)
            if kind not in classes:
                left_out[box.kind] += 1
                continue
            annotation = _annotation(box, classes.index(kind), calibration, frame)
            if annotation is not None:
                record["annotations"].append(annotation)
        records.append(record)
    check_files((record["file_name"] for record in records), "image", str(base))
    logger.info("%s %s: %d images; background: %s.", base, split, len(records), dict(left_out))
    return records


def read_calibration(root: Path) -> Calibration:
    """Read the calibration below ``root``.

    Raises:
        DatasetError: it is missing or damaged; names the file and the field.
    """
    path = next((root / name for name in CALIBRATIONS if (root / name).is_file()), None)
    if path is None:
        raise DatasetError(f"{root}: there is no calibration; expected {CALIBRATIONS[0]}.")
    where = f"{path}: cameras.{CAMERA}"
    cameras = get_field(read_json(path), "cameras", str(path))
    camera = get_field(cameras, CAMERA, f"{path}: cameras")
    intrinsics = np.array(get_numbers(camera, "CamMatrix", (3, 3), where), dtype=np.float64)
    width, height = (int(side) for side in get_numbers(camera, "Resolution", (2,), where))
    view = get_field(camera, "view", where)
    axes = _view_axes(view, f"{where}.view")
    origin = np.array(get_numbers(view, "origin", (3,), f"{where}.view"), dtype=np.float64)
    swap, to_view, to_view_as_camera = np.eye(4), np.eye(4), np.eye(4)
    swap[:3, :3] = _TO_CAMERA_AXES
    to_view[:3, :3], to_view[:3, 3] = axes.T, -axes.T @ origin
    to_view_as_camera[:] = to_view
    frames = {
        "of the camera, x forward": swap,
        "of the vehicle": swap @ to_view,
        "of the vehicle, with a view whose z is forward": to_view_as_camera,
    }
    return Calibration(intrinsics, (width, height), frames)


def _view_axes(view: Mapping[str, Any], where: str) -> np.ndarray:
    """(3, 3), the axes of a view as columns: y is made orthogonal to x, z is x cross y."""
    x, y = (
        np.array(get_numbers(view, name, (3,), where), dtype=np.float64)
        for name in ("x-axis", "y-axis")
    )
    if np.linalg.norm(x) < 1e-9:
        raise DatasetError(f"{where}: 'x-axis' is {x.tolist()}; expected a direction.")
    x = x / np.linalg.norm(x)
    y = y - x * (x @ y)
    if np.linalg.norm(y) < 1e-9:
        raise DatasetError(f"{where}: 'y-axis' is parallel to 'x-axis'.")
    y = y / np.linalg.norm(y)
    return np.stack([x, y, np.cross(x, y)], axis=1)


def _label_files(sequence: Path) -> list[Path]:
    return sorted((sequence / "label3D" / f"cam_{CAMERA}").glob("*_label3D_*.json"))


def read_boxes(path: Path) -> Iterator[Box]:
    """The objects of a label file, by name.

    Raises:
        DatasetError: names the file, the object and the field.
    """
    data = read_json(path)
    if not isinstance(data, dict):
        raise DatasetError(f"{path}: the file holds a {type(data).__name__}, expected an object.")
    for number, (name, entry) in enumerate(data.items()):
        where = f"{path}: {name}"
        if not isinstance(entry, dict):
            raise DatasetError(f"{where} is {entry!r}; expected an object.")
        size = np.array(get_numbers(entry, "size", (3,), where), dtype=np.float64)
        if not (size > 0).all():
            raise DatasetError(f"{where}: 'size' is {size.tolist()}; expected positive lengths.")
        axis = np.array(get_numbers(entry, "axis", (3,), where), dtype=np.float64)
        if np.linalg.norm(axis) < 1e-9:
            raise DatasetError(f"{where}: 'axis' is {axis.tolist()}; expected a direction.")
        yield Box(
            where=where,
            kind=get_field(entry, "class", where),
            center=np.array(get_numbers(entry, "center", (3,), where), dtype=np.float64),
            size=size,
            rotation=axis_angle(axis, float(get_numbers(entry, "rot_angle", (), where))),
            box=np.array(get_numbers(entry, "2d_bbox", (4,), where), dtype=np.float64),
            truncation=_number(entry, "truncation", where),
            occlusion=_number(entry, "occlusion", where),
            number=number,
        )


def _number(entry: Mapping[str, Any], field: str, where: str) -> float:
    """A number that some files hold as text."""
    value = get_field(entry, field, where)
    try:
        return float(value)
    except (TypeError, ValueError):
        raise DatasetError(f"{where}: '{field}' is {value!r}; expected a number.") from None


def axis_angle(axis: np.ndarray, angle: float) -> np.ndarray:
    """(3, 3) rotation by ``angle`` radians about ``axis`` (3,), of any length (Rodrigues)."""
    x, y, z = axis / np.linalg.norm(axis)
    cross = np.array([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]])
    return np.eye(3) + np.sin(angle) * cross + (1.0 - np.cos(angle)) * (cross @ cross)


def choose_reading(calibration: Calibration, boxes: Iterator[Box]) -> np.ndarray:
    """Decide how the labels are to be read, by their own 2D boxes.

    The first 50 3D boxes that the image shows under one of the possible frames at least are
    projected under each of them and compared with ``2d_bbox`` in both orders of its numbers; boxes
    behind the camera tell nothing. The best agreement is logged.

    Args:
        calibration: with the possible frames.
        boxes: of the dataset.

    Returns:
        (4, 4) from the frame of the labels to the camera; the first one without any box.
    """
    frames = calibration.frames.values()
    shown = (
        box
        for box in boxes
        if any(_projected_box(box, calibration, frame) is not None for frame in frames)
    )
    samples = list(islice(shown, _BOXES_COMPARED))
    best = (-1.0, next(iter(calibration.frames)), next(iter(BOX_ORDERS)))
    for frame, order in product(calibration.frames, BOX_ORDERS):
        matrix = calibration.frames[frame]
        overlaps = [
            _iou(_projected_box(box, calibration, matrix), box.box[BOX_ORDERS[order]])
            for box in samples
        ]
        agreement = float(np.mean(overlaps)) if overlaps else 0.0
        if agreement > best[0]:
            best = (agreement, frame, order)
    agreement, frame, order = best
    level = logging.WARNING if samples and agreement < 0.5 else logging.INFO
    logger.log(
        level,
        "A2D2: labels are in the frame %s, 2d_bbox is (%s): mean IoU %.2f over %d boxes.",
        *(frame, order, agreement, len(samples)),
    )
    return calibration.frames[frame]


def _projected_box(box: Box, calibration: Calibration, frame: np.ndarray) -> np.ndarray | None:
    """(4,) XYXY of the corners before the camera, within the image; None if there is nothing."""
    corners = box.center + (_CORNERS * box.size) @ box.rotation.T
    points = corners @ frame[:3, :3].T + frame[:3, 3]
    front = points[:, 2] > _NEAR
    # Edges join the corners that differ in one sign: cut them at the near plane.
    a, b = np.nonzero(np.abs(_CORNERS[:, None] - _CORNERS).sum(axis=2) == 1.0)
    crossing = front[a] & ~front[b]
    near, far = points[b[crossing]], points[a[crossing]]
    share = (_NEAR - near[:, 2:]) / (far[:, 2:] - near[:, 2:])
    visible = np.concatenate([points[front], near + share * (far - near)])
    if len(visible) == 0:
        return None
    image = visible @ calibration.intrinsics.T
    image = image[:, :2] / image[:, 2:]
    edges = np.concatenate([image.min(axis=0), image.max(axis=0)])
    clipped = np.clip(edges, 0.0, np.tile(calibration.size, 2))
    return clipped if (clipped[2:] > clipped[:2]).all() else None


def _iou(box: np.ndarray | None, other: np.ndarray) -> float:
    if box is None:
        return 0.0
    inter = np.prod(np.maximum(np.minimum(box[2:], other[2:]) - np.maximum(box[:2], other[:2]), 0))
    union = np.prod(box[2:] - box[:2]) + np.prod(np.maximum(other[2:] - other[:2], 0)) - inter
    return float(inter / union)


def _image_record(
    path: Path, base: Path, calibration: Calibration, image_id: int
) -> dict[str, Any]:
    name = path.with_suffix(".png").name.replace("_label3D_", "_camera_")
    sequence = path.relative_to(base).parts[0]
    return {
        "layout": "a2d2",
        "file_name": str(base / sequence / "camera" / f"cam_{CAMERA}" / name),
        "height": calibration.size[1],
        "width": calibration.size[0],
        "image_id": image_id,
        "scene_id": sequence,
        "intrinsics": calibration.intrinsics,
        "projection": np.column_stack([calibration.intrinsics, np.zeros(3)]),
        "annotations": [],
        "ignore_boxes": [],
    }


def _annotation(
    box: Box, category_id: int, calibration: Calibration, frame: np.ndarray
) -> dict[str, Any] | None:
    edges = _projected_box(box, calibration, frame)
    if edges is None:
        return None
    length, width, height = box.size
    return box3d_annotation(
        box=edges,
        category_id=category_id,
        center=frame[:3, :3] @ box.center + frame[:3, 3],
        dimensions=np.array([width, height, length]),
        rotation=frame[:3, :3] @ box.rotation @ _BOX_TO_OBJECT,
        truncation=box.truncation,
        occlusion=round(box.occlusion),
        annotation_id=box.number,
    )
