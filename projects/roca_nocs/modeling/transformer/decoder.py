"""Decoder of DINO: object queries with boxes that every layer refines."""

from __future__ import annotations

from typing import Self

import torch
from torch import nn

from roca_nocs.geometry.boxes import inverse_sigmoid
from roca_nocs.layers.ms_deform_attn import MultiScaleDeformableAttention
from roca_nocs.layers.position import sine_box_embedding
from roca_nocs.layers.transformer import DetrMLP, FeedForward, SelfAttention
from roca_nocs.modeling.transformer.feature_levels import FeatureLevels


class DeformableDecoder(nn.Module):
    """A stack of post-norm layers: attention between queries, to the image, a perceptron.

    N layers, B images, Q queries, E channels, L levels. The prediction heads belong to the model
    and are attached by :meth:`attach_heads`; the published weights name them here too.
    """

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
        look_forward_twice: bool = True,
    ) -> None:
        """
        Args:
            embed_dim: E, a multiple of 4 and of ``num_heads``.
            num_heads: of both attentions.
            feedforward_dim: hidden numbers of the perceptron.
            attn_dropout, ffn_dropout: of the attentions and of the perceptron.
            num_layers: N.
            num_feature_levels: L.
            num_points: points that a head samples on each level.
            look_forward_twice: the loss of a layer's boxes also trains the refinement before it
                (DINO, Zhang et al., ICLR 2023).
        """
        super().__init__()
        if embed_dim % 4:
            raise ValueError(f"embed_dim must be a multiple of 4, got {embed_dim}")
        self.embed_dim = embed_dim
        self.num_layers = num_layers
        self.look_forward_twice = look_forward_twice
        self.layers = nn.ModuleList(
            DecoderLayer.of_sizes(
                embed_dim,
                num_heads,
                feedforward_dim,
                attn_dropout,
                ffn_dropout,
                num_feature_levels,
                num_points,
            )
            for _ in range(num_layers)
        )
        self.ref_point_head = DetrMLP(2 * embed_dim, embed_dim, embed_dim, 2)
        self.norm = nn.LayerNorm(embed_dim)

    def attach_heads(self, class_embed: nn.ModuleList, bbox_embed: nn.ModuleList) -> None:
        """Use these heads: one for each layer, and one more for the encoder's proposals."""
        for heads in (class_embed, bbox_embed):
            if len(heads) != self.num_layers + 1:
                raise ValueError(
                    f"{self.num_layers} decoder layers need {self.num_layers + 1} heads, "
                    f"got {len(heads)}"
                )
        self.class_embed = class_embed
        self.bbox_embed = bbox_embed

    def forward(
        self,
        queries: torch.Tensor,
        reference: torch.Tensor,
        memory: torch.Tensor,
        levels: FeatureLevels,
        attn_mask: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """
        Args:
            queries: (B, Q, E).
            reference: (B, Q, 4) initial boxes, cxcywh in [0, 1] of the image's valid part.
            memory: (B, S, E) encoded tokens.
            levels: what ``memory`` belongs to.
            attn_mask: (Q, Q) bool, True where a query must not see another.

        Returns:
            normalised states (N, B, Q, E) and refined boxes (N, B, Q, 4) of all layers.
        """
        ratios = torch.cat([levels.valid_ratios, levels.valid_ratios], dim=-1)[:, None]
        states, references = [], []
        for layer, box_head in zip(self.layers, self.bbox_embed[:-1], strict=True):
            on_levels = reference[:, :, None] * ratios
            embedded = sine_box_embedding(on_levels[:, :, 0], self.embed_dim // 2)
            queries = layer(
                queries, self.ref_point_head(embedded), memory, levels, on_levels, attn_mask
            )
            refined = (box_head(queries) + inverse_sigmoid(reference)).sigmoid()
            # Each layer learns from its own boxes; through the recorded ones also from the next.
            reference = refined.detach()
            states.append(self.norm(queries))
            references.append(refined if self.look_forward_twice else reference)
        return torch.stack(states), torch.stack(references)


class DecoderLayer(nn.Module):
    """Attention between queries, to the image, a perceptron; each followed by its norm."""

    def __init__(
        self,
        self_attention: SelfAttention,
        cross_attention: MultiScaleDeformableAttention,
        ffn: FeedForward,
        embed_dim: int,
    ) -> None:
        super().__init__()
        self.attentions = nn.ModuleList([self_attention, cross_attention])
        self.ffns = nn.ModuleList([ffn])
        self.norms = nn.ModuleList(nn.LayerNorm(embed_dim) for _ in range(3))

    @classmethod
    def of_sizes(
        cls,
        embed_dim: int,
        num_heads: int,
        feedforward_dim: int,
        attn_dropout: float,
        ffn_dropout: float,
        num_feature_levels: int,
        num_points: int,
    ) -> Self:
        """A layer of this class with attentions and a perceptron of these sizes."""
        return cls(
            SelfAttention(embed_dim, num_heads, attn_dropout),
            MultiScaleDeformableAttention(
                embed_dim, num_heads, num_feature_levels, num_points, attn_dropout
            ),
            FeedForward(embed_dim, feedforward_dim, ffn_dropout),
            embed_dim,
        )

    def forward(
        self,
        queries: torch.Tensor,
        query_pos: torch.Tensor,
        memory: torch.Tensor,
        levels: FeatureLevels,
        reference_points: torch.Tensor,
        attn_mask: torch.Tensor | None = None,
        query_padding: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """
        Args:
            queries, query_pos: (B, Q, E).
            memory: (B, S, E) encoded tokens.
            levels: what ``memory`` belongs to.
            reference_points: (B, Q, L, 2 or 4) on the levels.
            attn_mask: (Q, Q) bool, True where a query must not see another.
            query_padding: (B, Q) bool, True at queries that no other must see.

        Returns:
            (B, Q, E).
        """
        queries = self.attentions[0](
            queries, query_pos=query_pos, attn_mask=attn_mask, key_padding_mask=query_padding
        )
        queries = self.attentions[1](
            self.norms[0](queries),
            memory,
            query_pos=query_pos,
            key_padding_mask=levels.padding_mask,
            reference_points=reference_points,
            spatial_shapes=levels.spatial_shapes,
        )
        return self.norms[2](self.ffns[0](self.norms[1](queries)))
