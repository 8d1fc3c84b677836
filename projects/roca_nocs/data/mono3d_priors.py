"""Usual sizes and depths of the objects of each class: what 3D boxes are encoded against."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from detectron2.data import MetadataCatalog, get_detection_dataset_dicts
from detectron2.structures import BoxMode

from roca_nocs.data.coco_json import DatasetError
from roca_nocs.data.mono3d_mapper import record_projection
from roca_nocs.geometry.box3d_codec import (
    VIRTUAL_FOCAL,
    BoxPriors,
    estimate_priors,
    virtual_depth,
)
from roca_nocs.geometry.projection import project_points

__all__ = ["dataset_priors"]


def dataset_priors(
    names: str | Sequence[str],
    *,
    shortest_side: float | None = None,
    virtual_focal: float | None = VIRTUAL_FOCAL,
    num_clusters: int = 1,
) -> BoxPriors:
    """Statistics of the annotated 3D boxes in front of the camera.

    Args:
        names: one registered dataset or several with the same classes, in the layouts of
            ``Mono3DMapper``.
        shortest_side: pixels to which the shorter side of the images is brought for the network,
            the middle of the range of an augmentation; None leaves the images as they are.
        virtual_focal: of the codec.
        num_clusters: of 2D box sizes per class, for ``z_type="clusters"``.

    Returns:
        float32 priors, see ``geometry.box3d_codec.estimate_priors``.

    Raises:
        DatasetError: there is no annotated 3D box.
        ValueError: a record without a camera; names the file.
    """
    first = names if isinstance(names, str) else names[0]
    classes = MetadataCatalog.get(first).thing_classes
    categories, dimensions, depths, diagonals, focals = [], [], [], [], []
    for record in get_detection_dataset_dicts(names, filter_empty=False):
        annotations = [x for x in record["annotations"] if x["has3d"] and not x.get("iscrowd", 0)]
        if not annotations:
            continue
        projection = record_projection(record, required=True)
        assert projection is not None
        scale = 1.0
        if shortest_side is not None:
            scale = shortest_side / min(record["height"], record["width"])
        centers = np.asarray([each["center"] for each in annotations], dtype=np.float64)
        depths.append(project_points(torch.from_numpy(centers), projection)[1])
        for each in annotations:
            box = BoxMode.convert(each["bbox"], each["bbox_mode"], BoxMode.XYXY_ABS)
            categories.append(each["category_id"])
            dimensions.append(each["dimensions"])
            diagonals.append(scale * math.hypot(box[2] - box[0], box[3] - box[1]))
            focals.append(scale * float(projection[1, 1]))
    if not categories:
        raise DatasetError(f"{names}: no 3D box is annotated, so that priors cannot be computed")
    sizes = torch.as_tensor(np.asarray(dimensions, dtype=np.float64))
    depth = torch.cat(depths)
    used = (depth > 0) & (sizes > 0).all(dim=1)
    if virtual_focal is not None:
        depth = virtual_depth(depth, torch.tensor(focals, dtype=torch.float64), virtual_focal)
    return estimate_priors(
        torch.tensor(categories)[used],
        sizes[used],
        depth[used],
        torch.tensor(diagonals, dtype=torch.float64)[used],
        len(classes),
        num_clusters,
    )
