"""Annotations of 3D boxes, the same for all datasets of single images with boxes in space.

Object axes: length along x, height along y, width along z; the camera has x right, y down, z
forward, in metres.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from detectron2.structures import BoxMode


def box3d_annotation(
    *,
    box: np.ndarray,
    category_id: int,
    center: np.ndarray,
    dimensions: np.ndarray,
    rotation: np.ndarray,
    truncation: float,
    occlusion: int,
    annotation_id: int,
    has3d: bool = True,
) -> dict[str, Any]:
    """An object of a record.

    Args:
        box: (4,) XYXY, pixels.
        category_id: contiguous, from 0.
        center: (3,) geometric centre.
        dimensions: (3,) width, height, length.
        rotation: (3, 3) object to camera.
        truncation: share outside the image; -1 = unknown.
        occlusion: 0 (none) to 2 (most); 3 or -1 = unknown.
        annotation_id: in its file.
        has3d: whether the box in space can be used.

    Returns:
        The arguments as plain numbers, ``bbox_mode``, ``iscrowd`` 0, and the angles
        ``rotation_y``, of the length axis about the camera's y axis, and ``alpha``, the same seen
        along the ray to the centre, both in [-pi, pi). The angle is computed, for stored ones may
        be rounded.
    """
    rotation_y = heading(rotation)
    return {
        "bbox": [float(value) for value in box],
        "bbox_mode": BoxMode.XYXY_ABS,
        "category_id": int(category_id),
        "iscrowd": 0,
        "center": [float(value) for value in center],
        "dimensions": [float(value) for value in dimensions],
        "rotation": np.asarray(rotation, dtype=np.float64).tolist(),
        "rotation_y": rotation_y,
        "alpha": wrap_angle(rotation_y - math.atan2(center[0], center[2])),
        "has3d": bool(has3d),
        "truncation": float(truncation),
        "occlusion": int(occlusion),
        "annotation_id": int(annotation_id),
    }


def heading(rotation: np.ndarray) -> float:
    """Angle of the length axis about the camera's y axis in [-pi, pi): 0 along +x, -pi/2 along
    +z."""
    return wrap_angle(math.atan2(-rotation[2][0], rotation[0][0]))


def wrap_angle(angle: float) -> float:
    """The same angle in [-pi, pi)."""
    wrapped = (angle + math.pi) % (2.0 * math.pi) - math.pi
    # Rounding can lift the remainder of a tiny negative number to the full turn.
    return -math.pi if wrapped >= math.pi else wrapped
