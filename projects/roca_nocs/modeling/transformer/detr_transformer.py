"""The transformer of DETR (Carion et al., ECCV 2020): full attention, post-norm layers."""

from __future__ import annotations

import torch
from torch import nn

from roca_nocs.layers.transformer import CrossAttention, FeedForward, SelfAttention

__all__ = ["DetrTransformer"]


class DetrTransformer(nn.Module):
    """Encoder and decoder; parameters ``encoder.layers.i``, ``decoder.{layers.i,norm}``."""

    def __init__(
        self,
        embed_dim: int = 256,
        num_heads: int = 8,
        enc_layers: int = 6,
        dec_layers: int = 6,
        feedforward_dim: int = 2048,
        dropout: float = 0.1,
    ) -> None:
        """
        Args:
            embed_dim: E, a multiple of ``num_heads``.
            num_heads: of all attentions.
            enc_layers, dec_layers: number of layers.
            feedforward_dim: hidden numbers of the perceptrons.
            dropout: of attentions and perceptrons.
        """
        super().__init__()
        sizes = (embed_dim, num_heads, feedforward_dim, dropout)
        self.encoder = nn.Module()
        self.encoder.layers = nn.ModuleList(_EncoderLayer(*sizes) for _ in range(enc_layers))
        self.decoder = nn.Module()
        self.decoder.layers = nn.ModuleList(_DecoderLayer(*sizes) for _ in range(dec_layers))
        self.decoder.norm = nn.LayerNorm(embed_dim)
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)

    def forward(
        self,
        tokens: torch.Tensor,
        positions: torch.Tensor,
        padding: torch.Tensor,
        query_embed: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """
        Args:
            tokens: (B, S, E) cells of the feature map.
            positions: (B, S, E) their position code.
            padding: (B, S) bool, True at padding.
            query_embed: (Q, E) position of each query; their content starts as 0.

        Returns:
            normalised states (B, Q, E) of the last layer, and the memory (B, S, E).
        """
        memory = tokens
        for layer in self.encoder.layers:
            memory = layer(memory, positions, padding)
        query_pos = query_embed.expand(len(tokens), -1, -1)
        queries = torch.zeros_like(query_pos)
        for layer in self.decoder.layers:
            queries = layer(queries, query_pos, memory, positions, padding)
        return self.decoder.norm(queries), memory


class _EncoderLayer(nn.Module):
    def __init__(self, embed_dim: int, num_heads: int, feedforward_dim: int, dropout: float):
        super().__init__()
        self.attentions = nn.ModuleList([SelfAttention(embed_dim, num_heads, dropout)])
        self.ffns = nn.ModuleList([FeedForward(embed_dim, feedforward_dim, dropout)])
        self.norms = nn.ModuleList(nn.LayerNorm(embed_dim) for _ in range(2))

    def forward(
        self, tokens: torch.Tensor, positions: torch.Tensor, padding: torch.Tensor
    ) -> torch.Tensor:
        tokens = self.attentions[0](tokens, query_pos=positions, key_padding_mask=padding)
        return self.norms[1](self.ffns[0](self.norms[0](tokens)))


class _DecoderLayer(nn.Module):
    def __init__(self, embed_dim: int, num_heads: int, feedforward_dim: int, dropout: float):
        super().__init__()
        self.attentions = nn.ModuleList(
            [
                SelfAttention(embed_dim, num_heads, dropout),
                CrossAttention(embed_dim, num_heads, dropout),
            ]
        )
        self.ffns = nn.ModuleList([FeedForward(embed_dim, feedforward_dim, dropout)])
        self.norms = nn.ModuleList(nn.LayerNorm(embed_dim) for _ in range(3))

    def forward(
        self,
        queries: torch.Tensor,
        query_pos: torch.Tensor,
        memory: torch.Tensor,
        positions: torch.Tensor,
        padding: torch.Tensor,
    ) -> torch.Tensor:
        queries = self.norms[0](self.attentions[0](queries, query_pos=query_pos))
        queries = self.attentions[1](
            queries, memory, query_pos=query_pos, token_pos=positions, key_padding_mask=padding
        )
        return self.norms[2](self.ffns[0](self.norms[1](queries)))
