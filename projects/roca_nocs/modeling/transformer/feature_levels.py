"""Feature maps of several resolutions as one sequence of tokens.

B images, L levels, E channels, S tokens: the cells of all levels, level by level, row by row.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F


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
    *,
    whole: bool = False,
) -> FeatureLevels:
    """
    Args:
        features: (B, E, H, W) of each level.
        masks: (B, H, W) bool, True at padding, which is at the right and the bottom; None for
            images without padding. Of other masks the first row and column count; where they are
            padding throughout, the size of the rest is taken to be one cell.
        positions: (B, E, H, W).
        whole: the masks only hide cells, wherever they are: centres are relative to whole levels.
    """
    spatial_shapes = tuple((int(f.shape[-2]), int(f.shape[-1])) for f in features)
    sizes = torch.tensor(
        [[width, height] for height, width in spatial_shapes],
        dtype=torch.float32,
        device=features[0].device,
    )
    if masks is None or whole:
        valid_sizes = sizes.expand(len(features[0]), -1, -1)
    else:
        # Padding is rectangular: one row and one column tell the size of the rest.
        valid_sizes = torch.stack(
            [torch.stack([(~m[:, 0, :]).sum(1), (~m[:, :, 0]).sum(1)], dim=-1) for m in masks],
            dim=1,
        )
        valid_sizes = valid_sizes.to(torch.float32).clamp(min=1.0)
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


def resize_padding(padding: torch.Tensor, level: torch.Tensor) -> torch.Tensor:
    """Padding of images at one of their levels.

    Args:
        padding: (B, H, W) bool, True at padding.
        level: (B, E, h, w), only its size is used.

    Returns:
        (B, h, w) bool, True at cells whose first pixel is padding.
    """
    return F.interpolate(padding[:, None].float(), size=level.shape[-2:])[:, 0].bool()


def choose_features(
    strides: Mapping[str, int], factors: Sequence[int], user: str
) -> tuple[str, ...]:
    """The features of some multiples of the finest stride, whatever else a backbone has.

    A dilated stage has the stride of the one before it and stands in for twice that stride: of
    strides 4, 8, 16 and 16 the last feature is that of 8 times the finest.

    Args:
        strides: of the features by name, in pixels.
        factors: of 1, 2, 4 and 8, in the order of the result.
        user: who needs them, for the error.

    Raises:
        ValueError: there is no feature for a factor; names those that there are.
    """
    finest = min(strides.values())
    remaining = sorted(strides, key=lambda name: strides[name])
    chosen: dict[int, str] = {}
    for factor in (8, 4, 2, 1):
        low, high = (finest if factor == 1 else 2 * finest), factor * finest
        fitting = [name for name in remaining if low <= strides[name] <= high]
        if fitting:
            # Of equal strides the last has the most layers.
            chosen[factor] = fitting[-1]
            remaining.remove(fitting[-1])
    if any(factor not in chosen for factor in factors):
        raise ValueError(
            f"{user} needs features of the strides {[finest * each for each in sorted(factors)]}, "
            f"the backbone has {dict(strides)}"
        )
    return tuple(chosen[factor] for factor in factors)


def extend_strides(strides: Sequence[int], num_levels: int) -> tuple[int, ...]:
    """Strides of ``num_levels`` levels, of which those beyond the given ones double each time."""
    extra = [strides[-1] * 2**number for number in range(1, num_levels - len(strides) + 1)]
    return (*strides, *extra)


def nearest_level(strides: Sequence[int], wanted: int) -> int:
    """The level whose stride is nearest by ratio; of equal ones the last, of the most layers."""
    distances = [abs(math.log(stride / wanted)) for stride in strides]
    return max(level for level, each in enumerate(distances) if each <= min(distances) + 1e-9)


def split_levels(
    tokens: torch.Tensor, spatial_shapes: Sequence[tuple[int, int]]
) -> list[torch.Tensor]:
    """Tokens (B, S, E) as the maps (B, E, height, width) of their levels."""
    counts = [height * width for height, width in spatial_shapes]
    return [
        part.mT.unflatten(2, tuple(shape))
        for part, shape in zip(tokens.split(counts, dim=1), spatial_shapes, strict=True)
    ]


def _cell_centers(height: int, width: int, like: torch.Tensor) -> torch.Tensor:
    """(height * width, 2): x and y of the cells' centres, in cells."""
    y = torch.arange(height, dtype=like.dtype, device=like.device) + 0.5
    x = torch.arange(width, dtype=like.dtype, device=like.device) + 0.5
    rows, columns = torch.meshgrid(y, x, indexing="ij")
    return torch.stack([columns, rows], dim=-1).flatten(0, 1)
