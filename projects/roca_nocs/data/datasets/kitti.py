"""Reader of the KITTI object benchmark.

Layout below one folder::

    ImageSets/{train,val,trainval,test}.txt      one image number a line
    training/{image_2/NNNNNN.png,label_2/NNNNNN.txt,calib/NNNNNN.txt}
    testing/{image_2/NNNNNN.png,calib/NNNNNN.txt}

The camera of the images is the second colour camera: its projection P2 maps the rectified
reference camera, the frame of the labels, to pixels, and its fourth column is not zero.
"""

from __future__ import annotations

import logging
import math
import os
from collections import Counter
from collections.abc import Mapping, Sequence, Set
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..coco_json import DatasetError, check_files
from .box3d_records import box3d_annotation
from .kitti_files import DONT_CARE, KittiLabels, read_calibration, read_labels

logger = logging.getLogger(__name__)

CLASSES = ("Car", "Pedestrian", "Cyclist")
NEIGHBOURS = {"Car": "Van", "Pedestrian": "Person_sitting"}
"""Types that are neither the class nor background."""

MAX_OCCLUSION = 2
MAX_TRUNCATION = 0.5
"""Objects beyond never count in the evaluation; training ignores their boxes."""


def load_kitti(
    root: str | os.PathLike[str], split: str, classes: Sequence[str] = CLASSES
) -> list[dict[str, Any]]:
    """Read a split into detectron2 records.

    Args:
        root: the folder above.
        split: name of a list in ``ImageSets``; ``test`` has no labels.
        classes: the types to annotate, in the order of their ids.

    Returns:
        One dictionary per image: ``layout`` "kitti", ``file_name``, ``height``, ``width`` (of the
        file; sizes vary), ``image_id`` (the number), ``scene_id`` (the number as it is written),
        ``projection`` (3, 4) float64 and ``intrinsics``, its left 3x3 part; ``annotations`` of
        :func:`~roca_nocs.data.datasets.box3d_records.box3d_annotation` with the line in the file,
        from 0, as ``annotation_id``; ``ignore_boxes``, XYXY, of DontCare areas, of neighbouring
        types and of objects that are occluded or truncated too much to count; ``ignored``, the same
        objects as annotations (neighbours with the id of the class), for evaluations in which they
        are neither found nor missed; ``label_file`` (without ``test``).

    Raises:
        DatasetError: a missing or damaged file; names the file, the line and the field.
    """
    root = Path(root)
    folder = root / ("testing" if split == "test" else "training")
    listing = root / "ImageSets" / f"{split}.txt"
    names = _read_names(listing)
    check_files((folder / f"image_2/{name}.png" for name in names), "image", str(listing))
    # Of each type that is read, the id of its class.
    ids = {NEIGHBOURS[name]: row for row, name in enumerate(classes) if name in NEIGHBOURS}
    ids |= {name: row for row, name in enumerate(classes)}
    records: list[dict[str, Any]] = []
    left_out: Counter[str] = Counter()
    for name in names:
        image = folder / f"image_2/{name}.png"
        projection = read_projection(folder / f"calib/{name}.txt")
        width, height = _image_size(image)
        record: dict[str, Any] = {
            "layout": "kitti",
            "file_name": str(image),
            "height": height,
            "width": width,
            "image_id": int(name),
            "scene_id": name,
            "projection": projection,
            "intrinsics": projection[:, :3].copy(),
            "annotations": [],
            "ignore_boxes": [],
            "ignored": [],
        }
        if split != "test":
            path = folder / f"label_2/{name}.txt"
            labels = read_labels(path)
            record["label_file"] = str(path)
            left_out.update(kind for kind in labels.types if kind not in {*ids, DONT_CARE})
            _add_labels(record, labels, ids, set(classes), str(path))
        records.append(record)
    objects = sum(len(record["annotations"]) for record in records)
    logger.info(
        "%s: %d images, %d objects; left out as background: %s.",
        *(listing, len(records), objects, dict(left_out) or "nothing"),
    )
    return records


def read_projection(path: str | os.PathLike[str]) -> np.ndarray:
    """P2 (3, 4) float64 of a calibration file.

    Raises:
        DatasetError: the file or the matrix is missing, or its focal lengths are not positive.
    """
    matrices = read_calibration(path)
    if "P2" not in matrices:
        raise DatasetError(f"{path}: there is no line 'P2:'; the file has {sorted(matrices)}.")
    projection = matrices["P2"]
    if not (projection[0, 0] > 0 and projection[1, 1] > 0):
        raise DatasetError(
            f"{path}: P2 has the focal lengths {projection[0, 0]:g} and {projection[1, 1]:g}; "
            "expected positive ones."
        )
    return projection


def _read_names(listing: Path) -> list[str]:
    try:
        names = listing.read_text(encoding="utf-8").split()
    except OSError as error:
        raise DatasetError(f"{listing}: {error.strerror}.") from error
    for name in names:
        if not name.isdigit():
            raise DatasetError(f"{listing}: {name!r} is no image number.")
    return names


def _image_size(path: Path) -> tuple[int, int]:
    """(width, height) from the header."""
    try:
        with Image.open(path) as image:
            return image.size
    except OSError as error:
        raise DatasetError(f"{path}: not a readable image ({error}).") from error


def _add_labels(
    record: dict[str, Any],
    labels: KittiLabels,
    ids: Mapping[str, int],
    classes: Set[str],
    path: str,
) -> None:
    for row, kind in enumerate(labels.types):
        if kind not in ids and kind != DONT_CARE:
            continue
        where = f"{path}: object {row} ({kind})"
        box = labels.boxes[row]
        if not (box[2] >= box[0] and box[3] >= box[1]):
            raise DatasetError(f"{where}: the box {box.tolist()} has a negative size.")
        hard = labels.occlusion[row] > MAX_OCCLUSION or labels.truncation[row] > MAX_TRUNCATION
        counts = kind in classes and not hard
        if not counts:
            record["ignore_boxes"].append(box.tolist())
        if kind == DONT_CARE:
            continue
        if not (labels.dimensions[row] > 0).all():
            raise DatasetError(
                f"{where}: height, width and length are {labels.dimensions[row][[1, 0, 2]]}; "
                "expected positive ones."
            )
        record["annotations" if counts else "ignored"].append(
            box3d_annotation(
                box=box,
                category_id=ids[kind],
                center=labels.centers[row],
                dimensions=labels.dimensions[row],
                rotation=yaw_rotation(labels.rotation_y[row]),
                truncation=labels.truncation[row],
                occlusion=labels.occlusion[row],
                annotation_id=row,
            )
        )


def yaw_rotation(rotation_y: float) -> np.ndarray:
    """(3, 3) float64 rotation about the camera's y axis; 0 turns an object's length along +x."""
    cosine, sine = math.cos(rotation_y), math.sin(rotation_y)
    return np.array([[cosine, 0.0, sine], [0.0, 1.0, 0.0], [-sine, 0.0, cosine]])
