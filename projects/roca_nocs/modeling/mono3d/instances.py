"""Ground truth of detectron2's instances as the padded tensors of monocular 3D boxes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from detectron2.structures import Instances

from roca_nocs.modeling.mono3d.padding import pad_ground_truth

__all__ = ["pad_instances"]


def pad_instances(instances: Sequence[Instances]) -> dict[str, torch.Tensor]:
    """Ground truth of a batch, padded to the number of objects of its fullest image.

    Args:
        instances: of each image, with the fields of ``data.mono3d_mapper.Mono3DMapper``.

    Returns:
        See ``padding.pad_ground_truth``.

    Raises:
        AttributeError: a field is missing.
    """
    return pad_ground_truth([_fields(each) for each in instances])


def _fields(instances: Instances) -> dict[str, torch.Tensor]:
    depths = instances.gt_depths[:, None]
    return {
        "bbox2d": instances.gt_boxes.tensor,
        "bbox3d": torch.cat([instances.gt_center_2d, depths, instances.gt_dimensions], dim=1),
        "rotation": instances.gt_rotations,
        "rotation_y": instances.gt_rotation_y[:, None],
        "alpha": instances.gt_alpha[:, None],
        "category": instances.gt_classes[:, None],
        "has3d": instances.gt_has3d[:, None],
    }
