"""From the selected outputs of the cube head to posed boxes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch

from roca_nocs.geometry.box3d_codec import Box3DCodec
from roca_nocs.geometry.box3d_overlap import elementwise_overlap
from roca_nocs.geometry.cuboids import (
    alpha_from_rotation_y,
    bev_boxes,
    box_corners,
    egocentric_rotation,
    rotation_from_6d,
    rotation_from_yaw,
    rotation_y_from_alpha,
    yaw_from_rotation,
)
from roca_nocs.geometry.projection import back_project_points
from roca_nocs.geometry.yaw_bins import YawBins

__all__ = ["CameraBoxes", "decode_boxes", "suppress_duplicates"]


class CameraBoxes(NamedTuple):
    """R boxes in the camera frame, metres and radians.

    Attributes:
        center_2d: (R, 2), projected centre, pixels of the network's image.
        depth: (R,), its projective depth.
        center: (R, 3).
        dimensions: (R, 3), width, height, length.
        rotation: (R, 3, 3), box axes to the camera.
        rotation_y, alpha: (R,), in [-pi, pi).
    """

    center_2d: torch.Tensor
    depth: torch.Tensor
    center: torch.Tensor
    dimensions: torch.Tensor
    rotation: torch.Tensor
    rotation_y: torch.Tensor
    alpha: torch.Tensor

    def corners(self) -> torch.Tensor:
        """(R, 8, 3), in the order of ``geometry.cuboids.box_corners``."""
        return box_corners(self.center, self.dimensions, self.rotation)


def decode_boxes(
    selected: Mapping[str, torch.Tensor],
    reference: torch.Tensor,
    classes: torch.Tensor,
    projection: torch.Tensor,
    codec: Box3DCodec,
    yaw_bins: YawBins,
) -> CameraBoxes:
    """Boxes of the selected outputs of R regions.

    Args:
        selected: of ``selection.select_class_from_prediction``: ``bbox3d`` (R, 6), and ``pose6d``
            (R, 6), allocentric, or ``yaw_bin`` and ``yaw_resi`` (R, 1).
        reference: (R, 4) XYXY, boxes that the regions were pooled from.
        classes: (R,) int64 in [0, C).
        projection: (R, 3, 4), to pixels of the network's image.
        codec, yaw_bins: of the head.

    Returns:
        Boxes; gradients do not pass from a rotation to the centre of its ray.
    """
    flat = codec.decode(selected["bbox3d"], reference, classes, projection[:, 1, 1])
    center = back_project_points(flat.center_2d[:, None], flat.depth[:, None], projection)
    center = center.squeeze(1)
    if "pose6d" in selected:
        rotation = egocentric_rotation(
            rotation_from_6d(selected["pose6d"]), flat.center_2d.detach(), projection[:, :, :3]
        )
        rotation_y = yaw_from_rotation(rotation)
        alpha = alpha_from_rotation_y(rotation_y, center)
    else:
        alpha = yaw_bins.decode(selected["yaw_bin"], selected["yaw_resi"]).squeeze(1)
        rotation_y = rotation_y_from_alpha(alpha, center.detach())
        rotation = rotation_from_yaw(rotation_y)
    return CameraBoxes(
        flat.center_2d, flat.depth, center, flat.dimensions, rotation, rotation_y, alpha
    )


def suppress_duplicates(
    boxes: CameraBoxes, groups: torch.Tensor, scores: torch.Tensor, threshold: float
) -> torch.Tensor:
    """Non-maximum suppression of boxes by their exact IoU in the bird's-eye view.

    Each round decides all boxes that no undecided better one could drop, in all groups at once.

    Args:
        boxes: R, of any number of images.
        groups: (R,) int64; boxes of different groups, say images and classes, leave each other
            alone.
        scores: (R,); of equal ones the first row is the better one.
        threshold: IoU above which the box with the smaller score is dropped.

    Returns:
        (R,) bool, the boxes that stay.
    """
    ranks = scores.argsort(descending=True, stable=True).argsort()
    better, worse = ((groups[:, None] == groups) & (ranks[:, None] < ranks)).nonzero(as_tuple=True)
    x, _, z = boxes.center.unbind(dim=1)
    width, _, length = boxes.dimensions.unbind(dim=1)
    rectangles = torch.stack([x, z, length, width, boxes.rotation_y], dim=1).double()
    _, iou = elementwise_overlap(bev_boxes(rectangles[better]), bev_boxes(rectangles[worse]))
    rivals = iou > threshold
    better, worse = better[rivals], worse[rivals]
    undecided = torch.ones_like(groups, dtype=torch.bool)
    kept = torch.zeros_like(undecided)
    while undecided.any():
        waiting = torch.zeros_like(undecided)
        waiting[worse] = True
        kept |= undecided & ~waiting
        undecided &= waiting
        undecided[worse[kept[better]]] = False
        alive = undecided[better] & undecided[worse]
        better, worse = better[alive], worse[alive]
    return kept
