"""Feature maps of several resolutions as one sequence of tokens.

B images, L levels, E channels, S tokens: the cells of all levels, level by level, row by row.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch


class FeatureLevels(NamedTuple):
    """Flattened feature maps.

    Attributes:
        tokens: (B, S, E).
        positions: (B, S, E) position embedding.
        padding_mask: (B, S) bool, True at tokens of padding; None if there are none.
        spatial_shapes: (height, width) of each level in cells.
        valid_ratios: (B, L, 2) float32, share of the width and height that is not padding.
        centers: (B, S, 2) float32, x and y of each token's cell, relative to the part of its level
            that is not padding (beyond 1 in the padding).
    """

    tokens: torch.Tensor
    positions: torch.Tensor
    padding_mask: torch.Tensor | None
    spatial_shapes: tuple[tuple[int, int], ...]
    valid_ratios: torch.Tensor
    centers: torch.Tensor


def flatten_levels(
    features: Sequence[torch.Tensor],
    masks: Sequence[torch.Tensor] | None,
    positions: Sequence[torch.Tensor],
) -> FeatureLevels:
    """
    Args:
        features: (B, E, H, W) of each level.
        masks: (B, H, W) bool, True at padding, which is at the right and the bottom; None for
            images without padding.
        positions: (B, E, H, W).
    """
    spatial_shapes = tuple((int(f.shape[-2]), int(f.shape[-1])) for f in features)
    sizes = torch.tensor(
        [[width, height] for height, width in spatial_shapes],
        dtype=torch.float32,
        device=features[0].device,
    )
    if masks is None:
        valid_sizes = sizes.expand(len(features[0]), -1, -1)
    else:
        # Padding is rectangular: one row and one column tell the size of the rest.
        valid_sizes = torch.stack(
            [torch.stack([(~m[:, 0, :]).sum(1), (~m[:, :, 0]).sum(1)], dim=-1) for m in masks],
            dim=1,
        ).to(torch.float32)
    centers = [
        _cell_centers(height, width, sizes) / valid_sizes[:, level : level + 1]
        for level, (height, width) in enumerate(spatial_shapes)
    ]
    return FeatureLevels(
        tokens=torch.cat([f.flatten(2).mT for f in features], dim=1),
        positions=torch.cat([p.flatten(2).mT for p in positions], dim=1),
        padding_mask=None if masks is None else torch.cat([m.flatten(1) for m in masks], dim=1),
        spatial_shapes=spatial_shapes,
        valid_ratios=valid_sizes / sizes,
        centers=torch.cat(centers, dim=1),
    )


def _cell_centers(height: int, width: int, like: torch.Tensor) -> torch.Tensor:
    """(height * width, 2): x and y of the cells' centres, in cells."""
    y = torch.arange(height, dtype=like.dtype, device=like.device) + 0.5
    x = torch.arange(width, dtype=like.dtype, device=like.device) + 0.5
    rows, columns = torch.meshgrid(y, x, indexing="ij")
    return torch.stack([columns, rows], dim=-1).flatten(0, 1)
