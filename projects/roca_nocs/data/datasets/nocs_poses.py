"""Where the poses of a NOCS image come from.

* ``<frame>_pose.npz``, exact, in the embedded data;
* ``<frame>_label.pkl`` in the format of Shape Prior Deformation, with re-centred mugs, which is
  undone here; ``datasets/prepare_nocs.py`` writes such files;
* ``gts/<subset>/results_<subset>_<folder>_<frame>.pkl``, published for validation and test.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.optimize import linear_sum_assignment
from scipy.spatial.transform import Rotation

from ..categories import NOCS_SYNSETS
from ..coco_json import DatasetError
from ..restricted_pickle import load_restricted_pickle
from .nocs_frames import NocsFrame
from .nocs_models import ModelTable

MUG_CLASS_ID = list(NOCS_SYNSETS).index("mug") + 1
MAX_BOX_DIFFERENCE = 5
"""Sum of the differences of four box sides, pixels, up to which two boxes are the same object."""

Poses = dict[int, dict[str, Any]]
"""Instance id -> ``q``, ``t``, ``s``, ``handle_visible``."""


def split_transform(transforms: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rotations (N, 3, 3), translations (N, 3) and scales (N,) of [s R | t] (N, 4, 4).

    The scale is the cube root of the determinant. Where it is not positive, the matrix is no pose
    and its linear part is returned as it is.
    """
    transforms = np.asarray(transforms, np.float64)
    linear = transforms[:, :3, :3]
    scales = np.cbrt(np.linalg.det(linear))
    divisors = np.where(scales > 0, scales, 1.0)
    return linear / divisors[:, None, None], transforms[:, :3, 3], scales


def join_transform(
    rotations: np.ndarray, translations: np.ndarray, scales: np.ndarray
) -> np.ndarray:
    """[s R | t] (N, 4, 4) of rotations (N, 3, 3), translations (N, 3) and scales (N,)."""
    transforms = np.zeros((len(rotations), 4, 4))
    transforms[:, :3, :3] = rotations * scales[:, None, None]
    transforms[:, :3, 3] = translations
    transforms[:, 3, 3] = 1
    return transforms


def match_objects(
    class_ids: np.ndarray, boxes: np.ndarray, other_ids: np.ndarray, other_boxes: np.ndarray
) -> np.ndarray:
    """Find the same objects in another list by class and 2D box.

    Args:
        class_ids: (N,).
        boxes: (N, 4) pixels, in the same order of sides as the others.
        other_ids: (M,).
        other_boxes: (M, 4).

    Returns:
        (N,) int64 row of the other list, -1 = none; no row occurs twice.
    """
    partners = np.full(len(class_ids), -1, np.int64)
    if not len(class_ids) or not len(other_ids):
        return partners
    costs = np.abs(boxes[:, None] - other_boxes).sum(axis=-1)
    allowed = (class_ids[:, None] == other_ids) & (costs <= MAX_BOX_DIFFERENCE)
    rows, columns = linear_sum_assignment(np.where(allowed, costs, 1e6))
    found = allowed[rows, columns]
    partners[rows[found]] = columns[found]
    return partners


def read_poses(
    frame: NocsFrame, annotations: Sequence[Mapping[str, Any]], models: ModelTable
) -> tuple[Poses, str | None]:
    """Poses of the objects of an image.

    Args:
        frame: the image.
        annotations: its objects, by ascending instance id: ``alignment_id``, ``category_id`` (from
            1), ``bbox`` (XYWH), ``model``.
        models: for the re-centring of mugs.

    Returns:
        The poses, and what is wrong if the published ones cannot be assigned to the objects.

    Raises:
        DatasetError: a file is damaged or a pose is none.
    """
    exact = frame.path("pose.npz")
    if exact.is_file():
        return exact_poses(exact, annotations), None
    labels = _label_poses(frame, annotations, models)
    if len(labels) == len(annotations) or not frame.gts_file.is_file():
        return labels, None
    published = published_poses(frame.gts_file, annotations)
    if published is None:
        problem = f"{frame.gts_file}: its poses do not belong to the objects of the mask"
        return labels, problem
    return published | labels, None


def published_poses(path: Path, annotations: Sequence[Mapping[str, Any]]) -> Poses | None:
    """Poses of a published pickle; ``None`` where they cannot be assigned to the objects.

    They are assigned by class and box where the file has both, otherwise by order.

    Args:
        path: with ``gt_RTs`` (N, 4, 4), optionally ``handle_visibility`` or
            ``gt_handle_visibility`` (default: visible), ``gt_class_ids``, ``gt_bboxes``.
        annotations: see :func:`read_poses`.

    Raises:
        DatasetError: the file lacks poses.
    """
    data = load_restricted_pickle(path)
    if not isinstance(data, Mapping) or "gt_RTs" not in data:
        raise DatasetError(f"{path} has no field 'gt_RTs'.")
    matrices = np.asarray(data["gt_RTs"], dtype=np.float64).reshape(-1, 4, 4)
    # The files of real/test lack it; the official evaluation then takes every handle as seen.
    visible = data.get("gt_handle_visibility", data.get("handle_visibility"))
    visible = np.ones(len(matrices)) if visible is None else np.asarray(visible).reshape(-1)
    if len(visible) != len(matrices):
        return None
    if "gt_class_ids" in data and "gt_bboxes" in data:
        boxes = np.array([each["bbox"] for each in annotations], np.float64).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        rows = match_objects(
            np.array([each["category_id"] for each in annotations]),
            boxes[:, [1, 0, 3, 2]],
            np.asarray(data["gt_class_ids"]).reshape(-1),
            np.asarray(data["gt_bboxes"], np.float64).reshape(-1, 4),
        )
    elif len(matrices) == len(annotations):
        rows = np.arange(len(annotations))
    else:
        return None
    if (rows < 0).any():
        return None
    rotations, translations, scales = split_transform(matrices[rows])
    return {
        each["alignment_id"]: pose_fields(*pose, bool(flag), path)
        for each, *pose, flag in zip(
            annotations, rotations, translations, scales, visible[rows], strict=True
        )
    }


def exact_poses(path: Path, annotations: Sequence[Mapping[str, Any]]) -> Poses:
    """Poses of a ``_pose.npz``; `annotations` as for :func:`read_poses`."""
    with np.load(path, allow_pickle=False) as arrays:
        stored = {name: arrays[name] for name in arrays.files}
    rows = {instance_id: row for row, instance_id in enumerate(stored["instance_ids"].tolist())}
    poses = {}
    for each in annotations:
        row = rows[each["alignment_id"]]
        poses[each["alignment_id"]] = pose_fields(
            stored["rotations"][row],
            stored["translations"][row],
            float(stored["scales"][row]),
            bool(stored["handle_visibility"][row]),
            path,
        )
    return poses


def _label_poses(
    frame: NocsFrame, annotations: Sequence[Mapping[str, Any]], models: ModelTable
) -> Poses:
    path = frame.path("label.pkl")
    if not path.is_file():
        return {}
    data = load_restricted_pickle(path)
    try:
        rows = {int(instance_id): row for row, instance_id in enumerate(data["instance_ids"])}
        count = len(rows)
        rotations = np.asarray(data["rotations"], np.float64).reshape(count, 3, 3)
        translations = np.asarray(data["translations"], np.float64).reshape(count, 3)
        scales = np.asarray(data["scales"], np.float64).reshape(count)
        visible = np.asarray(data.get("handle_visibility", np.ones(count))).reshape(count)
    except (KeyError, TypeError, ValueError) as error:
        raise DatasetError(f"{path} is no label file ({error!r}).") from error
    poses = {}
    for each in annotations:
        row = rows.get(each["alignment_id"])
        if row is None:
            continue
        translation, scale = translations[row], float(scales[row])
        if each["category_id"] == MUG_CLASS_ID:
            recentring = models.recentring_of(frame.root, each["model"]["id_cad"])
            translation, scale = recentring.original_pose(rotations[row], translation, scale)
        fields = pose_fields(rotations[row], translation, scale, bool(visible[row]), path)
        poses[each["alignment_id"]] = fields | {"labelled": True}
    return poses


def pose_fields(
    rotation: np.ndarray, translation: np.ndarray, scale: float, handle_visible: bool, path: Path
) -> dict[str, Any]:
    """A pose as the fields of an annotation.

    Raises:
        DatasetError: it is not a rotation with a positive scale; names the file.
    """
    finite = np.isfinite(rotation).all() and np.isfinite(translation).all()
    if not finite or not scale > 0 or np.linalg.det(rotation) <= 0:
        raise DatasetError(
            f"{path}: a pose is not a rotation with a positive scale (scale {scale:.3g})."
        )
    x, y, z, w = Rotation.from_matrix(rotation).as_quat(canonical=True).tolist()
    return {
        "q": [w, x, y, z],
        "t": np.asarray(translation).tolist(),
        "s": [float(scale)] * 3,
        "handle_visible": handle_visible,
    }
