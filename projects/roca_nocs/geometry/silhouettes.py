"""Silhouettes of point sets, and how well they fit masks.

Camera frame: x right, y down, z forward, metres. A silhouette is a G x G grid over the box of the
object, as the mask of a detection is.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

_NEAR = 0.1  # metres; points nearer than this are drawn there


def splat_silhouettes(pixels: torch.Tensor, grid_size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Silhouettes of sets of pixels, each over the set's own bounding box.

    Every cell with a point is set; then gaps of up to two cells between points are closed.

    Args:
        pixels: (K, P, 2), x, y, P >= 1.
        grid_size: G.

    Returns:
        silhouettes (K, G, G) bool, and width and height of the boxes (K, 2), in pixels.
    """
    low, high = pixels.amin(dim=1), pixels.amax(dim=1)
    extent = high - low
    fractions = (pixels - low[:, None]) / extent[:, None].clamp(min=1e-6)
    column, row = (fractions * grid_size).long().clamp(0, grid_size - 1).unbind(dim=2)
    filled = pixels.new_zeros(len(pixels), grid_size * grid_size)
    filled = filled.scatter_(1, row * grid_size + column, 1.0)
    grown = F.max_pool2d(filled.view(-1, 1, grid_size, grid_size), 3, stride=1, padding=1)
    # Eroding pads with 1: the border of the box is where the object ends, not a gap.
    closed = 1 - F.max_pool2d(1 - grown, 3, stride=1, padding=1)
    return closed[:, 0] > 0.5, extent


def fill_box(masks: torch.Tensor, boxes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Masks enlarged to their own bounding boxes, which detections' boxes only approximate.

    Args:
        masks: (K, G, G) bool, over the boxes.
        boxes: (K, 4), XYXY in pixels.

    Returns:
        masks (K, G, G) bool, and width and height (K, 2) of the bounding boxes, in pixels; empty
        masks keep their box.
    """
    grid_size = masks.shape[-1]
    # (K, 2, G): which columns and which rows are occupied.
    occupied = torch.stack([masks.any(dim=1), masks.any(dim=2)], dim=1)
    occupied = occupied | ~masks.flatten(1).any(dim=1)[:, None, None]
    cells = torch.arange(grid_size, device=masks.device)
    first = torch.where(occupied, cells, grid_size).amin(dim=2) / grid_size
    end = (torch.where(occupied, cells, -1).amax(dim=2) + 1) / grid_size
    steps = (cells + 0.5) / grid_size
    # As grid_sample counts: -1 and 1 are the outer edges of the grid.
    lines = 2 * (first[..., None] + steps * (end - first)[..., None]) - 1
    grid = torch.stack(
        [
            lines[:, 0, None, :].expand(-1, grid_size, -1),
            lines[:, 1, :, None].expand(-1, -1, grid_size),
        ],
        dim=-1,
    )
    filled = F.grid_sample(
        masks[:, None].to(grid.dtype), grid, padding_mode="border", align_corners=False
    )
    return filled[:, 0] > 0.5, (boxes[:, 2:] - boxes[:, :2]) * (end - first)


def silhouette_scores(
    masks: torch.Tensor,
    boxes: torch.Tensor,
    intrinsics: torch.Tensor,
    rotations: torch.Tensor,
    translations: torch.Tensor,
    scales: torch.Tensor,
    points: torch.Tensor,
    *,
    num_angles: int = 24,
    aspect_weight: float = 0.2,
    angle_weight: float = 0.05,
) -> torch.Tensor:
    """How well models fit masks, each model turned about its up axis to where it fits best.

    A predicted pose is often wrong about the heading alone. So a model is drawn with all of
    ``num_angles`` headings, and counts with the best of

        IoU - aspect_weight |log (aspect ratio / that of the mask)| + angle_weight cos(angle)

    where the IoU compares shapes only: silhouette and mask each fill their bounding box.

    Args:
        masks: (K, G, G) bool, over the boxes.
        boxes: (K, 4), XYXY in pixels.
        intrinsics: (K, 3, 3), pixels.
        rotations, translations, scales: (K, 3, 3), (K, 3) metres and (K, 3) metres per model unit:
            the predicted poses.
        points: (K, P, 3), on the surface of the models, y up.
        num_angles: headings, evenly spaced, the predicted one first.
        aspect_weight, angle_weight: see above.

    Returns:
        (K,) float32, at most ``1 + angle_weight``. Memory grows with K * num_angles * P.
    """
    angles = torch.arange(num_angles, device=points.device) * (2 * math.pi / num_angles)
    cos, sin = angles.cos(), angles.sin()
    masks, size = fill_box(masks, boxes)
    size = size.clamp(min=1e-6)
    mask_aspect = (size[:, 0] / size[:, 1]).log()[:, None]
    x, y, z = (points * scales[:, None]).unbind(dim=2)
    # (K, A, P, 3): turned about +y by every angle.
    turned = torch.stack(
        [
            cos[:, None] * x[:, None] + sin[:, None] * z[:, None],
            y[:, None].expand(-1, num_angles, -1),
            cos[:, None] * z[:, None] - sin[:, None] * x[:, None],
        ],
        dim=-1,
    )
    camera = turned @ rotations[:, None].mT + translations[:, None, None]
    rays = camera @ intrinsics[:, None].mT
    pixels = rays[..., :2] / rays[..., 2:].clamp(min=_NEAR)
    drawn, extent = splat_silhouettes(pixels.flatten(0, 1), masks.shape[-1])
    drawn = drawn.unflatten(0, (-1, num_angles))
    common = (drawn & masks[:, None]).flatten(2).sum(dim=2)
    either = (drawn | masks[:, None]).flatten(2).sum(dim=2).clamp(min=1)
    extent = extent.unflatten(0, (-1, num_angles)).clamp(min=1e-6)
    aspect = (extent[..., 0] / extent[..., 1]).log() - mask_aspect
    score = common / either - aspect_weight * aspect.abs() + angle_weight * cos
    return score.amax(dim=1)
