"""Pinhole cameras: projection, and how intrinsics follow the image.

Camera frame: OpenCV (x right, y down, z forward), metres. Pixel centres lie at integer coordinates,
so that an image of width w spans [-1/2, w - 1/2]. All functions are batched over leading dimensions
and keep the dtype of their input.
"""

from __future__ import annotations

import math

import torch


def project(points: torch.Tensor, intrinsics: torch.Tensor) -> torch.Tensor:
    """Project camera-frame points to pixels.

    Args:
        points: (..., P, 3), metres, with z > 0.
        intrinsics: (..., 3, 3), pixels.

    Returns:
        (..., P, 2) pixel coordinates (x, y).
    """
    homogeneous = points @ intrinsics.mT
    return homogeneous[..., :2] / homogeneous[..., 2:]


def pixel_rays(intrinsics: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Directions through all pixel centres, scaled to z = 1.

    Args:
        intrinsics: (..., 3, 3), pixels.
        size: image (height, width).

    Returns:
        (..., H, W, 3); times the depth of a pixel it is the point seen there.
    """
    height, width = size
    rows, columns = (torch.arange(n, device=intrinsics.device) for n in (height, width))
    y, x = torch.meshgrid(rows, columns, indexing="ij")
    pixels = torch.stack([x, y, torch.ones_like(x)], dim=-1).reshape(-1, 3).to(intrinsics.dtype)
    rays = pixels @ torch.linalg.inv(intrinsics).mT
    return rays.reshape(*intrinsics.shape[:-2], height, width, 3)


def back_project(depth: torch.Tensor, intrinsics: torch.Tensor) -> torch.Tensor:
    """Lift a depth map to camera-frame points.

    Args:
        depth: (..., H, W), metres along the optical axis.
        intrinsics: (..., 3, 3), pixels.

    Returns:
        (..., H, W, 3), metres; the camera centre where depth is zero.
    """
    height, width = depth.shape[-2:]
    return pixel_rays(intrinsics, (height, width)) * depth[..., None]


def resize_intrinsics(intrinsics: torch.Tensor, scale_x: float, scale_y: float) -> torch.Tensor:
    """Intrinsics after resizing the image by the given factors.

    The image plane is scaled about its corner at (-1/2, -1/2): c becomes (c + 1/2) s - 1/2.
    """
    x, y = scale_x, scale_y
    update = intrinsics.new_tensor(
        [[x, 0, (x - 1) / 2], [0, y, (y - 1) / 2], [0, 0, 1]],
    )
    return update @ intrinsics


def shift_intrinsics(intrinsics: torch.Tensor, x: float, y: float) -> torch.Tensor:
    """Intrinsics after the image content moved by (x, y) pixels (a crop at x0, y0 moves it by
    -x0, -y0)."""
    update = intrinsics.new_tensor([[1, 0, x], [0, 1, y], [0, 0, 1]])
    return update @ intrinsics


def flip_intrinsics(intrinsics: torch.Tensor, width: int) -> torch.Tensor:
    """Principal point after mirroring an image of this width: c_x becomes width - 1 - c_x.

    Only the projection follows: a mirrored scene has no rotation that explains it, so poses and
    NOCS maps cannot (see ``roca_nocs.data.transforms``).
    """
    flipped = intrinsics.clone()
    flipped[..., 0, 2] = width - 1 - intrinsics[..., 0, 2]
    return flipped


def roll_homography(intrinsics: torch.Tensor, angle: float) -> torch.Tensor:
    """Image motion when the camera frame turns about its optical axis.

    A point p of the camera frame becomes R p with R = ``roll_rotation(angle)``; its pixel moves by
    K R K^-1, an affine map that leaves the principal point fixed. Depth does not change.

    Args:
        intrinsics: (3, 3), pixels.
        angle: radians, positive from +x to +y (clockwise on the screen).

    Returns:
        (3, 3) homography with last row (0, 0, 1), old to new pixel.
    """
    rotation = roll_rotation(angle).to(intrinsics)
    return intrinsics @ rotation @ torch.linalg.inv(intrinsics)


def roll_rotation(angle: float) -> torch.Tensor:
    """(3, 3) float64 rotation about the optical axis, radians, positive from +x to +y."""
    cos, sin = math.cos(angle), math.sin(angle)
    return torch.tensor([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]], dtype=torch.float64)
