"""Reading and checking COCO-format files.

Every check here answers a mistake that otherwise shows hours later, or never: it names the file,
the record and the field, what was found and what was expected. The functions touch no catalogue;
:func:`roca_nocs.data.datasets.register_coco_format` ties them to a dataset name.
"""

from __future__ import annotations

import json
import logging
import math
import os
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pycocotools.mask as mask_util
from detectron2.structures import BoxMode

logger = logging.getLogger(__name__)


class DatasetError(ValueError):
    """A dataset on disk is not what its format demands; the message says where."""


@dataclass(frozen=True)
class CocoFile:
    """A checked COCO-format file.

    Attributes:
        path: the file.
        images: the image records, by ascending id.
        annotations: image id -> its annotation records, in the order of the file.
        categories: category id -> name, by ascending id.
    """

    path: Path
    images: tuple[dict[str, Any], ...]
    annotations: Mapping[int, list[dict[str, Any]]]
    categories: Mapping[int, str]


def read_json(path: str | os.PathLike[str]) -> Any:
    """Parse a JSON file.

    Raises:
        DatasetError: the file is missing, empty or malformed (with line and column).
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise DatasetError(f"{path}: no such file.") from None
    except UnicodeDecodeError as error:
        raise DatasetError(f"{path}: not a text file in UTF-8 ({error}).") from error
    if not text.strip():
        raise DatasetError(f"{path}: the file is empty.")
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise DatasetError(
            f"{path}: malformed JSON at line {error.lineno}, column {error.colno}: {error.msg}."
        ) from error


def get_field(record: Mapping[str, Any], field: str, where: str) -> Any:
    """``record[field]``; a missing field is reported with its place ``where``."""
    try:
        return record[field]
    except KeyError:
        raise DatasetError(
            f"{where}: the field '{field}' is missing; the record has {sorted(record)}."
        ) from None


def get_numbers(record: Mapping[str, Any], field: str, shape: Sequence[int], where: str) -> Any:
    """``record[field]``, checked to be finite numbers nested in lists of the given shape.

    Args:
        record: the record.
        field: name of the field.
        shape: expected lengths from the outside in; ``()`` for a plain number.
        where: place of the record, for the message.

    Returns:
        The value as it stands in the record.
    """
    value = get_field(record, field, where)
    expected = f"{' x '.join(map(str, shape))} finite numbers" if shape else "a finite number"
    try:
        array = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError, OverflowError):
        raise DatasetError(f"{where}: '{field}' is {value!r}; expected {expected}.") from None
    if array.shape != tuple(shape) or isinstance(value, str):
        raise DatasetError(
            f"{where}: '{field}' has the wrong length: {value!r}; expected {expected}."
        )
    if not np.isfinite(array).all():
        raise DatasetError(f"{where}: '{field}' is not finite: {value!r}.")
    return value


def read_coco(path: str | os.PathLike[str]) -> CocoFile:
    """Read a COCO-format detection file and check it; see :func:`parse_coco`."""
    return parse_coco(read_json(path), path)


def parse_coco(data: Any, path: str | os.PathLike[str]) -> CocoFile:
    """Check every record of a COCO-format detection file.

    Checked are the three lists, ids (present, unique, whole), file names, sizes, boxes (four finite
    numbers, no negative size), the image and category that an annotation refers to, and the
    structure of its segmentation.

    Args:
        data: the content of the file.
        path: the file, for messages.

    Raises:
        DatasetError: names the file, the record and the field.
    """
    path = Path(path)
    if not isinstance(data, dict):
        raise DatasetError(f"{path}: the file holds a {type(data).__name__}, expected an object.")
    lists = {}
    for name in ("images", "annotations", "categories"):
        lists[name] = get_field(data, name, str(path))
        if not isinstance(lists[name], list):
            raise DatasetError(f"{path}: '{name}' is not a list.")
        for index, record in enumerate(lists[name]):
            if not isinstance(record, dict):
                raise DatasetError(f"{path}: {name}[{index}] is not an object: {record!r}.")
    categories = _check_categories(lists["categories"], path)
    images = _check_images(lists["images"], path)
    annotations: dict[int, list[dict[str, Any]]] = defaultdict(list)
    _check_ids(lists["annotations"], "annotations", path)
    for annotation in lists["annotations"]:
        where = f"{path}: annotation {annotation['id']}"
        _check_annotation(annotation, images, categories, where)
        annotations[annotation["image_id"]].append(annotation)
    ordered = tuple(images[image_id] for image_id in sorted(images))
    return CocoFile(path, ordered, dict(annotations), categories)


def _check_ids(records: list[dict[str, Any]], name: str, path: Path) -> None:
    seen: set[int] = set()
    for index, record in enumerate(records):
        identifier = get_field(record, "id", f"{path}: {name}[{index}]")
        if not _is_whole(identifier):
            raise DatasetError(
                f"{path}: {name}[{index}]: 'id' is {identifier!r}; expected a whole number."
            )
        if identifier in seen:
            raise DatasetError(f"{path}: {name}[{index}]: the id {identifier} occurs twice.")
        seen.add(identifier)


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _check_categories(records: list[dict[str, Any]], path: Path) -> dict[int, str]:
    _check_ids(records, "categories", path)
    if not records:
        raise DatasetError(f"{path}: 'categories' is empty.")
    names = {r["id"]: get_field(r, "name", f"{path}: category {r['id']}") for r in records}
    return {identifier: names[identifier] for identifier in sorted(names)}


def _check_images(records: list[dict[str, Any]], path: Path) -> dict[int, dict[str, Any]]:
    _check_ids(records, "images", path)
    for record in records:
        where = f"{path}: image {record['id']}"
        file_name = get_field(record, "file_name", where)
        if not isinstance(file_name, str) or not file_name:
            raise DatasetError(f"{where}: 'file_name' is {file_name!r}; expected a path.")
        for side in ("height", "width"):
            value = get_field(record, side, where)
            if not _is_whole(value) or value <= 0:
                raise DatasetError(
                    f"{where}: '{side}' is {value!r}; expected a positive whole number of pixels."
                )
    return {record["id"]: record for record in records}


def _check_annotation(
    annotation: dict[str, Any],
    images: Mapping[int, dict[str, Any]],
    categories: Mapping[int, str],
    where: str,
) -> None:
    image_id = get_field(annotation, "image_id", where)
    if image_id not in images:
        raise DatasetError(f"{where}: 'image_id' is {image_id!r}, which no image of the file has.")
    category_id = get_field(annotation, "category_id", where)
    if category_id not in categories:
        raise DatasetError(
            f"{where}: unknown category id {category_id!r}; the file's categories are {categories}."
        )
    box = get_field(annotation, "bbox", where)
    # The common case is checked without numpy, which would cost a second per 10^5 annotations.
    plain = isinstance(box, list) and len(box) == 4 and all(type(v) in (int, float) for v in box)
    if not (plain and all(map(math.isfinite, box))):
        get_numbers(annotation, "bbox", (4,), where)
    if box[2] < 0 or box[3] < 0:
        raise DatasetError(f"{where}: 'bbox' is {box}; [x, y, width, height] has a negative size.")
    if annotation.get("iscrowd", 0) not in (0, 1):
        raise DatasetError(f"{where}: 'iscrowd' is {annotation['iscrowd']!r}; expected 0 or 1.")
    segmentation = annotation.get("segmentation")
    if segmentation is not None:
        _check_segmentation(segmentation, images[image_id], where)


def _check_segmentation(segmentation: Any, image: Mapping[str, Any], where: str) -> None:
    if isinstance(segmentation, dict):
        size = get_field(segmentation, "size", f"{where}: 'segmentation'")
        expected = [image["height"], image["width"]]
        if size != expected:
            raise DatasetError(
                f"{where}: the size {size} of 'segmentation' differs from the image's {expected}."
            )
        counts = get_field(segmentation, "counts", f"{where}: 'segmentation'")
        if not isinstance(counts, str | list):
            raise DatasetError(f"{where}: 'counts' of 'segmentation' is neither text nor a list.")
        return
    if not isinstance(segmentation, list) or not all(isinstance(p, list) for p in segmentation):
        raise DatasetError(
            f"{where}: 'segmentation' is neither a list of polygons nor a run-length code."
        )
    for polygon in segmentation:
        numbers = all(type(v) in (int, float) for v in polygon)
        if not numbers or not all(map(math.isfinite, polygon)) or len(polygon) % 2:
            raise DatasetError(
                f"{where}: 'segmentation' holds a polygon that is not an even count of finite "
                f"numbers: {polygon[:8]}{'...' if len(polygon) > 8 else ''}."
            )


def check_files(file_names: Iterable[str | os.PathLike[str]], what: str, source: str) -> None:
    """Check that files exist and are not empty; each folder is listed once.

    Args:
        file_names: the files.
        what: what they are, for the message, e.g. ``"image"``.
        source: the file or dataset that names them, for the message.

    Raises:
        DatasetError: names the first bad file and counts the others.
    """
    folders: dict[str, set[str]] = defaultdict(set)
    for file_name in file_names:
        folder, name = os.path.split(os.fspath(file_name))
        folders[folder].add(name)
    bad: list[tuple[str, str]] = []
    for folder, names in folders.items():
        try:
            with os.scandir(folder or ".") as entries:
                present = {entry.name: entry for entry in entries if entry.name in names}
        except OSError:
            present = {}
        for name in sorted(names):
            path = os.path.join(folder, name)
            if name not in present:
                bad.append((path, "does not exist"))
            elif present[name].stat().st_size == 0:
                bad.append((path, "is empty"))
    if bad:
        path, problem = bad[0]
        others = f" ({len(bad) - 1} more like this)" if len(bad) > 1 else ""
        raise DatasetError(f"{source}: the {what} file {path} {problem}{others}.")


def coco_records(
    coco: CocoFile,
    image_root: str | os.PathLike[str],
    extra_annotation_keys: Sequence[str] = (),
) -> list[dict[str, Any]]:
    """detectron2 records of a checked COCO-format file.

    Category ids become 0..K-1 in the order of the ids. Polygons of fewer than three points are
    left out, an annotation without any other polygon likewise (as detectron2 does); both are
    counted and logged. Existence of every image is checked here, not in the first epoch.

    Args:
        coco: the file.
        image_root: folder that the file names are relative to.
        extra_annotation_keys: further fields of the annotations to keep where they are present.

    Returns:
        One dictionary per image with ``file_name``, ``height``, ``width``, ``image_id`` and
        ``annotations`` (``bbox`` with ``bbox_mode`` XYWH_ABS, ``category_id``, ``iscrowd``,
        ``segmentation`` where the file has one).
    """
    contiguous = {identifier: index for index, identifier in enumerate(coco.categories)}
    records, dropped = [], 0
    for image in coco.images:
        annotations = []
        for annotation in coco.annotations.get(image["id"], ()):
            kept: dict[str, Any] = {
                "bbox": annotation["bbox"],
                "bbox_mode": BoxMode.XYWH_ABS,
                "category_id": contiguous[annotation["category_id"]],
                "iscrowd": annotation.get("iscrowd", 0),
            }
            if annotation.get("segmentation"):
                segmentation = usable_segmentation(annotation["segmentation"])
                if segmentation is None:
                    dropped += 1
                    continue
                kept["segmentation"] = segmentation
            kept.update({k: annotation[k] for k in extra_annotation_keys if k in annotation})
            annotations.append(kept)
        records.append(
            {
                "file_name": os.path.join(image_root, image["file_name"]),
                "height": image["height"],
                "width": image["width"],
                "image_id": image["id"],
                "annotations": annotations,
            }
        )
    check_files((record["file_name"] for record in records), "image", str(coco.path))
    if dropped:
        logger.warning("%s: left out %d annotations without a valid polygon.", coco.path, dropped)
    return records


def usable_segmentation(segmentation: Any) -> Any:
    """A segmentation as detectron2 reads it, ``None`` if no polygon has three points or more."""
    if isinstance(segmentation, dict):
        if isinstance(segmentation["counts"], list):
            return mask_util.frPyObjects(segmentation, *segmentation["size"])
        return segmentation
    return [polygon for polygon in segmentation if len(polygon) >= 6] or None
