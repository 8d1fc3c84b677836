"""The transformer of Deformable DETR (Zhu et al., ICLR 2021): encoder, queries, decoder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import nn

from roca_nocs.layers.ms_deform_attn import MultiScaleDeformableAttention
from roca_nocs.layers.position import sine_box_embedding
from roca_nocs.modeling.transformer.encoder import DeformableEncoder
from roca_nocs.modeling.transformer.feature_levels import FeatureLevels
from roca_nocs.modeling.transformer.point_decoder import PointDecoder
from roca_nocs.modeling.transformer.two_stage import gather_rows, propose_boxes, top_tokens


class InitialQueries(NamedTuple):
    """The queries of B images before the first decoder layer.

    Attributes:
        query_embed: (B, Q, 2E), the position half before the content half.
        reference: (B, Q, 2) logits of points, or (B, Q, 4) of cxcywh boxes.
        proposal_logits: (B, S, K) of all tokens; None for learned queries.
        proposal_boxes: (B, S, 4) float32 cxcywh in [0, 1] of all tokens, 1 throughout where there
            is no proposal; None for learned queries.
    """

    query_embed: torch.Tensor
    reference: torch.Tensor
    proposal_logits: torch.Tensor | None = None
    proposal_boxes: torch.Tensor | None = None


class DeformableTransformer(nn.Module):
    """Encoder and decoder with what lies between them; the heads belong to the model."""

    def __init__(
        self,
        *,
        embed_dim: int = 256,
        num_heads: int = 8,
        enc_layers: int = 6,
        dec_layers: int = 6,
        feedforward_dim: int = 1024,
        dropout: float = 0.1,
        num_feature_levels: int = 4,
        enc_points: int = 4,
        dec_points: int = 4,
        num_queries: int = 300,
        two_stage: bool = False,
        extra_track_attn: bool = False,
    ) -> None:
        """
        Args:
            embed_dim: E.
            num_heads: of all attentions.
            enc_layers, dec_layers: number of layers.
            feedforward_dim: hidden numbers of the perceptrons.
            dropout: of attentions and perceptrons.
            num_feature_levels: L.
            enc_points, dec_points: points that a head samples on each level.
            num_queries: tokens that become queries with ``two_stage``.
            two_stage: queries from the best tokens; needs the heads attached to the decoder.
            extra_track_attn: see :class:`PointDecoder`.
        """
        super().__init__()
        self.num_queries = num_queries
        self.two_stage = two_stage
        self.embed_dim = embed_dim
        self.level_embeds = nn.Parameter(torch.empty(num_feature_levels, embed_dim))
        self.encoder = DeformableEncoder(
            embed_dim,
            num_heads,
            feedforward_dim,
            dropout,
            dropout,
            enc_layers,
            num_feature_levels,
            enc_points,
        )
        self.decoder = PointDecoder(
            embed_dim,
            num_heads,
            feedforward_dim,
            dropout,
            dec_layers,
            num_feature_levels,
            dec_points,
            extra_track_attn,
        )
        if two_stage:
            self.enc_output = nn.Linear(embed_dim, embed_dim)
            self.enc_output_norm = nn.LayerNorm(embed_dim)
            self.pos_trans = nn.Linear(2 * embed_dim, 2 * embed_dim)
            self.pos_trans_norm = nn.LayerNorm(2 * embed_dim)
        else:
            self.reference_points = nn.Linear(embed_dim, 2)
        self._init_weights()

    def _init_weights(self) -> None:
        # Deformable attention has an initialisation of its own.
        attentions = [m for m in self.modules() if isinstance(m, MultiScaleDeformableAttention)]
        initialised = {parameter for each in attentions for parameter in each.parameters()}
        for parameter in self.parameters():
            if parameter.dim() > 1 and parameter not in initialised:
                nn.init.xavier_uniform_(parameter)
        if not self.two_stage:
            nn.init.zeros_(self.reference_points.bias)
        nn.init.normal_(self.level_embeds)

    def level_positions(self, codes: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Position codes (B, E, h, w) of the levels with the embedding of their level added.

        Raises:
            ValueError: the number of levels is not that of the transformer.
        """
        if len(codes) != len(self.level_embeds):
            raise ValueError(
                f"the transformer is built for {len(self.level_embeds)} feature levels, "
                f"got {len(codes)}"
            )
        return [
            code + embedding[:, None, None]
            for code, embedding in zip(codes, self.level_embeds, strict=True)
        ]

    def learned_queries(self, query_embed: torch.Tensor, batch: int) -> InitialQueries:
        """The same queries for each of ``batch`` images, from learned vectors (Q, 2E)."""
        position = query_embed[:, : self.embed_dim]
        reference = self.reference_points(position)
        return InitialQueries(query_embed.expand(batch, -1, -1), reference.expand(batch, -1, -1))

    def propose_queries(self, levels: FeatureLevels) -> InitialQueries:
        """Queries at the tokens of highest logit of the first class, as published.

        During training all targets of the proposals have that class, which then means "object".

        Args:
            levels: the memory, its tokens encoded.
        """
        proposals, usable = propose_boxes(
            levels.centers, levels.padding_mask, levels.spatial_shapes
        )
        candidates = self.enc_output_norm(
            self.enc_output(levels.tokens.masked_fill(~usable[..., None], 0.0))
        )
        logits = self.decoder.class_embed[-1](candidates).float()
        box_logits = self.decoder.bbox_embed[-1](candidates).float() + proposals
        count = min(self.num_queries, logits.shape[1])
        reference = gather_rows(box_logits, top_tokens(logits[..., :1], count)).detach()
        code = sine_box_embedding(reference.sigmoid(), self.embed_dim // 2, exchange_xy=False)
        query_embed = self.pos_trans_norm(self.pos_trans(code))
        return InitialQueries(query_embed, reference, logits, box_logits.sigmoid())
