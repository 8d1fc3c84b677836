"""Cameras with a 3 x 4 projection: boxes to pixels and back, and how both follow the image.

Camera frame: x right, y down, z forward, metres. A projection P (..., 3, 4) maps (X, Y, Z, 1) to
d (u, v, 1); the projective depth d is Z + P[2, 3] for the usual last row. Its fourth column is kept
as given (KITTI's is not zero). Pixels are the coordinates of boxes: the image spans [0, width] and
[0, height], and resizing scales all coordinates alike. Functions are batched over leading
dimensions and keep the dtype of their input.
"""

from __future__ import annotations

import math

import torch

from roca_nocs.geometry.cuboids import BOX_EDGES
from roca_nocs.geometry.yaw_bins import wrap_angle

NEAR = 0.1
"""Projective depth in metres, from which on points count as visible in :func:`project_box`."""

# Camera z up to which Omni3D's projection moves a corner to a corner of the image.
_OMNI3D_NEAR = 0.2


def projection_from_intrinsics(intrinsics: torch.Tensor) -> torch.Tensor:
    """Projections (..., 3, 4) of intrinsics (..., 3, 3), with a fourth column of zeros."""
    return torch.cat([intrinsics, torch.zeros_like(intrinsics[..., :1])], dim=-1)


def project_points(
    points: torch.Tensor, projection: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Pixels and projective depth of points.

    Args:
        points: (..., P, 3), metres.
        projection: (..., 3, 4).

    Returns:
        pixels: (..., P, 2), (u, v); NaN where the depth is not positive.
        depth: (..., P), metres.
    """
    image = _homogeneous(points, projection)
    depth = image[..., 2]
    visible = depth > 0
    pixels = image[..., :2] / torch.where(visible, depth, 1.0)[..., None]
    return torch.where(visible[..., None], pixels, math.nan), depth


def back_project_points(
    pixels: torch.Tensor, depth: torch.Tensor, projection: torch.Tensor
) -> torch.Tensor:
    """Camera-frame points of pixels: solves K X = d (u, v, 1) - P[:, 3] with K = P[:, :3].

    Args:
        pixels: (..., P, 2), (u, v).
        depth: (..., P), projective, metres.
        projection: (..., 3, 4); K is upper triangular.

    Returns:
        (..., P, 3), metres.
    """
    ones = torch.ones_like(depth)[..., None]
    right = depth[..., None] * torch.cat([pixels, ones], dim=-1) - projection[..., None, :, 3]
    x, y, z = right.unbind(dim=-1)
    # By back substitution: solvers have no half precision, and may use TF32 on a GPU.
    k = projection[..., None, :, :3]
    z = z / k[..., 2, 2]
    y = (y - k[..., 1, 2] * z) / k[..., 1, 1]
    x = (x - k[..., 0, 1] * y - k[..., 0, 2] * z) / k[..., 0, 0]
    return torch.stack([x, y, z], dim=-1)


def project_box(
    corners: torch.Tensor, projection: torch.Tensor, near: float = NEAR
) -> torch.Tensor:
    """Box around the part of 3D boxes that lies beyond a near plane.

    Args:
        corners: (..., 8, 3) in the order of ``cuboids.box_corners``, metres.
        projection: (..., 3, 4).
        near: projective depth of the plane, metres.

    Returns:
        (..., 4) XYXY pixels, not clipped to the image; NaN for boxes wholly before the plane.
    """
    image = _homogeneous(corners, projection)
    start, end = image[..., [[a for a, _ in BOX_EDGES], [b for _, b in BOX_EDGES]], :].unbind(-3)
    # Where the edges cross the plane; those that do not are left out below.
    length = end[..., 2] - start[..., 2]
    crosses = (start[..., 2] >= near) != (end[..., 2] >= near)
    share = (near - start[..., 2]) / torch.where(crosses, length, 1.0)
    crossing = start + share[..., None] * (end - start)
    points = torch.cat([image, crossing], dim=-2)
    used = torch.cat([image[..., 2] >= near, crosses], dim=-1)
    depth = torch.cat([image[..., 2], torch.full_like(share, near)], dim=-1)
    pixels = points[..., :2] / torch.where(used, depth, 1.0)[..., None]
    low = torch.where(used[..., None], pixels, math.inf).amin(dim=-2)
    high = torch.where(used[..., None], pixels, -math.inf).amax(dim=-2)
    box = torch.cat([low, high], dim=-1)
    return torch.where(used.any(dim=-1, keepdim=True), box, math.nan)


def project_box_omni3d(
    corners: torch.Tensor, projection: torch.Tensor, image_size: tuple[int, int]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Box around projected corners by the rule of Omni3D's files (Brazil et al., CVPR 2023).

    A corner with z <= 0.2 m is moved to the corner of the image in whose direction it lies.

    Args:
        corners: (..., 8, 3), metres.
        projection: (..., 3, 4).
        image_size: (height, width).

    Returns:
        boxes: (..., 4) XYXY pixels, not clipped to the image.
        behind: (..., 8) bool, the corners with z <= 0.2 m.
    """
    height, width = image_size
    behind = corners[..., 2] <= _OMNI3D_NEAR
    image = _homogeneous(corners, projection)
    pixels = image[..., :2] / torch.where(behind, 1.0, image[..., 2])[..., None]
    bounds = corners.new_tensor([width - 1, height - 1])
    sign = corners[..., :2].sign()
    moved = behind & (sign != 0).all(dim=-1)
    # As published: a corner exactly on an axis is left at its undivided coordinates.
    pixels = torch.where(moved[..., None], bounds * (sign > 0), pixels)
    return torch.cat([pixels.amin(dim=-2), pixels.amax(dim=-2)], dim=-1), behind


def clip_boxes(boxes: torch.Tensor, high: tuple[float, float]) -> torch.Tensor:
    """Boxes (..., 4) XYXY clipped to [0, x] and [0, y] with ``high`` = (x, y)."""
    x1, y1, x2, y2 = boxes.unbind(dim=-1)
    x_max, y_max = high
    clipped = [x1.clamp(0, x_max), y1.clamp(0, y_max), x2.clamp(0, x_max), y2.clamp(0, y_max)]
    return torch.stack(clipped, dim=-1)


def truncation(boxes: torch.Tensor, high: tuple[float, float]) -> torch.Tensor:
    """Share in [0, 1] of the area of boxes that lies outside [0, x] x [0, y].

    Args:
        boxes: (..., 4) XYXY, not clipped.
        high: (x, y), the image's largest coordinates: Omni3D takes (width - 1, height - 1).

    Returns:
        (...); 0 for boxes without area.
    """
    area = _area(boxes)
    share = 1 - _area(clip_boxes(boxes, high)) / torch.where(area > 0, area, 1.0)
    return torch.where(area > 0, share, 0.0).clamp(0, 1)


def resize_projection(projection: torch.Tensor, scale_x: float, scale_y: float) -> torch.Tensor:
    """Projection after resizing the image by the given factors."""
    return projection * projection.new_tensor([[scale_x], [scale_y], [1]])


def crop_projection(projection: torch.Tensor, x: float, y: float) -> torch.Tensor:
    """Projection after cutting the image off at (x, y), its new origin."""
    return projection - projection[..., 2:, :] * projection.new_tensor([[x], [y], [0]])


def flip_projection(projection: torch.Tensor, width: float) -> torch.Tensor:
    """Projection after mirroring an image of this width, for points mirrored at X = 0.

    With u' = width - u and X' = -X: c_x becomes width - c_x, and f_x stays. Boxes follow with
    :func:`flip_centers`, :func:`flip_yaw` and :func:`flip_rotation`.
    """
    row = width * projection[..., 2:, :] - projection[..., :1, :]
    mirrored = torch.cat([row, projection[..., 1:, :]], dim=-2)
    return mirrored * projection.new_tensor([-1, 1, 1, 1])


def flip_centers(centers: torch.Tensor) -> torch.Tensor:
    """Points (..., 3) mirrored at X = 0."""
    return centers * centers.new_tensor([-1, 1, 1])


def flip_yaw(yaw: torch.Tensor) -> torch.Tensor:
    """``rotation_y`` or ``alpha`` (...) of the mirrored object, in [-pi, pi)."""
    return wrap_angle(math.pi - yaw)


def flip_rotation(rotation: torch.Tensor) -> torch.Tensor:
    """Rotations (..., 3, 3) of the mirrored objects, whose width axis is mirrored too."""
    return rotation * rotation.new_tensor([[-1, -1, 1], [1, 1, -1], [1, 1, -1]])


def _homogeneous(points: torch.Tensor, projection: torch.Tensor) -> torch.Tensor:
    """(..., P, 3), d (u, v, 1). A sum of products: a GPU may round a matrix product to TF32."""
    linear = (points[..., None, :] * projection[..., None, :, :3]).sum(dim=-1)
    return linear + projection[..., None, :, 3]


def _area(boxes: torch.Tensor) -> torch.Tensor:
    x1, y1, x2, y2 = boxes.unbind(dim=-1)
    return (x2 - x1) * (y2 - y1)
