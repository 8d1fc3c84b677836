"""ROI align at the pixels of a list: the cells of a region that lie in its mask.

N regions of B images, M pixels, K channels.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from roca_nocs.layers.masked_pixels import MaskedPixels


def pixel_roi_align(
    features: torch.Tensor,
    boxes: torch.Tensor,
    image_indices: torch.Tensor,
    pixels: MaskedPixels,
    sampling_ratio: int = 0,
) -> torch.Tensor:
    """The values that ``torchvision.ops.roi_align(..., aligned=False)`` has at these cells.

    Every sample is a weighted sum of four rows of the feature map: one ``embedding_bag``, whose
    gradient on the CPU takes a fraction of the time of torchvision's. In float32, also under
    autocast.

    Args:
        features: (B, K, H, W).
        boxes: (N, 4) XYXY in pixels of the features.
        image_indices: (N,) int64.
        pixels: cells of the regions, on any grid.
        sampling_ratio: samples along each side of a cell; 0 takes as many as it has pixels.

    Returns:
        (M, K) float32. Gradients flow to the features only.
    """
    _, rows, columns = pixels.size
    size = torch.tensor([features.shape[3], features.shape[2]], device=boxes.device)
    cells = torch.tensor([columns, rows], device=boxes.device)
    start = boxes[:, :2].detach().float()
    cell_size = (boxes[:, 2:].detach().float() - start).clamp(min=1) / cells
    samples = cell_size.ceil() if sampling_ratio == 0 else sampling_ratio + 0 * cell_size

    # S samples: the pixel of each, and its column and row among the samples of its cell.
    counts = pixels.spread(samples.prod(dim=1, keepdim=True).long())[:, 0]
    first = counts.cumsum(0) - counts
    owner = torch.repeat_interleave(counts)
    region = pixels.rows[owner]
    across = samples[region]
    order = torch.arange(len(owner), device=boxes.device) - first[owner]
    columns_first = across[:, 0].long()
    place = torch.stack([order % columns_first, order // columns_first], dim=1)
    cell = pixels.indices[owner] % (rows * columns)
    cell = torch.stack([cell % columns, cell // columns], dim=1)
    points = start[region] + (cell + (place + 0.5) / across) * cell_size[region]

    inside = ((points >= -1) & (points <= size)).all(dim=1)
    points = points.clamp(min=0).minimum(size - 1)
    low = points.long()
    high = (low + 1).minimum(size - 1)
    share = points - low
    corners = [(low, 1 - share), (high, share)]
    base = image_indices[region] * size.prod()
    indices, shares = [], []
    for x, x_share in corners:
        for y, y_share in corners:
            indices.append(base + y[:, 1] * size[0] + x[:, 0])
            shares.append(x_share[:, 0] * y_share[:, 1])
    weights = torch.stack(shares, dim=1) * (inside / counts[owner])[:, None]
    with torch.autocast(features.device.type, enabled=False):
        return F.embedding_bag(
            torch.stack(indices, dim=1).flatten(),
            features.float().movedim(1, -1).flatten(0, 2),
            4 * first,
            per_sample_weights=weights.flatten(),
            mode="sum",
        )
