"""3D boxes of objects as what is drawn of them: corners, edges, axes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from roca_nocs.geometry.cuboids import BOX_EDGES, box_corners
from roca_nocs.utils.visualize import instance_colors
from roca_nocs.visualization.image_result import ImageResult

# Diagonals of the face at the end of a box's x axis, as corners of `cuboids.box_corners`.
_FRONT_CROSS = ((1, 6), (2, 5))


@dataclass(frozen=True)
class PosedBox:
    """A box in front of the camera, ready to be drawn.

    Attributes:
        pose: (4, 4), rigid, box axes to camera, metres.
        extents: (3,), metres.
        has_front: see ``PosedBoxes``.
        color: (3,) uint8 RGB, that of the object's 2D box.
        row: the object in its ``ImageResult``.
        label: class name.
    """

    pose: np.ndarray
    extents: np.ndarray
    has_front: bool
    color: np.ndarray
    row: int
    label: str

    def corners(self) -> np.ndarray:
        """(8, 3), camera frame, in the order of ``cuboids.box_corners``."""
        center, rotation, extents = (
            torch.from_numpy(part) for part in (self.pose[:3, 3], self.pose[:3, :3], self.extents)
        )
        return box_corners(center, extents.flip(-1), rotation).numpy()

    def edges(self) -> np.ndarray:
        """(E, 2, 3) segments of the camera frame: the edges, and a cross on the front."""
        pairs = [*BOX_EDGES, *(_FRONT_CROSS if self.has_front else ())]
        return self.corners()[np.array(pairs)]

    def axes(self) -> np.ndarray:
        """(3, 2, 3) from the centre to the middle of the faces at the ends of x, y and z."""
        center = self.pose[:3, 3]
        ends = center + 0.5 * (self.pose[:3, :3] * self.extents).T
        return np.stack([np.broadcast_to(center, (3, 3)), ends], axis=1)


def pose_boxes(result: ImageResult, names: Sequence[str]) -> list[PosedBox]:
    """The boxes of all objects that have one."""
    boxes = result.boxes3d
    if boxes is None:
        return []
    poses = np.tile(np.eye(4), (len(result), 1, 1))
    poses[:, :3, :3], poses[:, :3, 3] = boxes.rotations, boxes.centers
    colors = instance_colors(len(result))
    return [
        PosedBox(
            poses[row],
            boxes.extents[row],
            boxes.has_front,
            colors[row],
            row,
            names[result.classes[row]],
        )
        for row in np.flatnonzero(boxes.valid).tolist()
    ]
