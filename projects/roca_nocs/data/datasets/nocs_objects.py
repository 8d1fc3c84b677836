"""The objects of one NOCS image, read from its mask, its object list and its poses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ..images import read_png
from ..masks import mask_fields
from .nocs_frames import (
    BACKGROUND,
    MAX_INSTANCES,
    BadSample,
    NocsFrame,
    decode_instances,
    read_meta,
)
from .nocs_models import ModelTable
from .nocs_poses import read_poses


def read_frame_image(
    frame: NocsFrame, suffix: str, decode: Callable[[np.ndarray], np.ndarray]
) -> np.ndarray:
    """One of the images of a frame, e.g. of suffix ``"mask.png"``, decoded.

    Raises:
        BadSample: the file is damaged or of another kind.
    """
    try:
        return decode(read_png(frame.path(suffix)))
    except ValueError as error:
        raise BadSample(f"{frame.stem}_{suffix}: {error}") from error


def frame_objects(
    frame: NocsFrame, models: ModelTable, num_classes: int
) -> tuple[np.ndarray, list[dict[str, Any]]]:
    """Read mask and object list of an image, without the poses.

    Args:
        frame: the image.
        models: extents of the models.
        num_classes: number of classes besides the distractors.

    Returns:
        The id map (H, W) uint8, 255 background, and the objects that belong to a class, by
        ascending instance id.

    Raises:
        BadSample: mask or object list cannot be used; names the file and what is wrong.
        DatasetError: the same of a model's file, which other images may need too.
    """
    mask_file = frame.path("mask.png")
    instances = read_frame_image(frame, "mask.png", decode_instances)
    lines = read_meta(frame.path("meta.txt"), num_classes)
    counts = np.bincount(instances.ravel(), minlength=BACKGROUND + 1)
    if counts[BACKGROUND] == 0:
        raise BadSample(f"{mask_file}: no pixel has the value 255 (background).")
    present = np.flatnonzero(counts[:BACKGROUND]).tolist()
    if len(present) > MAX_INSTANCES:
        raise BadSample(f"{mask_file}: {len(present)} instances; at most {MAX_INSTANCES} exist.")
    unknown = [instance_id for instance_id in present if instance_id not in lines]
    if unknown:
        raise BadSample(
            f"{mask_file}: the instances {unknown} have no line in {frame.path('meta.txt').name}."
        )
    annotations = []
    for instance_id in present:
        line = lines[instance_id]
        if line.class_id == 0:
            continue
        annotations.append(
            {
                "category_id": line.class_id,
                **mask_fields(instances == instance_id),
                "iscrowd": 0,
                "alignment_id": instance_id,
                "model": {"catid_cad": line.catalog_id, "id_cad": line.model_id},
                "extents": models.extents_of(frame, line),
            }
        )
    return instances, annotations


def frame_annotations(frame: NocsFrame, models: ModelTable, num_classes: int) -> dict[str, Any]:
    """Read the objects of an image with their poses.

    Args:
        frame: the image.
        models: extents of the models.
        num_classes: number of classes besides the distractors.

    Returns:
        ``height``, ``width``, ``annotations`` (see :func:`frame_objects`) and ``pose_problem``:
        ``None``, or why the published poses were not used.

    Raises:
        BadSample, DatasetError: see :func:`frame_objects`; the latter also for the poses' files.
    """
    instances, annotations = frame_objects(frame, models, num_classes)
    poses, problem = read_poses(frame, annotations, models)
    for annotation in annotations:
        annotation |= poses.get(annotation["alignment_id"], {})
    height, width = instances.shape
    return {
        "height": height,
        "width": width,
        "annotations": annotations,
        "pose_problem": problem,
    }
