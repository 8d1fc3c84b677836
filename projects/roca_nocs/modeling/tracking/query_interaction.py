"""Query interaction module: what the tracks of a frame become in the next one."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

__all__ = ["QueryInteraction"]


class QueryInteraction(nn.Module):
    """Attention between the tracks of a clip, then perceptrons for their position and content.

    With P, G the halves of a query and E the output of the decoder:
    X = LN1(E + attention(q = k = P + E, v = E)), X = LN2(X + FFN(X)), P' = LN(P + FFN(X)) unless
    positions are kept, G' = LN(G + FFN(X)).

    Source: MOTR (Zeng et al., ECCV 2022). Parameters have the names of its published weights,
    where ``norm3`` exists and is not used.
    """

    def __init__(
        self,
        embed_dim: int = 256,
        feedforward_dim: int = 1024,
        num_heads: int = 8,
        dropout: float = 0.0,
        update_query_pos: bool = True,
    ) -> None:
        """
        Args:
            embed_dim: C, a multiple of ``num_heads``.
            feedforward_dim: hidden numbers of the perceptrons.
            num_heads: of the attention.
            dropout: of the attention and at every residual.
            update_query_pos: change the position half too.
        """
        super().__init__()
        self.embed_dim = embed_dim
        self.update_query_pos = update_query_pos
        self.self_attn = nn.MultiheadAttention(
            embed_dim, num_heads, dropout=dropout, batch_first=True
        )
        self.linear1 = nn.Linear(embed_dim, feedforward_dim)
        self.linear2 = nn.Linear(feedforward_dim, embed_dim)
        if update_query_pos:
            self.linear_pos1 = nn.Linear(embed_dim, feedforward_dim)
            self.linear_pos2 = nn.Linear(feedforward_dim, embed_dim)
            self.norm_pos = nn.LayerNorm(embed_dim)
        self.linear_feat1 = nn.Linear(embed_dim, feedforward_dim)
        self.linear_feat2 = nn.Linear(feedforward_dim, embed_dim)
        self.norm_feat = nn.LayerNorm(embed_dim)
        self.norm1 = nn.LayerNorm(embed_dim)
        self.norm2 = nn.LayerNorm(embed_dim)
        if update_query_pos:
            # Only for the published weights: a parameter without gradient cannot be trained.
            self.norm3 = nn.LayerNorm(embed_dim).requires_grad_(False)
        self.dropout = nn.Dropout(dropout)
        for name, parameter in self.named_parameters():
            if parameter.dim() > 1 and not name.startswith("norm"):
                nn.init.xavier_uniform_(parameter)

    def forward(
        self, query: torch.Tensor, embedding: torch.Tensor, clip: torch.Tensor
    ) -> torch.Tensor:
        """
        Args:
            query: (N, 2C), position half and content half.
            embedding: (N, C) output of the last decoder layer.
            clip: (N,) int64; tracks of different clips do not see each other.

        Returns:
            (N, 2C) new queries; N may be 0.
        """
        position, content = query.split(self.embed_dim, dim=-1)
        if len(query) == 0:
            # Attention refuses empty sequences; distributed training needs every parameter.
            unused = sum(p.sum() for p in self.parameters() if p.requires_grad)
            return query + 0.0 * unused
        positioned = (position + embedding)[None]
        apart = clip[:, None] != clip[None, :]
        attended, _ = self.self_attn(
            positioned, positioned, embedding[None], attn_mask=apart, need_weights=False
        )
        x = self.norm1(embedding + self.dropout(attended[0]))
        x = self.norm2(x + self._perceptron(x, self.linear1, self.linear2))
        if self.update_query_pos:
            change = self._perceptron(x, self.linear_pos1, self.linear_pos2)
            position = self.norm_pos(position + change)
        content = self.norm_feat(
            content + self._perceptron(x, self.linear_feat1, self.linear_feat2)
        )
        return torch.cat([position, content], dim=-1)

    def _perceptron(self, x: torch.Tensor, first: nn.Linear, second: nn.Linear) -> torch.Tensor:
        return self.dropout(second(self.dropout(F.relu(first(x)))))
