"""Boxes of posed objects: corners, and their IoU in the three forms of the NOCS evaluation.

A pose is the 4 x 4 matrix [scale rotation | translation] from model to camera coordinates, and
extents are the lengths of the box in the model's unit, centred at its origin.
"""

from __future__ import annotations

import torch

from roca_nocs.geometry.box3d_overlap import OrientedBoxes, elementwise_overlap
from roca_nocs.geometry.pose import decompose_pose
from roca_nocs.geometry.symmetry import axis_rotations

IOU_MODES = ("nocs", "aabb", "obb")
"""``nocs``: the published evaluation, which compares the largest and smallest of x, y, z of each
corner; it depends on the position in the camera frame and is NaN (0 / 0) where both products
vanish. ``aabb``: axis-aligned boxes around the corners in the camera frame. ``obb``: exact."""

NUM_TURNS = 20
"""Rotations about y that stand for the symmetry of a round object."""

_TURNED_PAIRS_PER_CHUNK = 4096

# Order of the corners in the files of the NOCS evaluation.
_CORNER_SIGNS = [[x, y, z] for y in (0.5, -0.5) for x in (0.5, -0.5) for z in (0.5, -0.5)]


def corners(extents: torch.Tensor, pose: torch.Tensor) -> torch.Tensor:
    """Corners of boxes.

    Args:
        extents: (..., 3).
        pose: (..., 4, 4).

    Returns:
        (..., 8, 3), in the order (+,+,+), (+,+,-), (-,+,+), (-,+,-), then the same with y
        negative.
    """
    own = extents[..., None, :] * extents.new_tensor(_CORNER_SIGNS)
    rotated = (own[..., None, :] * pose[..., None, :3, :3]).sum(dim=-1)
    return rotated + pose[..., None, :3, 3]


def elementwise_iou(
    extents: torch.Tensor,
    pose: torch.Tensor,
    other_extents: torch.Tensor,
    other_pose: torch.Tensor,
    *,
    mode: str,
    symmetric: torch.Tensor | None = None,
    turns: torch.Tensor | None = None,
) -> torch.Tensor:
    """Intersection over union of pairs of boxes (Wang et al., CVPR 2019, and its corrections).

    Args:
        extents: (..., 3); leading dimensions broadcast, (N, 1) against (M) gives all pairs.
        pose: (..., 4, 4).
        other_extents, other_pose: of the boxes that they are compared with.
        mode: one of ``IOU_MODES``.
        symmetric: (...) bool, pairs whose result is the largest over the turns of the first box.
            As in the published code a NaN never is the largest, and the maximum starts at 0.
        turns: (K, 3, 3), rotations of the first box in its own frame; None: by 2 pi i / 20 about y.

    Returns:
        (...), in [0, 1]; NaN is possible in mode ``nocs`` only, for pairs that are not symmetric.

    Raises:
        ValueError: an unknown mode.
    """
    if mode not in IOU_MODES:
        raise ValueError(f"unknown mode {mode!r} of the 3D IoU; expected one of {IOU_MODES}")
    shape = torch.broadcast_shapes(
        extents.shape[:-1], pose.shape[:-2], other_extents.shape[:-1], other_pose.shape[:-2]
    )
    boxes = [
        part.expand(*shape, *tail).reshape(-1, *tail)
        for part, tail in (
            (extents, (3,)),
            (pose, (4, 4)),
            (other_extents, (3,)),
            (other_pose, (4, 4)),
        )
    ]
    result = _iou(mode, *boxes)
    if symmetric is not None:
        if turns is None:
            turns = axis_rotations("y", NUM_TURNS)
        pairs = symmetric.expand(shape).flatten().nonzero().squeeze(1)
        chunks = pairs.split(max(_TURNED_PAIRS_PER_CHUNK // len(turns), 1))
        best = [
            _largest_of_turns(mode, turns, *(part[chunk] for part in boxes)) for chunk in chunks
        ]
        result = result.index_put((pairs,), torch.cat(best))
    return result.reshape(shape)


def _largest_of_turns(
    mode: str,
    rotations: torch.Tensor,
    extents: torch.Tensor,
    pose: torch.Tensor,
    other_extents: torch.Tensor,
    other_pose: torch.Tensor,
) -> torch.Tensor:
    turns = torch.eye(4, dtype=pose.dtype, device=pose.device).repeat(len(rotations), 1, 1)
    turns[:, :3, :3] = rotations
    turned = (pose[:, None, :, :, None] * turns[:, None]).sum(dim=-2)
    shape = turned.shape[:2]
    iou = _iou(
        mode,
        extents[:, None].expand(*shape, 3).flatten(0, 1),
        turned.flatten(0, 1),
        other_extents[:, None].expand(*shape, 3).flatten(0, 1),
        other_pose[:, None].expand(*shape, 4, 4).flatten(0, 1),
    ).reshape(shape)
    return torch.where(iou.isnan(), 0.0, iou).amax(dim=1)


def _iou(
    mode: str,
    extents: torch.Tensor,
    pose: torch.Tensor,
    other_extents: torch.Tensor,
    other_pose: torch.Tensor,
) -> torch.Tensor:
    if mode == "obb":
        return elementwise_overlap(
            _oriented_boxes(extents, pose), _oriented_boxes(other_extents, other_pose)
        )[1]
    # The published code reduces over the coordinates instead of over the corners.
    dim = -1 if mode == "nocs" else -2
    points, other_points = corners(extents, pose), corners(other_extents, other_pose)
    low, high = points.amin(dim), points.amax(dim)
    other_low, other_high = other_points.amin(dim), other_points.amax(dim)
    sides = torch.minimum(high, other_high) - torch.maximum(low, other_low)
    inter = torch.where((sides >= 0).all(dim=-1), sides.prod(dim=-1), 0.0)
    union = (high - low).prod(dim=-1) + (other_high - other_low).prod(dim=-1) - inter
    if mode == "nocs":
        return inter / union
    return torch.where(union > 0, inter / union, 0.0)


def _oriented_boxes(extents: torch.Tensor, pose: torch.Tensor) -> OrientedBoxes:
    translation, rotation, scale = decompose_pose(pose)
    return OrientedBoxes(translation, scale * extents, rotation)
