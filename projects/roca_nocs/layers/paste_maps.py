"""Maps of regions back into the image, interpolated bilinearly."""

from __future__ import annotations

import torch


def paste_maps(
    maps: torch.Tensor, boxes: torch.Tensor, size: tuple[int, int], *, inclusive: bool = False
) -> torch.Tensor:
    """Resize each map to its box in an image that is 0 elsewhere; gradients reach the maps.

    The cells tile the box; beyond the centres of the outer cells their value is kept (the resizing
    of the official NOCS program). Both directions are interpolated by one matrix product each.

    Args:
        maps: (N, K, S, S).
        boxes: (N, 4), XYXY in pixels, end exclusive; corners are rounded.
        size: (height, width) of the image; boxes may reach beyond it.
        inclusive: the boxes of the ganocs program, w = x2 - x1 + 1 pixels wide from x1 on; x1 and w
            are rounded down.

    Returns:
        (N, K, height, width).
    """
    if inclusive:
        start, extent = boxes[:, :2].floor(), (boxes[:, 2:] - boxes[:, :2] + 1).floor()
    else:
        start = boxes[:, :2].round()
        extent = boxes[:, 2:].round() - start
    side = maps.shape[-1]
    columns = _weights(start[:, 0], extent[:, 0], size[1], side).to(maps.dtype)
    rows = _weights(start[:, 1], extent[:, 1], size[0], side).to(maps.dtype)
    return rows[:, None] @ maps @ columns[:, None].mT


def _weights(start: torch.Tensor, extent: torch.Tensor, length: int, side: int) -> torch.Tensor:
    """(N, length, side): the share of each cell in each pixel of a line."""
    offset = torch.arange(length, device=start.device) - start[:, None]
    inside = (offset >= 0) & (offset < extent[:, None])
    position = (offset + 0.5) * side / extent[:, None].clamp(min=1) - 0.5
    cells = torch.arange(side, device=start.device)
    distance = (position.clamp(0, side - 1)[..., None] - cells).abs()
    return (1 - distance).clamp(min=0) * inside[..., None]
