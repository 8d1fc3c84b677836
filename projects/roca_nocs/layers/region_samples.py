"""Maps of regions at single pixels of the image, without pasting them into images.

R regions, M pixels, K channels. Pixel (row, column) has its centre at (row + 1/2, column + 1/2) of
the plane that boxes are given in.
"""

from __future__ import annotations

import torch


def sample_regions(
    maps: torch.Tensor, boxes: torch.Tensor, regions: torch.Tensor, pixels: torch.Tensor
) -> torch.Tensor:
    """Bilinear samples of region maps, as if resized to their boxes.

    Half-pixel centres, edges replicated. Memory and time grow with M alone.

    Args:
        maps: (R, K, S, T), spread over their boxes.
        boxes: (R, 4) XYXY, pixels.
        regions: (M,) int64, map of each pixel.
        pixels: (M, 2) int64, row and column in the image.

    Returns:
        (M, K), dtype of ``maps``; gradients reach the maps.
    """
    rows, columns = maps.shape[2:]
    start, end = boxes.detach()[regions].float().split(2, dim=1)
    fraction = (pixels.flip(1) + 0.5 - start) / (end - start).clamp(min=1e-6)
    last = fraction.new_tensor([columns - 1, rows - 1])
    place = (fraction * fraction.new_tensor([columns, rows]) - 0.5).clamp(min=0).minimum(last)
    low = place.floor().long()
    high = torch.minimum(low + 1, last.long())
    weight = (place - low).to(maps.dtype)

    flat = maps.flatten(2).movedim(1, 2).flatten(0, 1)
    x, y = torch.stack([low, high], dim=-1).unbind(dim=1)
    wx, wy = (torch.stack([1 - w, w], dim=-1) for w in weight.unbind(dim=1))
    index = (regions[:, None, None] * rows + y[:, :, None]) * columns + x[:, None, :]
    weights = wy[:, :, None] * wx[:, None, :]
    # One corner after the other: (M, 4, K) at once would be most of the memory.
    sampled = flat.new_zeros(len(regions), flat.shape[1])
    corners = zip(index.flatten(1).unbind(1), weights.flatten(1).unbind(1), strict=True)
    for cells, share in corners:
        sampled = sampled + flat.index_select(0, cells) * share[:, None]
    return sampled


def owning_regions(
    boxes: torch.Tensor,
    scores: torch.Tensor,
    image_indices: torch.Tensor,
    num_images: int,
    size: tuple[int, int],
) -> torch.Tensor:
    """The region of highest score at every pixel whose centre lies in a box.

    Args:
        boxes: (R, 4) XYXY, pixels.
        scores: (R,).
        image_indices: (R,) int64.
        num_images: B.
        size: (height, width) of all images.

    Returns:
        (B, H, W) int64, -1 where there is no box.
    """
    height, width = size
    if not len(boxes):
        return image_indices.new_full((num_images, height, width), -1)
    order = scores.detach().argsort(stable=True)
    order = order[image_indices[order].argsort(stable=True)]
    counts = torch.bincount(image_indices, minlength=num_images)
    image = image_indices[order]
    slots = torch.arange(len(order), device=order.device) - (counts.cumsum(0) - counts)[image]
    x0, y0, x1, y1 = boxes.detach()[order].unsqueeze(-1).unbind(dim=1)
    x, y = (torch.arange(n, device=boxes.device) + 0.5 for n in (width, height))
    most = int(slots.max()) + 1
    in_columns = torch.zeros(num_images, most, width, dtype=torch.bool, device=boxes.device)
    in_rows = in_columns.new_zeros(num_images, most, height)
    in_columns[image, slots] = (x > x0) & (x < x1)
    in_rows[image, slots] = (y > y0) & (y < y1)
    # By ascending score, one layer over the other.
    table = order.new_full((num_images, most), -1)
    table[image, slots] = order
    owners = order.new_full((num_images, height, width), -1)
    for slot in range(most):
        inside = in_rows[:, slot, :, None] & in_columns[:, slot, None, :]
        owners = torch.where(inside, table[:, slot, None, None], owners)
    return owners
