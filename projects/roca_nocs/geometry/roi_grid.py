"""Pixel grids of regions, nearest samples of image maps at them, and back-projection.

B images, N regions of all images, G x G grid points a region, K channels. A region knows its image
by an index, so everything is one gather for the whole batch. Pixel centres lie at integers.
"""

from __future__ import annotations

import torch


def roi_pixel_grid(boxes: torch.Tensor, image_sizes: torch.Tensor, grid_size: int) -> torch.Tensor:
    """Integer pixels that a G x G grid of each box samples.

    The box is clipped to the image and its corners are rounded half to even; column j then lies at
    x0 + floor(j (x1 - x0) / G), rows alike.

    Args:
        boxes: (N, 4), XYXY in pixels.
        image_sizes: (N, 2) int64, (height, width) of the image of each box.
        grid_size: G.

    Returns:
        (N, 2, G, G) float32 without gradient: x, y; zeros for a box without area after rounding.
    """
    limits = image_sizes.flip(-1).to(boxes.dtype)
    corners = boxes.detach().reshape(-1, 2, 2).clamp(min=0)
    corners = torch.minimum(corners, limits[:, None]).round().long()
    start, extent = corners[:, 0], corners[:, 1] - corners[:, 0]
    start = torch.where((extent > 0).all(dim=1, keepdim=True), start, 0)
    extent = torch.where((extent > 0).all(dim=1, keepdim=True), extent, 0)
    steps = torch.arange(grid_size, device=boxes.device)
    # (N, 2, G): coordinates along x and along y.
    lines = (start[..., None] + steps * extent[..., None] // grid_size).float()
    x = lines[:, 0, None, :].expand(-1, grid_size, -1)
    y = lines[:, 1, :, None].expand(-1, -1, grid_size)
    return torch.stack([x, y], dim=1)


def cell_pixels(boxes: torch.Tensor, image_sizes: torch.Tensor, grid_size: int) -> torch.Tensor:
    """The pixel that holds the centre of each cell of a G x G grid over each box.

    Unlike :func:`roi_pixel_grid`, which keeps the published sampling of ROCA, pixel and cell centre
    are at most half a pixel apart, without bias.

    Args:
        boxes: (N, 4), XYXY in pixels; an image of width w spans [0, w].
        image_sizes: (N, 2) or (1, 2) int64, (height, width); pixels are clamped to the image.
        grid_size: G.

    Returns:
        (N, 2, G, G) int64: x, y.
    """
    steps = (torch.arange(grid_size, device=boxes.device) + 0.5) / grid_size
    start, extent = boxes[:, :2, None], (boxes[:, 2:] - boxes[:, :2])[..., None]
    lines = (start + steps * extent).detach().floor().long()
    lines = lines.clamp(min=0).minimum(image_sizes.flip(-1)[..., None] - 1)
    x = lines[:, 0, None, :].expand(-1, grid_size, -1)
    y = lines[:, 1, :, None].expand(-1, -1, grid_size)
    return torch.stack([x, y], dim=1)


def normalize_grid(grid: torch.Tensor, image_sizes: torch.Tensor) -> torch.Tensor:
    """Pixels (N, 2, G, G) as fractions in [-1, 1] of the first to the last pixel centre.

    Args:
        grid: from :func:`roi_pixel_grid`.
        image_sizes: (N, 2) int64, (height, width).
    """
    last = (image_sizes.flip(-1) - 1).clamp(min=1).to(grid.dtype)
    return 2 * grid / last[..., None, None] - 1


def sample_at_grid(
    maps: torch.Tensor,
    grid: torch.Tensor,
    image_indices: torch.Tensor,
    image_sizes: torch.Tensor,
    border_compat: bool = True,
) -> torch.Tensor:
    """Values of image maps at the pixels of a grid; gradients reach the maps.

    Args:
        maps: (B, K, H, W), at least as large as the images (padding to the right and below).
        grid: (N, 2, G, G), from :func:`roi_pixel_grid`.
        image_indices: (N,) int64, row of ``maps`` for each region.
        image_sizes: (N, 2) int64, (height, width) of the image of each region, without padding.
        border_compat: samples in the last column (row) of an image with an even width (height)
            are 0. The published model was trained with this effect of its sampling convention.

    Returns:
        (N, K, G, G), dtype of ``maps``.
    """
    channels, height, width = maps.shape[1:]
    x, y = grid.long().unbind(dim=1)
    index = (image_indices[:, None, None] * height + y) * width + x
    # One dimension to index: its backward is a plain index_add.
    values = maps.transpose(0, 1).reshape(channels, -1)
    samples = values.index_select(1, index.flatten()).reshape(channels, *index.shape)
    samples = samples.transpose(0, 1)
    if border_compat:
        last = image_sizes - 1
        # Odd indices of the last row or column belong to even sizes; -1 matches no pixel.
        last = torch.where(last % 2 == 1, last, -1)[..., None, None]
        outside = (y == last[:, 0]) | (x == last[:, 1])
        samples = samples.masked_fill(outside[:, None], 0)
    return samples


def grid_rays(grid: torch.Tensor, intrinsics: torch.Tensor) -> torch.Tensor:
    """Directions through grid pixels, scaled to z = 1.

    Args:
        grid: (N, 2, G, G) pixels.
        intrinsics: (N, 3, 3), pixels.

    Returns:
        (N, 3, G, G); times the depth of a pixel it is the point seen there, in metres.
    """
    pixels = torch.cat([grid, torch.ones_like(grid[:, :1])], dim=1).flatten(2)
    # inv_ex does not wait for the device to report singular matrices.
    inverse = torch.linalg.inv_ex(intrinsics).inverse
    return (inverse @ pixels).reshape(-1, 3, *grid.shape[2:])


def back_project_grid(
    depth: torch.Tensor, grid: torch.Tensor, intrinsics: torch.Tensor
) -> torch.Tensor:
    """Camera-frame points K^-1 (x z, y z, z) of grid pixels.

    Args:
        depth: (N, 1, G, G), metres.
        grid: (N, 2, G, G) pixels.
        intrinsics: (N, 3, 3), pixels.

    Returns:
        (N, 3, G, G), metres.
    """
    return grid_rays(grid, intrinsics) * depth


def masked_bounding_box(
    points: torch.Tensor, valid: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Axis-aligned box of the valid points of each region.

    Args:
        points: (N, 3, G, G).
        valid: (N, 1, G, G) bool.

    Returns:
        minimum (N, 3), maximum (N, 3); zeros without gradient for a region without valid point.
    """
    inf = float("inf")
    found = valid.flatten(1).any(dim=1, keepdim=True)
    minimum = points.masked_fill(~valid, inf).flatten(2).amin(dim=2)
    maximum = points.masked_fill(~valid, -inf).flatten(2).amax(dim=2)
    return minimum.masked_fill(~found, 0), maximum.masked_fill(~found, 0)
