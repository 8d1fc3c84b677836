"""The transformer of AlignDETR and DINO: encoder, proposals, decoder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import nn

from roca_nocs.layers.ms_deform_attn import MultiScaleDeformableAttention
from roca_nocs.modeling.transformer.decoder import DeformableDecoder
from roca_nocs.modeling.transformer.denoising import DenoisingQueries
from roca_nocs.modeling.transformer.encoder import DeformableEncoder
from roca_nocs.modeling.transformer.feature_levels import flatten_levels
from roca_nocs.modeling.transformer.two_stage import gather_rows, propose_boxes, top_tokens


class TransformerOutput(NamedTuple):
    """What the prediction heads need; N decoder layers, M denoising queries before Q others.

    Attributes:
        states: (N, B, M + Q, E) of the decoder layers, normalised.
        init_reference: (B, M + Q, 4) boxes before the first layer, without gradient.
        references: (N, B, M + Q, 4) boxes after each layer.
        encoder_states: (B, Q, E) of the selected tokens.
        encoder_boxes: (B, Q, 4) that they propose.

    All boxes are cxcywh in [0, 1] of the image's valid part.
    """

    states: torch.Tensor
    init_reference: torch.Tensor
    references: torch.Tensor
    encoder_states: torch.Tensor
    encoder_boxes: torch.Tensor


class AlignDETRTransformer(nn.Module):
    """Two-stage deformable transformer with mixed query selection (DINO, Zhang et al., ICLR 2023).

    The best tokens of the encoder give the first boxes of the queries, learned vectors their
    content: the i-th vector belongs to the token of rank i.
    """

    def __init__(
        self,
        encoder: DeformableEncoder,
        decoder: DeformableDecoder,
        num_feature_levels: int = 4,
        two_stage_num_proposals: int = 900,
        learnt_init_query: bool = True,
    ) -> None:
        """
        Args:
            encoder, decoder: of equal ``embed_dim``.
            num_feature_levels: L.
            two_stage_num_proposals: Q; an image with fewer tokens has only as many queries.
            learnt_init_query: the queries' content is learned; otherwise it is that of the
                selected tokens, without gradient, and there is no ``tgt_embed``.
        """
        super().__init__()
        if encoder.embed_dim != decoder.embed_dim:
            raise ValueError(
                f"encoder and decoder differ in embed_dim: {encoder.embed_dim} and "
                f"{decoder.embed_dim}"
            )
        self.embed_dim = encoder.embed_dim
        self.num_feature_levels = num_feature_levels
        self.two_stage_num_proposals = two_stage_num_proposals
        self.level_embeds = nn.Parameter(torch.empty(num_feature_levels, self.embed_dim))
        self.encoder = encoder
        self.decoder = decoder
        self.tgt_embed = (
            nn.Embedding(two_stage_num_proposals, self.embed_dim) if learnt_init_query else None
        )
        self.enc_output = nn.Linear(self.embed_dim, self.embed_dim)
        self.enc_output_norm = nn.LayerNorm(self.embed_dim)
        self._init_weights()

    def _init_weights(self) -> None:
        # Deformable attention has an initialisation of its own.
        attentions = [m for m in self.modules() if isinstance(m, MultiScaleDeformableAttention)]
        initialised = {parameter for each in attentions for parameter in each.parameters()}
        for parameter in self.parameters():
            if parameter.dim() > 1 and parameter not in initialised:
                nn.init.xavier_uniform_(parameter)
        nn.init.normal_(self.level_embeds)

    def num_queries(self, num_tokens: int) -> int:
        """Q of images with this many tokens."""
        return min(self.two_stage_num_proposals, num_tokens)

    def forward(
        self,
        features: Sequence[torch.Tensor],
        masks: Sequence[torch.Tensor] | None,
        positions: Sequence[torch.Tensor],
        denoising: DenoisingQueries | None = None,
    ) -> TransformerOutput:
        """
        Args:
            features: (B, E, H, W) of each level, from fine to coarse.
            masks: (B, H, W) bool of each level, True at padding; None for images without padding.
            positions: (B, E, H, W) position embedding of each level.
            denoising: queries to decode besides; made for ``num_queries`` of the tokens.
        """
        if len(features) != self.num_feature_levels:
            raise ValueError(
                f"the transformer is built for {self.num_feature_levels} feature levels, "
                f"got {len(features)}"
            )
        positions = [
            position + embedding[:, None, None]
            for position, embedding in zip(positions, self.level_embeds, strict=True)
        ]
        levels = flatten_levels(features, masks, positions)
        memory = self.encoder(levels)

        proposals, usable = propose_boxes(
            levels.centers, levels.padding_mask, levels.spatial_shapes
        )
        usable_memory = memory.masked_fill(~usable[..., None], 0.0)
        candidates = self.enc_output_norm(self.enc_output(usable_memory))
        scores = self.decoder.class_embed[-1](candidates)
        count = self.num_queries(candidates.shape[1])
        chosen = top_tokens(scores, count)
        encoder_states = gather_rows(candidates, chosen)
        # The perceptron of the boxes runs on the chosen tokens only.
        box_logits = self.decoder.bbox_embed[-1](encoder_states) + gather_rows(proposals, chosen)

        if self.tgt_embed is None:
            queries = encoder_states.detach()
        else:
            queries = self.tgt_embed.weight[:count].expand(len(chosen), -1, -1)
        reference_logits = box_logits.detach()
        attn_mask = None
        if denoising is not None:
            queries = torch.cat([denoising.content, queries], dim=1)
            reference_logits = torch.cat([denoising.boxes_logits, reference_logits], dim=1)
            attn_mask = denoising.attention_mask
        init_reference = reference_logits.sigmoid()
        states, references = self.decoder(queries, init_reference, memory, levels, attn_mask)
        return TransformerOutput(
            states, init_reference, references, encoder_states, box_logits.sigmoid()
        )
