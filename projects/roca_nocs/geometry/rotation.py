"""Rotations in the conventions of the datasets, on top of roma."""

from __future__ import annotations

import roma
import torch


def quaternion_to_matrix(quaternion: torch.Tensor) -> torch.Tensor:
    """Rotation matrices of quaternions in Scan2CAD's order.

    Args:
        quaternion: (..., 4) as (w, x, y, z); need not have unit length.

    Returns:
        (..., 3, 3).
    """
    unit = roma.quat_normalize(roma.quat_wxyz_to_xyzw(quaternion))
    return roma.unitquat_to_rotmat(unit)


def matrix_to_quaternion(rotation: torch.Tensor) -> torch.Tensor:
    """Unit quaternions (..., 4) as (w, x, y, z), w >= 0, of rotation matrices (..., 3, 3)."""
    quaternion = roma.quat_xyzw_to_wxyz(roma.rotmat_to_unitquat(rotation))
    return torch.where(quaternion[..., :1] < 0, -quaternion, quaternion)
