"""Blocks of DETR-like transformers, with the parameter names of the published weights.

B images, N tokens, E channels; batch first.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import nn

# Tokens that a CPU takes through a feed-forward network at a time, unless their hidden numbers must
# be kept for the gradient: new memory for those of all tokens costs a sixth of the time.
_PIECE = 2048


class DetrMLP(nn.Module):
    """Linear layers ``layers.0``, ``layers.1``, ... with a ReLU between them."""

    def __init__(self, input_dim: int, hidden_dim: int, output_dim: int, num_layers: int) -> None:
        """
        Args:
            input_dim, hidden_dim, output_dim: numbers in, between the layers, and out.
            num_layers: at least 1.
        """
        super().__init__()
        sizes = [input_dim, *[hidden_dim] * (num_layers - 1), output_dim]
        self.layers = nn.ModuleList(nn.Linear(before, after) for before, after in pairwise(sizes))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(..., input_dim) to (..., output_dim)."""
        for layer in self.layers[:-1]:
            x = layer(x).relu_()
        return self.layers[-1](x)


class FeedForward(nn.Module):
    """x + Linear(ReLU(Linear(x))), parameters ``layers.0.0`` and ``layers.1``."""

    def __init__(self, embed_dim: int, feedforward_dim: int, dropout: float = 0.0) -> None:
        """
        Args:
            embed_dim: E.
            feedforward_dim: numbers of the hidden layer.
            dropout: after each of the two layers.
        """
        super().__init__()
        self.layers = nn.Sequential(
            nn.Sequential(
                nn.Linear(embed_dim, feedforward_dim), nn.ReLU(inplace=True), nn.Dropout(dropout)
            ),
            nn.Linear(feedforward_dim, embed_dim),
            nn.Dropout(dropout),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, N, E) to (B, N, E)."""
        if x.device.type != "cpu" or torch.is_grad_enabled() or torch.compiler.is_compiling():
            return x + self.layers(x)
        pieces = x.flatten(0, -2).split(_PIECE)
        return torch.cat([piece + self.layers(piece) for piece in pieces]).view_as(x)


class SelfAttention(nn.Module):
    """Multi-head attention between queries, with their positions; parameters ``attn.*``."""

    def __init__(self, embed_dim: int, num_heads: int, dropout: float = 0.0) -> None:
        """
        Args:
            embed_dim: E, a multiple of ``num_heads``.
            num_heads: of the attention.
            dropout: of the attention weights and of the result.
        """
        super().__init__()
        self.attn = nn.MultiheadAttention(embed_dim, num_heads, dropout=dropout, batch_first=True)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        x: torch.Tensor,
        *,
        query_pos: torch.Tensor,
        attn_mask: torch.Tensor | None = None,
        key_padding_mask: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """
        Args:
            x: (B, N, E), the values, and with ``query_pos`` added the queries and keys.
            query_pos: (B, N, E).
            attn_mask: (N, N) bool, True where a row must not see a column.
            key_padding_mask: (B, N) bool, True at tokens that nothing must see; an item of the
                batch with such tokens only sees all of them, so that its values stay finite.

        Returns:
            (B, N, E): ``x`` plus what was attended to.
        """
        positioned = x + query_pos
        attended, _ = self.attn(
            positioned,
            positioned,
            x,
            attn_mask=attn_mask,
            key_padding_mask=never_all(key_padding_mask),
            need_weights=False,
        )
        return x + self.dropout(attended)


class CrossAttention(SelfAttention):
    """Multi-head attention from queries to tokens, with the positions of both."""

    def forward(  # type: ignore[override]  # a call with tokens besides the queries
        self,
        x: torch.Tensor,
        tokens: torch.Tensor,
        *,
        query_pos: torch.Tensor,
        token_pos: torch.Tensor,
        key_padding_mask: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """
        Args:
            x: (B, N, E), with ``query_pos`` added the queries.
            tokens: (B, S, E), the values, and with ``token_pos`` added the keys.
            query_pos: (B, N, E).
            token_pos: (B, S, E).
            key_padding_mask: (B, S) bool, True at tokens that no query must see.

        Returns:
            (B, N, E): ``x`` plus what was attended to.
        """
        attended, _ = self.attn(
            x + query_pos,
            tokens + token_pos,
            tokens,
            key_padding_mask=never_all(key_padding_mask),
            need_weights=False,
        )
        return x + self.dropout(attended)


def never_all(mask: torch.Tensor | None) -> torch.Tensor | None:
    """(B, N) bool without the rows that are True throughout: a softmax over nothing is NaN."""
    return None if mask is None else mask & ~mask.all(dim=1, keepdim=True)
