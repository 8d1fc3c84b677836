"""Nine-parameter poses of CAD models, and the errors by which alignments are judged.

A pose maps model to camera (or world) coordinates: ``p = rotation @ (scale * p_model) +
translation``; the scale acts along the model's axes (spec of Scan2CAD: M = T R S).
"""

from __future__ import annotations

import torch

from roca_nocs.geometry.symmetry import symmetry_rotations


def compose_pose(
    translation: torch.Tensor, rotation: torch.Tensor, scale: torch.Tensor
) -> torch.Tensor:
    """Homogeneous matrix T(translation) R diag(scale).

    Args:
        translation: (..., 3), metres.
        rotation: (..., 3, 3).
        scale: (..., 3), metres per model unit.

    Returns:
        (..., 4, 4).
    """
    upper = torch.cat([rotation * scale[..., None, :], translation[..., None]], dim=-1)
    last = upper.new_tensor([0.0, 0.0, 0.0, 1.0]).expand(*upper.shape[:-2], 1, 4)
    return torch.cat([upper, last], dim=-2)


def decompose_pose(pose: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Translation, rotation and scale of a matrix that is a rigid motion after a scaling.

    The scale is the length of each column, hence positive: a pose composed with a negative scale
    comes back with that column of the rotation turned round.

    Args:
        pose: (..., 4, 4).

    Returns:
        (..., 3), (..., 3, 3), (..., 3).
    """
    linear = pose[..., :3, :3]
    scale = linear.norm(dim=-2)
    tiny = torch.finfo(pose.dtype).tiny
    return pose[..., :3, 3], linear / scale.clamp(min=tiny)[..., None, :], scale


def rotation_error_degrees(
    pred: torch.Tensor, gt: torch.Tensor, symmetries: torch.Tensor | None = None
) -> torch.Tensor:
    """Angle between rotations, the smallest over the symmetries of the model.

    Args:
        pred: (..., 3, 3).
        gt: (..., 3, 3).
        symmetries: (...) int64 symmetry ids (``geometry.symmetry``), or None for no symmetry.
            All three broadcast, so that (M, 1) against (N) gives all pairs.

    Returns:
        (...) degrees in [0, 180].
    """
    relative = gt.mT @ pred
    if symmetries is not None:
        group = symmetry_rotations(symmetries, relative.dtype)
        # trace(S^T relative) is largest where the remaining angle is smallest.
        traces = (group * relative[..., None, :, :]).sum(dim=(-2, -1))
        best = traces.argmax(dim=-1)
        group = group.expand(*best.shape, *group.shape[-3:])
        chosen = group.gather(-3, best[..., None, None, None].expand(*best.shape, 1, 3, 3))
        relative = chosen.squeeze(-3).mT @ relative
    # The arc tangent keeps its precision at 0 and 180 degrees, where the arc cosine has none.
    skew = relative - relative.mT
    sine = torch.stack([skew[..., 2, 1], skew[..., 0, 2], skew[..., 1, 0]], dim=-1).norm(dim=-1)
    cosine = relative.diagonal(dim1=-2, dim2=-1).sum(dim=-1) - 1
    return torch.rad2deg(torch.atan2(sine, cosine))


def translation_error(pred: torch.Tensor, gt: torch.Tensor) -> torch.Tensor:
    """Distance (...) in metres of translations (..., 3)."""
    return (pred - gt).norm(dim=-1)


def scale_error(pred: torch.Tensor, gt: torch.Tensor) -> torch.Tensor:
    """|mean over the axes of pred / gt - 1|, (...), of scales (..., 3).

    The error of the published Vid2CAD and ROCA figures. Errors of opposite sign cancel; see
    :func:`scale_error_per_axis`.
    """
    return ((pred / gt).mean(dim=-1) - 1).abs()


def scale_error_per_axis(pred: torch.Tensor, gt: torch.Tensor) -> torch.Tensor:
    """Mean over the axes of |pred / gt - 1|, (...), of scales (..., 3) (SPARC's variant)."""
    return (pred / gt - 1).abs().mean(dim=-1)
