"""Which pixels of several views of a scene show the same point, and how poses of views agree.

V views of H x W pixels, P ordered pairs of views, M pixels of all pairs together. Views of several
scenes may stand side by side; only those of one scene are compared. The camera pose
of a view maps camera to world (or to the frame of any body that does not move between the views);
camera axes are OpenCV's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

from roca_nocs.geometry.failures import FailureReason
from roca_nocs.geometry.grouped_random import subset_of_groups

PixelRule = Literal["nearest", "truncate"]


@dataclass(frozen=True)
class Views:
    """Several images of each of several scenes.

    Attributes:
        depth: (V, H, W) float, metres, 0 = no measurement.
        intrinsics: (V, 3, 3), pixels.
        camera_poses: (V, 4, 4) float64, camera to world, metres.
        scenes: (V,) int64, number of the scene of each view.
    """

    depth: torch.Tensor
    intrinsics: torch.Tensor
    camera_poses: torch.Tensor
    scenes: torch.Tensor


@dataclass(frozen=True)
class Associations:
    """Pixels that show the same point of the scene, pair by pair.

    Attributes:
        pairs: (M,) int64, ascending: the pair of views that each association belongs to.
        first: (M, 2) int64, row and column in the first view of the pair.
        second: (M, 2) int64, the same in the second view.
        reasons: (P,) int64, :class:`FailureReason`; not OK where a pair has no association.
    """

    pairs: torch.Tensor
    first: torch.Tensor
    second: torch.Tensor
    reasons: torch.Tensor


def ordered_pairs(
    scenes: torch.Tensor, most: int, generator: torch.Generator | None = None
) -> torch.Tensor:
    """Ordered pairs of different views of the same scene: all of them, or a random subset.

    Args:
        scenes: (V,) int64.
        most: largest number of pairs.
        generator: on the device of ``scenes``; None takes torch's global one.

    Returns:
        (P, 2) int64.
    """
    same = scenes[:, None] == scenes
    pairs = same.fill_diagonal_(False).nonzero()
    if len(pairs) > most:
        pairs = pairs[torch.randperm(len(pairs), generator=generator, device=pairs.device)[:most]]
    return pairs


def associate(
    views: Views,
    foreground: torch.Tensor,
    pairs: torch.Tensor,
    *,
    tolerance: float = 0.02,
    max_pixels: int | None = None,
    generator: torch.Generator | None = None,
    pixel_rule: PixelRule = "nearest",
) -> Associations:
    """Carry the foreground pixels of one view to another through depth and camera poses.

    A pixel of the first view is kept if its point projects into the second image, onto a
    foreground pixel with depth, and lies at most ``tolerance`` behind the surface seen there.

    Args:
        views: the images.
        foreground: (V, H, W) bool, pixels of interest of each view.
        pairs: (P, 2) int64, first and second view of each pair.
        tolerance: metres.
        max_pixels: pixels of a view that are carried, drawn at random without replacement; bounds
            the memory to P times as many points. None carries all.
        generator: for that draw, on the device of the views; None takes torch's global one.
        pixel_rule: how projections become pixels: ``"nearest"``, or ``"truncate"``, which is half
            a pixel off and reproduces published associations.

    Returns:
        The associations; no gradient. Every pair without one has its reason: NO_DETECTIONS (a view
        without foreground), NO_VALID_DEPTH (foreground without depth in the first view, or no
        foreground with depth where the points land in the second), NO_OVERLAP (nothing lands in
        the second image), OCCLUDED.

    Raises:
        ValueError: unknown ``pixel_rule``.
    """
    if pixel_rule not in ("nearest", "truncate"):
        raise ValueError(f"pixel_rule must be 'nearest' or 'truncate', got {pixel_rule!r}")
    height, width = views.depth.shape[1:]
    depth = views.depth.detach()
    valid = foreground & (depth > 0)
    pixels = valid.nonzero()
    if max_pixels is not None:
        pixels = pixels[subset_of_groups(pixels[:, 0], max_pixels, generator)]
    points = back_project_pixels(depth, views.intrinsics, pixels)

    # Every pair repeats the list of its first view.
    counts = torch.bincount(pixels[:, 0], minlength=len(depth))
    starts = counts.cumsum(0) - counts
    lengths = counts[pairs[:, 0]]
    rows = torch.repeat_interleave(lengths)
    position = torch.arange(len(rows), device=rows.device) - (lengths.cumsum(0) - lengths)[rows]
    source = starts[pairs[rows, 0]] + position
    targets = pairs[rows, 1]

    poses = views.camera_poses.double()
    to_second = torch.linalg.inv(poses[pairs[:, 1]]) @ poses[pairs[:, 0]]
    to_second = to_second.to(points.dtype)[rows]
    moved = (to_second[:, :3, :3] @ points[source, :, None]).squeeze(-1) + to_second[:, :3, 3]
    in_front = moved[:, 2] > 0
    projected = (views.intrinsics.to(moved.dtype)[targets] @ moved[..., None]).squeeze(-1)
    projected = projected[:, :2] / torch.where(in_front, projected[:, 2], 1)[:, None]
    landed = (projected + 0.5).floor() if pixel_rule == "nearest" else projected.trunc()
    limits = landed.new_tensor([width, height])
    in_frame = in_front & ((landed >= 0) & (landed < limits)).all(dim=1)
    columns, lines = torch.where(in_frame[:, None], landed, 0).long().unbind(dim=1)
    seen = in_frame & valid[targets, lines, columns]
    visible = seen & (moved[:, 2] - depth[targets, lines, columns] <= tolerance)

    present = foreground.flatten(1).any(dim=1)
    reasons = _pair_reasons(present[pairs].all(dim=1), lengths, rows, in_frame, seen, visible)
    kept = visible.nonzero()[:, 0]
    return Associations(
        pairs=rows[kept],
        first=pixels[source[kept], 1:],
        second=torch.stack([lines, columns], dim=1)[kept],
        reasons=reasons,
    )


def back_project_pixels(
    depth: torch.Tensor, intrinsics: torch.Tensor, pixels: torch.Tensor
) -> torch.Tensor:
    """The points seen at single pixels.

    Args:
        depth: (V, H, W), metres.
        intrinsics: (V, 3, 3), pixels.
        pixels: (N, 3) int64: view, row, column.

    Returns:
        (N, 3), metres, camera frame of the pixel's view.
    """
    view, row, column = pixels.unbind(dim=1)
    rays = torch.stack([column, row, torch.ones_like(row)], dim=1).to(depth.dtype)
    inverse = torch.linalg.inv_ex(intrinsics.to(depth.dtype)).inverse
    return (inverse[view] @ rays[..., None]).squeeze(-1) * depth[view, row, column, None]


def _pair_reasons(
    present: torch.Tensor,
    lengths: torch.Tensor,
    rows: torch.Tensor,
    in_frame: torch.Tensor,
    seen: torch.Tensor,
    visible: torch.Tensor,
) -> torch.Tensor:
    """(P,) int64: the first condition that no pixel of a pair met."""
    counts = lengths.new_zeros(3, len(lengths))
    counts = counts.index_add(1, rows, torch.stack([in_frame, seen, visible]).long())
    reasons = torch.full_like(lengths, FailureReason.OK)
    # The last condition first, so that the earliest one that failed wins.
    failures = (
        (counts[2] == 0, FailureReason.OCCLUDED),
        (counts[1] == 0, FailureReason.NO_VALID_DEPTH),
        (counts[0] == 0, FailureReason.NO_OVERLAP),
        (lengths == 0, FailureReason.NO_VALID_DEPTH),
        (~present, FailureReason.NO_DETECTIONS),
    )
    for failed, reason in failures:
        reasons = torch.where(failed, int(reason), reasons)
    return reasons


def pose_disagreement(
    poses: torch.Tensor,
    image_indices: torch.Tensor,
    views: Views,
    *,
    max_distance: float = 0.3,
) -> tuple[torch.Tensor, torch.Tensor]:
    """How much the poses differ that several views give the same objects.

    Every object of a view is compared with the nearest object of every other view of the scene, if
    their centres are less than ``max_distance`` apart. A diagnosis: its gradient is unstable.

    Args:
        poses: (N, 4, 4), object to camera; scale, if any, within the upper left block.
        image_indices: (N,) int64, view of each pose.
        views: the images; only scenes and camera poses matter.
        max_distance: metres.

    Returns:
        (N, V): Frobenius norm of the difference of the 4x4 matrices in the frame of the world, and
        (N, V) bool: whether there was a partner. The norm is 0 elsewhere.
    """
    count = len(views.scenes)
    world = views.camera_poses.to(poses.dtype)[image_indices] @ poses.detach()
    if not len(world):
        return world.new_zeros(0, count), world.new_zeros(0, count, dtype=torch.bool)
    centres = world[:, :3, 3]
    distances = (centres[:, None] - centres).norm(dim=-1)
    numbers = torch.arange(count, device=poses.device)
    scenes = views.scenes[image_indices]
    comparable = scenes[:, None] == scenes
    comparable &= image_indices[:, None] != image_indices
    # (N, V, N): the objects of each view.
    candidates = comparable[:, None] & (image_indices == numbers[:, None])
    nearest = torch.where(candidates, distances[:, None], float("inf")).min(dim=-1)
    matched = nearest.values < max_distance
    difference = (world[:, None] - world[nearest.indices]).flatten(-2).norm(dim=-1)
    return torch.where(matched, difference, 0), matched
