"""Upright and freely turned 3D boxes: dimensions, corner orders, headings, bird's-eye view.

Camera frame: x right, y down, z forward, metres. A box has its geometric centre (..., 3), its
dimensions (..., 3) in the order width, height, length, and a rotation (..., 3, 3) from the box axes
to the camera: length along x of the box, height along y, width along z. ``rotation_y`` is the angle
of an upright box about the y axis: 0 points its length to +x, -pi / 2 to +z. Functions are batched
over leading dimensions and keep the dtype of their input.
"""

from __future__ import annotations

import torch

from roca_nocs.geometry.box3d_overlap import OrientedBoxes, pairwise_overlap
from roca_nocs.geometry.yaw_bins import wrap_angle

# Signs along x, y and z of the box, in the order of Omni3D (Brazil et al., CVPR 2023).
_CORNER_SIGNS = [
    [-1, -1, -1],
    [1, -1, -1],
    [1, 1, -1],
    [-1, 1, -1],
    [-1, -1, 1],
    [1, -1, 1],
    [1, 1, 1],
    [-1, 1, 1],
]

KITTI_CORNERS = (6, 2, 3, 7, 5, 1, 0, 4)
"""Positions in the order of :func:`box_corners` of the corners in the order of the KITTI
development kit: four of the bottom face, then the four above them."""

BOX_EDGES = (
    *((0, 1), (1, 2), (2, 3), (3, 0)),
    *((4, 5), (5, 6), (6, 7), (7, 4)),
    *((0, 4), (1, 5), (2, 6), (3, 7)),
)
"""The twelve edges as pairs of corners in the order of :func:`box_corners`."""


def box_corners(
    center: torch.Tensor, dimensions: torch.Tensor, rotation: torch.Tensor
) -> torch.Tensor:
    """Corners of boxes in the order of Omni3D.

    Args:
        center: (..., 3).
        dimensions: (..., 3), width, height, length.
        rotation: (..., 3, 3).

    Returns:
        (..., 8, 3); signs along x, y, z of the box: (-,-,-), (+,-,-), (+,+,-), (-,+,-), then the
        same with z positive.
    """
    half = dimensions.flip(-1) / 2
    own = half[..., None, :] * half.new_tensor(_CORNER_SIGNS)
    # A sum of products, not a matrix product, which a GPU may round to TF32.
    turned = (own[..., None, :] * rotation[..., None, :, :]).sum(dim=-1)
    return turned + center[..., None, :]


def rotation_from_yaw(rotation_y: torch.Tensor) -> torch.Tensor:
    """Rotations (..., 3, 3) about the y axis by ``rotation_y`` (...), radians."""
    cos, sin = rotation_y.cos(), rotation_y.sin()
    zero, one = torch.zeros_like(cos), torch.ones_like(cos)
    flat = torch.stack([cos, zero, sin, zero, one, zero, -sin, zero, cos], dim=-1)
    return flat.unflatten(-1, (3, 3))


def yaw_from_rotation(rotation: torch.Tensor) -> torch.Tensor:
    """Heading (...) in [-pi, pi) of the length axis of rotations (..., 3, 3), seen from above."""
    return wrap_angle(torch.atan2(-rotation[..., 2, 0], rotation[..., 0, 0]))


def alpha_from_rotation_y(rotation_y: torch.Tensor, center: torch.Tensor) -> torch.Tensor:
    """Observation angle: the heading relative to the ray through the centre.

    Args:
        rotation_y: (...), radians.
        center: (..., 3), in the frame of the labels (KITTI: rectified reference camera).

    Returns:
        (...) in [-pi, pi).
    """
    return wrap_angle(rotation_y - torch.atan2(center[..., 0], center[..., 2]))


def rotation_y_from_alpha(alpha: torch.Tensor, center: torch.Tensor) -> torch.Tensor:
    """Inverse of :func:`alpha_from_rotation_y`."""
    return wrap_angle(alpha + torch.atan2(center[..., 0], center[..., 2]))


def oriented_boxes(
    center: torch.Tensor, dimensions: torch.Tensor, rotation: torch.Tensor
) -> OrientedBoxes:
    """N boxes in the form that ``box3d_overlap`` intersects (extents along the box's x, y, z)."""
    return OrientedBoxes(center, dimensions.flip(-1), rotation)


def boxes_from_corners(corners: torch.Tensor) -> OrientedBoxes:
    """Boxes of corners (N, 8, 3) in the order of :func:`box_corners`.

    The corners must be those of a cuboid. A side of length 0 leaves a rotation that is not
    orthogonal; such a box has no volume, and no overlap.
    """
    edges = corners[:, [1, 3, 4]] - corners[:, :1]
    extents = edges.norm(dim=-1)
    axes = edges / extents.clamp(min=torch.finfo(corners.dtype).tiny)[..., None]
    return OrientedBoxes(corners.mean(dim=1), extents, axes.mT)


def box3d_iou(corners: torch.Tensor, others: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Intersection volume and IoU of all pairs of boxes; exact.

    Args:
        corners: (N, 8, 3) in the order of :func:`box_corners`.
        others: (M, 8, 3) likewise.

    Returns:
        Two (N, M): volumes, and IoUs in [0, 1].
    """
    return pairwise_overlap(boxes_from_corners(corners), boxes_from_corners(others))


def bev_boxes(rectangles: torch.Tensor) -> OrientedBoxes:
    """Rectangles of the bird's-eye view as boxes of height 1, whose volumes are their areas.

    Args:
        rectangles: (N, 5): x and z of the centre, length, width, ``rotation_y``.
    """
    x, z, length, width, yaw = rectangles.unbind(dim=-1)
    center = torch.stack([x, torch.zeros_like(x), z], dim=-1)
    extents = torch.stack([length, torch.ones_like(x), width], dim=-1)
    return OrientedBoxes(center, extents, rotation_from_yaw(yaw))


def bev_iou(rectangles: torch.Tensor, others: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Intersection area and IoU of all pairs of rectangles in the bird's-eye view; exact.

    Args:
        rectangles: (N, 5): x and z of the centre, length, width, ``rotation_y``.
        others: (M, 5) likewise.

    Returns:
        Two (N, M): areas, and IoUs in [0, 1].
    """
    return pairwise_overlap(bev_boxes(rectangles), bev_boxes(others))


def egocentric_rotation(
    allocentric: torch.Tensor, center_2d: torch.Tensor, intrinsics: torch.Tensor
) -> torch.Tensor:
    """Rotation in the camera frame of one relative to the viewing ray.

    The two differ by the rotation M that takes the optical axis to the ray through ``center_2d``
    about their common normal: R = M R_allocentric. M has a pitch too, so that an upright box does
    not stay upright: this is not the observation angle of KITTI.

    Args:
        allocentric: (..., 3, 3).
        center_2d: (..., 2), pixels.
        intrinsics: (..., 3, 3), pixels.

    Returns:
        (..., 3, 3).
    """
    return _product(_ray_rotation(center_2d, intrinsics), allocentric)


def allocentric_rotation(
    egocentric: torch.Tensor, center_2d: torch.Tensor, intrinsics: torch.Tensor
) -> torch.Tensor:
    """Inverse of :func:`egocentric_rotation`."""
    return _product(_ray_rotation(center_2d, intrinsics).mT, egocentric)


def _ray_rotation(center_2d: torch.Tensor, intrinsics: torch.Tensor) -> torch.Tensor:
    x = (center_2d[..., 0] - intrinsics[..., 0, 2]) / intrinsics[..., 0, 0]
    y = (center_2d[..., 1] - intrinsics[..., 1, 2]) / intrinsics[..., 1, 1]
    ray = torch.stack([x, y, torch.ones_like(x)], dim=-1)
    x, y, z = (ray / ray.norm(dim=-1, keepdim=True)).unbind(dim=-1)
    # Rodrigues' formula about (-y, x, 0); 1 / (1 + z) is finite for every ray ahead of the camera.
    factor = 1 / (1 + z)
    rows = [1 - factor * x * x, -factor * x * y, x]
    rows += [-factor * x * y, 1 - factor * y * y, y]
    rows += [-x, -y, z]
    return torch.stack(rows, dim=-1).unflatten(-1, (3, 3))


def _product(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return (a[..., :, :, None] * b[..., None, :, :]).sum(dim=-2)


def rotation_from_6d(numbers: torch.Tensor) -> torch.Tensor:
    """Rotations whose first two rows come from two 3-vectors by Gram-Schmidt (Zhou et al., 2019).

    Args:
        numbers: (..., 6); parallel or zero vectors give a matrix with zero rows, and finite
            gradients.

    Returns:
        (..., 3, 3).
    """
    first, second = numbers.split(3, dim=-1)
    first = torch.nn.functional.normalize(first, dim=-1)
    second = second - (first * second).sum(dim=-1, keepdim=True) * first
    second = torch.nn.functional.normalize(second, dim=-1)
    return torch.stack([first, second, torch.linalg.cross(first, second, dim=-1)], dim=-2)


def rotation_to_6d(rotation: torch.Tensor) -> torch.Tensor:
    """The first two rows (..., 6) of rotations (..., 3, 3)."""
    return rotation[..., :2, :].flatten(-2)
