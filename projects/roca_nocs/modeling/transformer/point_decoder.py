"""Decoder of Deformable DETR: queries with positions of their own, around points or boxes."""

from __future__ import annotations

import torch
from torch import nn

from roca_nocs.geometry.boxes import inverse_sigmoid
from roca_nocs.layers.ms_deform_attn import MultiScaleDeformableAttention
from roca_nocs.layers.transformer import FeedForward, SelfAttention, never_all
from roca_nocs.modeling.transformer.decoder import DecoderLayer
from roca_nocs.modeling.transformer.feature_levels import FeatureLevels

# The published models saturate coordinates closer than this to 0 or 1.
_EPSILON = 1e-5


class PointDecoder(nn.Module):
    """A stack of post-norm layers (Zhu et al., ICLR 2021).

    N layers, B images, Q queries, E channels. With refinement each layer attends around the boxes
    of the one before, without it all layers around the first points.
    """

    def __init__(
        self,
        embed_dim: int = 256,
        num_heads: int = 8,
        feedforward_dim: int = 1024,
        dropout: float = 0.1,
        num_layers: int = 6,
        num_feature_levels: int = 4,
        num_points: int = 4,
        extra_track_attn: bool = False,
    ) -> None:
        """
        Args:
            embed_dim: E, a multiple of ``num_heads``.
            num_heads: of all attentions.
            feedforward_dim: hidden numbers of the perceptron.
            dropout: of attentions and perceptron.
            num_layers: N.
            num_feature_levels: L.
            num_points: points that a head samples on each level.
            extra_track_attn: queries that come from an earlier frame attend to each other first
                (MOTR, Zeng et al., ECCV 2022).
        """
        super().__init__()
        self.num_layers = num_layers
        self.refines = False
        layer_class = TrackDecoderLayer if extra_track_attn else DecoderLayer
        self.layers = nn.ModuleList(
            layer_class.of_sizes(
                embed_dim,
                num_heads,
                feedforward_dim,
                dropout,
                dropout,
                num_feature_levels,
                num_points,
            )
            for _ in range(num_layers)
        )

    def attach_box_heads(self, bbox_embed: nn.ModuleList) -> None:
        """Refine boxes with the model's heads; the published weights name them here too."""
        self.bbox_embed = bbox_embed
        self.refines = True

    def attach_class_heads(self, class_embed: nn.ModuleList) -> None:
        """The heads whose last rates the proposals of a two-stage model."""
        self.class_embed = class_embed

    def forward(
        self,
        query_embed: torch.Tensor,
        reference: torch.Tensor,
        levels: FeatureLevels,
        box_heads: nn.ModuleList,
        *,
        query_padding: torch.Tensor | None = None,
        num_detect: int | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """
        Args:
            query_embed: (B, Q, 2E), the position half before the content half.
            reference: (B, Q, 2 or 4) logits of points or of cxcywh boxes.
            levels: the memory, its tokens encoded.
            box_heads: at least N, (B, Q, E) to (B, Q, 4).
            query_padding: (B, Q) bool, True at queries that no other must see.
            num_detect: how many queries come before those of earlier frames; None for all.

        Returns:
            states (N, B, Q, E) and boxes (N, B, Q, 4) float32, cxcywh in [0, 1] of the image's
            valid part.

        Raises:
            ValueError: shapes do not fit.
        """
        if query_embed.shape[:2] != reference.shape[:2] or reference.shape[-1] not in (2, 4):
            raise ValueError(
                f"reference must have shape {(*query_embed.shape[:2], '2 or 4')}, "
                f"got {tuple(reference.shape)}"
            )
        query_pos, queries = query_embed.chunk(2, dim=-1)
        points = reference.float().sigmoid()
        ratios = levels.valid_ratios[:, None]
        states, boxes = [], []
        for layer, box_head in zip(self.layers, box_heads, strict=False):
            scale = ratios if points.shape[-1] == 2 else torch.cat([ratios, ratios], dim=-1)
            inputs = (queries, query_pos, levels.tokens, levels, points[:, :, None] * scale)
            if isinstance(layer, TrackDecoderLayer):
                queries = layer(*inputs, query_padding=query_padding, num_detect=num_detect)
            else:
                queries = layer(*inputs, query_padding=query_padding)
            box = _boxes_around(points, box_head(queries).float())
            states.append(queries)
            boxes.append(box)
            if self.refines:
                points = box.detach()
        return torch.stack(states), torch.stack(boxes)


class TrackDecoderLayer(DecoderLayer):
    """A decoder layer before which the queries of earlier frames attend to each other."""

    def __init__(
        self,
        self_attention: SelfAttention,
        cross_attention: MultiScaleDeformableAttention,
        ffn: FeedForward,
        embed_dim: int,
    ) -> None:
        super().__init__(self_attention, cross_attention, ffn, embed_dim)
        self.update_attn = nn.MultiheadAttention(
            embed_dim,
            self_attention.attn.num_heads,
            dropout=self_attention.attn.dropout,
            batch_first=True,
        )
        self.dropout5 = nn.Dropout(self_attention.dropout.p)
        self.norm4 = nn.LayerNorm(embed_dim)

    def forward(  # type: ignore[override]  # knows where the track queries start
        self,
        queries: torch.Tensor,
        query_pos: torch.Tensor,
        memory: torch.Tensor,
        levels: FeatureLevels,
        reference_points: torch.Tensor,
        *,
        query_padding: torch.Tensor | None = None,
        num_detect: int | None = None,
    ) -> torch.Tensor:
        """As :class:`DecoderLayer`; the queries from ``num_detect`` on are tracks."""
        if num_detect is not None and num_detect < queries.shape[1]:
            detect, tracks = queries[:, :num_detect], queries[:, num_detect:]
            positioned = tracks + query_pos[:, num_detect:]
            padding = None if query_padding is None else query_padding[:, num_detect:]
            attended, _ = self.update_attn(
                positioned,
                positioned,
                tracks,
                key_padding_mask=never_all(padding),
                need_weights=False,
            )
            tracks = self.norm4(tracks + self.dropout5(attended))
            queries = torch.cat([detect, tracks], dim=1)
        return super().forward(
            queries,
            query_pos,
            memory,
            levels,
            reference_points,
            query_padding=query_padding,
        )


def _boxes_around(points: torch.Tensor, offsets: torch.Tensor) -> torch.Tensor:
    """Boxes from offsets (B, Q, 4) of logits; around a point the size has no first value."""
    base = inverse_sigmoid(points, _EPSILON)
    if base.shape[-1] == 2:
        base = torch.cat([base, torch.zeros_like(base)], dim=-1)
    return (offsets + base).sigmoid()
