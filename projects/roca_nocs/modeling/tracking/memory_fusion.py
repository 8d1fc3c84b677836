"""The encoder's memory of the previous frame as further levels for the present one."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn

from roca_nocs.geometry.bev import BevGrid, transform_points
from roca_nocs.layers.ms_deform_attn import MultiScaleDeformableAttention
from roca_nocs.modeling.transformer.feature_levels import FeatureLevels


class MemoryFusion(nn.Module):
    """Deformable attention from the tokens of a frame to its own levels and those of the last."""

    def __init__(
        self,
        embed_dim: int = 256,
        num_heads: int = 8,
        num_feature_levels: int = 4,
        num_points: int = 4,
        dropout: float = 0.0,
    ) -> None:
        """
        Args:
            embed_dim: C.
            num_heads: of the attention.
            num_feature_levels: L of a frame.
            num_points: points that a head samples on each of 2L levels.
            dropout: of the attention.
        """
        super().__init__()
        self.attention = MultiScaleDeformableAttention(
            embed_dim, num_heads, 2 * num_feature_levels, num_points, dropout
        )
        self.norm = nn.LayerNorm(embed_dim)
        self.time_embed = nn.Parameter(torch.zeros(embed_dim))

    def forward(self, levels: FeatureLevels, previous: Sequence[torch.Tensor]) -> torch.Tensor:
        """
        Args:
            levels: the frame before the encoder.
            previous: (B, C, h, w) of each level, memory of the frame before in this frame's
                coordinates.

        Returns:
            (B, S, C) tokens for the encoder.
        """
        old = torch.cat([level.flatten(2).mT for level in previous], dim=1) + self.time_embed
        ratios = torch.cat([levels.valid_ratios, levels.valid_ratios], dim=1)
        fused = self.attention(
            levels.tokens,
            torch.cat([levels.tokens, old.to(levels.tokens.dtype)], dim=1),
            query_pos=levels.positions,
            key_padding_mask=torch.cat([levels.padding_mask, levels.padding_mask], dim=1),
            reference_points=levels.centers[:, :, None] * ratios[:, None],
            spatial_shapes=(*levels.spatial_shapes, *levels.spatial_shapes),
        )
        return self.norm(fused)


def warp_maps(maps: torch.Tensor, previous_from_now: torch.Tensor, grid: BevGrid) -> torch.Tensor:
    """Feature maps of the previous ego frame as they lie in the present one; zero from outside.

    Args:
        maps: (B, C, h, w) of any resolution, over the whole raster.
        previous_from_now: (B, 3) poses (x, y, yaw) of the present ego frame in the previous one.
        grid: of the raster.

    Returns:
        (B, C, h, w).
    """
    height, width = maps.shape[-2:]
    like = previous_from_now.double()
    cx = (torch.arange(width, device=like.device) + 0.5).to(like) / width
    cy = (torch.arange(height, device=like.device) + 0.5).to(like) / height
    centres = torch.stack([cx.expand(height, -1), cy[:, None].expand(-1, width)], dim=-1)
    points = transform_points(like[:, None, None], grid.normalised_to_metres(centres))
    positions = 2 * grid.metres_to_normalised(points) - 1
    return F.grid_sample(maps.float(), positions.float(), align_corners=False).to(maps.dtype)
