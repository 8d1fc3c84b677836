"""Encoder of Deformable DETR: tokens of all levels attend to points of all levels."""

from __future__ import annotations

import torch
from torch import nn

from roca_nocs.layers.ms_deform_attn import MultiScaleDeformableAttention
from roca_nocs.layers.transformer import FeedForward
from roca_nocs.modeling.transformer.feature_levels import FeatureLevels


class DeformableEncoder(nn.Module):
    """A stack of post-norm layers: deformable attention, then a perceptron."""

    def __init__(
        self,
        embed_dim: int = 256,
        num_heads: int = 8,
        feedforward_dim: int = 2048,
        attn_dropout: float = 0.0,
        ffn_dropout: float = 0.0,
        num_layers: int = 6,
        num_feature_levels: int = 4,
        num_points: int = 4,
        post_norm: bool = False,
    ) -> None:
        """
        Args:
            embed_dim: E, a multiple of ``num_heads``.
            num_heads: of the attention.
            feedforward_dim: hidden numbers of the perceptron.
            attn_dropout, ffn_dropout: of the attention and of the perceptron.
            num_layers: number of layers.
            num_feature_levels: L.
            num_points: points that a head samples on each level.
            post_norm: one more layer normalisation at the end.
        """
        super().__init__()
        self.embed_dim = embed_dim
        self.layers = nn.ModuleList(
            _EncoderLayer(
                MultiScaleDeformableAttention(
                    embed_dim, num_heads, num_feature_levels, num_points, attn_dropout
                ),
                FeedForward(embed_dim, feedforward_dim, ffn_dropout),
                embed_dim,
            )
            for _ in range(num_layers)
        )
        self.post_norm_layer = nn.LayerNorm(embed_dim) if post_norm else None

    def forward(self, levels: FeatureLevels) -> torch.Tensor:
        """The encoded tokens (B, S, E); those of padding are computed but meaningless."""
        # Where each token looks on each level: the same place of the image.
        reference_points = levels.centers[:, :, None] * levels.valid_ratios[:, None]
        tokens = levels.tokens
        for layer in self.layers:
            tokens = layer(tokens, levels, reference_points)
        return tokens if self.post_norm_layer is None else self.post_norm_layer(tokens)


class _EncoderLayer(nn.Module):
    def __init__(
        self, attention: MultiScaleDeformableAttention, ffn: FeedForward, embed_dim: int
    ) -> None:
        super().__init__()
        self.attentions = nn.ModuleList([attention])
        self.ffns = nn.ModuleList([ffn])
        self.norms = nn.ModuleList(nn.LayerNorm(embed_dim) for _ in range(2))

    def forward(
        self, tokens: torch.Tensor, levels: FeatureLevels, reference_points: torch.Tensor
    ) -> torch.Tensor:
        tokens = self.attentions[0](
            tokens,
            tokens,
            query_pos=levels.positions,
            key_padding_mask=levels.padding_mask,
            reference_points=reference_points,
            spatial_shapes=levels.spatial_shapes,
        )
        return self.norms[1](self.ffns[0](self.norms[0](tokens)))
