"""Result files of monocular 3D boxes: KITTI's label format with scores, and Omni3D's JSON."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from roca_nocs.data.coco_json import DatasetError, get_field, get_numbers, read_json
from roca_nocs.data.datasets.kitti_files import label_text, read_labels, result_labels
from roca_nocs.geometry.cuboids import box_corners
from roca_nocs.geometry.projection import project_points

from .boxes3d import Boxes3D, headings
from .kitti_overlaps import KittiObjects

Records = Sequence[Mapping[str, Any]]


def kitti_objects(pred: Boxes3D, classes: Sequence[str]) -> KittiObjects:
    """Detections as objects of the benchmark; truncation and occlusion are unknown."""
    unknown = np.full(len(pred), -1)
    return KittiObjects(
        images=pred.images,
        types=np.array([name.lower() for name in classes])[pred.categories],
        boxes=pred.boxes,
        scores=pred.scores,
        centers=pred.centers,
        dimensions=pred.dimensions,
        rotation_y=pred.rotation_y,
        alphas=pred.alphas,
        truncation=unknown.astype(np.float64),
        occlusion=unknown,
    )


def write_kitti_results(
    folder: str | os.PathLike[str], records: Records, pred: Boxes3D, classes: Sequence[str]
) -> None:
    """Write one file per image, named after it, also where nothing was detected.

    Args:
        folder: is made if it does not exist.
        records: the images.
        pred: detections, numbered by `records`.
        classes: names as they are to be written.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    order = np.argsort(pred.images, kind="stable")
    starts = np.searchsorted(pred.images[order], np.arange(len(records) + 1))
    for image, record in enumerate(records):
        own = pred[order[starts[image] : starts[image + 1]]]
        labels = result_labels(
            types=[classes[category] for category in own.categories],
            boxes=own.boxes,
            scores=own.scores,
            centers=own.centers,
            dimensions=own.dimensions,
            rotation_y=own.rotation_y,
            alpha=own.alphas,
        )
        path = folder / f"{Path(record['file_name']).stem}.txt"
        path.write_text(label_text(labels), encoding="utf-8")


def read_kitti_objects(paths: Sequence[str | os.PathLike[str]]) -> KittiObjects:
    """Read label or result files, which number the images in this order.

    Raises:
        DatasetError: a missing or damaged file; names the file, the line and the column.
    """
    files = [read_labels(path) for path in paths]
    counts = [len(file) for file in files]

    def together(name: str, *shape: int) -> np.ndarray:
        return np.concatenate([np.zeros((0, *shape)), *(getattr(file, name) for file in files)])

    types = [name.lower() for file in files for name in file.types]
    return KittiObjects(
        images=np.repeat(np.arange(len(files)), counts),
        types=np.array(types, dtype=np.str_),
        boxes=together("boxes", 4),
        scores=together("scores"),
        centers=together("centers", 3),
        dimensions=together("dimensions", 3),
        rotation_y=together("rotation_y"),
        alphas=together("alpha"),
        truncation=together("truncation"),
        occlusion=together("occlusion").astype(np.int64),
    )


def write_omni3d_results(
    path: str | os.PathLike[str], records: Records, pred: Boxes3D, contiguous_ids: Mapping[int, int]
) -> None:
    """Write the detections as a JSON list.

    Args:
        path: of the file; its folder has to exist.
        records: the images.
        pred: detections, numbered by `records`.
        contiguous_ids: category id of the dataset -> class.

    Raises:
        ValueError: a detection of a class without an id.
    """
    category_ids = {category: identifier for identifier, category in contiguous_ids.items()}
    if unknown := set(pred.categories.tolist()) - category_ids.keys():
        raise ValueError(
            f"{path}: detections of the classes {sorted(unknown)}, for which the dataset has no "
            f"id; its ids are {dict(contiguous_ids)}"
        )
    corners = box_corners(
        *(torch.from_numpy(part) for part in (pred.centers, pred.dimensions, pred.rotations))
    )
    projections = np.array([record["projection"] for record in records], np.float64)
    projections = torch.from_numpy(projections.reshape(-1, 3, 4)[pred.images])
    centers = torch.from_numpy(pred.centers)[:, None]
    center_2d = project_points(centers, projections)[0][:, 0]
    # JSON has no NaN: a centre behind the camera has no pixel.
    visible = center_2d.isfinite().all(dim=1).tolist()
    sizes = pred.boxes[:, 2:] - pred.boxes[:, :2]
    columns = {
        "image_id": [records[image]["image_id"] for image in pred.images.tolist()],
        "category_id": [category_ids[category] for category in pred.categories.tolist()],
        "bbox": np.concatenate([pred.boxes[:, :2], sizes], axis=1).tolist(),
        "score": pred.scores.tolist(),
        "depth": corners[..., 2].mean(dim=1).tolist(),
        "bbox3D": corners.tolist(),
        "center_cam": pred.centers.tolist(),
        "center_2D": [
            pixel if seen else None for pixel, seen in zip(center_2d.tolist(), visible, strict=True)
        ],
        "dimensions": pred.dimensions.tolist(),
        "pose": pred.rotations.tolist(),
    }
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    Path(path).write_text(json.dumps(rows, allow_nan=False), encoding="utf-8")


def read_omni3d_results(
    path: str | os.PathLike[str], records: Records, contiguous_ids: Mapping[int, int]
) -> Boxes3D:
    """Read detections of any method, numbered by `records`.

    Args:
        path: of the file.
        records: the images.
        contiguous_ids: category id of the dataset -> class.

    Raises:
        DatasetError: a missing or damaged field, or an image or a category that does not exist.
    """
    rows = read_json(path)
    if not isinstance(rows, list):
        raise DatasetError(f"{path} holds a {type(rows).__name__}, not a list of detections.")
    numbers = {record["image_id"]: number for number, record in enumerate(records)}
    shapes: dict[str, tuple[int, ...]] = {
        "bbox": (4,),
        "score": (),
        "center_cam": (3,),
        "dimensions": (3,),
        "pose": (3, 3),
    }
    found: dict[str, list[Any]] = {name: [] for name in ("image_id", "category_id", *shapes)}
    for index, row in enumerate(rows):
        where = f"{path}: detection {index}"
        for name, known in (("image_id", numbers), ("category_id", contiguous_ids)):
            value = get_field(row, name, where)
            if value not in known:
                raise DatasetError(f"{where}: the dataset has no {name} {value!r}.")
            found[name].append(known[value])
        for name, shape in shapes.items():
            found[name].append(get_numbers(row, name, shape, where))
    arrays = {
        name: np.array(found[name], np.float64).reshape(-1, *shape)
        for name, shape in shapes.items()
    }
    corner, size = np.split(arrays["bbox"], 2, axis=1)
    return Boxes3D(
        images=np.array(found["image_id"], np.int64),
        categories=np.array(found["category_id"], np.int64),
        boxes=np.concatenate([corner, corner + size], axis=1),
        scores=arrays["score"],
        centers=arrays["center_cam"],
        dimensions=arrays["dimensions"],
        rotations=arrays["pose"],
        **headings(arrays["pose"], arrays["center_cam"]),
    )
