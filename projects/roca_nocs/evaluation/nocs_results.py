"""Result pickles in the format that NOCS and the methods after it publish.

One file per image, ``results_<split>_<folder>_<frame>.pkl``, with ``image_id``, ``image_path``,
``pred_scores``, ``gt_handle_visibility`` and, for ``gt`` and ``pred``, ``<which>_class_ids`` (from
1), ``<which>_bboxes`` (y1, x1, y2, x2), ``<which>_RTs`` (N, 4, 4) = [s R | t] in metres and
``<which>_scales``, the extents that s multiplies.
"""

from __future__ import annotations

import os
import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from roca_nocs.data.coco_json import DatasetError
from roca_nocs.data.datasets.nocs_poses import join_transform, split_transform
from roca_nocs.data.restricted_pickle import load_restricted_pickle

from .collected import Detections, annotated_boxes
from .nocs_metrics import PosedObjects

FAILED = np.diag([-1.0, -1.0, 1.0, 1.0])
"""The published code stores this matrix where it finds no pose."""


def write_results(
    folder: str | os.PathLike[str],
    records: Sequence[Mapping[str, Any]],
    detections: Detections,
    truth: PosedObjects,
) -> None:
    """Write one pickle per image.

    Args:
        folder: is made if it does not exist.
        records: the images.
        detections: numbered by `records`; those without a pose get the published stand-in.
        truth: the annotated objects, numbered by `records`.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    truth_boxes = annotated_boxes(records)["boxes"]
    diagonals, extents = _unit(detections.scales)
    transforms = join_transform(detections.rotations, detections.translations, diagonals)
    transforms[~detections.has_alignment] = FAILED
    truth_diagonals, truth_extents = _unit(truth.sizes)
    truth_transforms = join_transform(truth.rotations, truth.translations, truth_diagonals)
    for image, record in enumerate(records):
        pred, gt = detections.images == image, truth.images == image
        path = record["file_name"].removesuffix("_color.png")
        content = {
            "image_id": record["image_id"],
            "image_path": path,
            "gt_class_ids": truth.categories[gt] + 1,
            "gt_bboxes": _rows_first(truth_boxes[gt]),
            "gt_RTs": truth_transforms[gt],
            "gt_scales": truth_extents[gt],
            "gt_handle_visibility": truth.handle_visible[gt].astype(np.int64),
            "pred_class_ids": detections.categories[pred] + 1,
            "pred_bboxes": _rows_first(detections.boxes[pred]),
            "pred_RTs": transforms[pred],
            "pred_scores": detections.scores[pred],
            "pred_scales": extents[pred],
        }
        name = f"results_{'_'.join(Path(path).parts[-3:])}.pkl"
        (folder / name).write_bytes(pickle.dumps(content, protocol=4))


def read_results(folder: str | os.PathLike[str]) -> tuple[PosedObjects, PosedObjects, list[str]]:
    """Read a folder of result pickles, of any method.

    Args:
        folder: with ``results_*.pkl``.

    Returns:
        Predictions, annotations, and the names of the files, by which both number their images. A
        prediction with the stand-in of the published code has no pose.

    Raises:
        DatasetError: there are no such files, or a field is missing or of a wrong length.
    """
    paths = sorted(Path(folder).glob("results_*.pkl"))
    if not paths:
        raise DatasetError(f"{folder} holds no files results_*.pkl.")
    contents = [_checked(path) for path in paths]
    pred, gt = (_joined_objects(contents, which) for which in ("pred", "gt"))
    return pred, gt, [path.name for path in paths]


def _checked(path: Path) -> dict[str, np.ndarray]:
    content = load_restricted_pickle(path)
    if not isinstance(content, Mapping):
        raise DatasetError(f"{path} holds a {type(content).__name__}, not a dictionary.")
    arrays = {}
    for which in ("pred", "gt"):
        shapes = {"class_ids": (), "RTs": (4, 4), "scales": (3,)}
        if which == "pred":
            shapes["scores"] = ()
        elif "gt_handle_visibility" in content:
            shapes["handle_visibility"] = ()
        for name, shape in shapes.items():
            key = f"{which}_{name}"
            try:
                values = np.asarray(content[key], np.float64).reshape(-1, *shape)
            except (KeyError, TypeError, ValueError) as error:
                raise DatasetError(
                    f"{path}: '{key}' is missing or has another shape than (N, *{shape}) ({error})."
                ) from error
            arrays[key] = values
            if len(values) != len(arrays[f"{which}_class_ids"]):
                raise DatasetError(
                    f"{path}: {len(values)} values of '{key}' for "
                    f"{len(arrays[f'{which}_class_ids'])} objects."
                )
    arrays.setdefault("gt_handle_visibility", np.ones(len(arrays["gt_class_ids"])))
    return arrays


def _joined_objects(contents: Sequence[Mapping[str, np.ndarray]], which: str) -> PosedObjects:
    def joined(name: str) -> np.ndarray:
        return np.concatenate([content[f"{which}_{name}"] for content in contents])

    counts = [len(content[f"{which}_class_ids"]) for content in contents]
    transforms = joined("RTs")
    rotations, translations, scales = split_transform(transforms)
    failed = (transforms == FAILED).all(axis=(1, 2))
    ones = np.ones(len(transforms))
    return PosedObjects(
        images=np.repeat(np.arange(len(contents)), counts),
        categories=joined("class_ids").astype(np.int64) - 1,
        scores=joined("scores") if which == "pred" else ones,
        rotations=rotations,
        translations=translations,
        sizes=joined("scales") * scales[:, None],
        posed=np.isfinite(scales) & (scales > 0) & ~(failed & (which == "pred")),
        handle_visible=(joined("handle_visibility") if which == "gt" else ones).astype(bool),
    )


def _rows_first(boxes: np.ndarray) -> np.ndarray:
    """XYXY to (y1, x1, y2, x2), whole pixels."""
    return np.round(boxes[:, [1, 0, 3, 2]]).astype(np.int32)


def _unit(sizes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Diagonals (N,) and extents (N, 3) with unit diagonal of sizes (N, 3)."""
    diagonals = np.linalg.norm(sizes, axis=1)
    return diagonals, sizes / np.where(diagonals > 0, diagonals, 1.0)[:, None]
