"""Embeddings of positions in a feature map and of boxes.

Sines (Vaswani et al., NeurIPS 2017), or learned tables of rows and columns.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import nn


class PositionEmbeddingSine(nn.Module):
    """Position of every cell of a padded feature map, counted inside its valid part.

    The coordinate of a cell is the number of valid cells above (left) of it, itself included. With
    ``normalize`` it becomes (coordinate + offset) / (count of the column (row) + eps) * scale, so
    that it does not depend on the size of the image (DETR; offset -0.5 as in Deformable DETR).
    Cells in columns or rows without any valid cell get meaningless values.
    """

    def __init__(
        self,
        num_pos_feats: int = 128,
        temperature: float = 10000,
        normalize: bool = True,
        offset: float = -0.5,
        scale: float = 2 * math.pi,
        eps: float = 1e-6,
    ) -> None:
        """
        Args:
            num_pos_feats: channels of each of the two coordinates, even.
            temperature: ratio of the longest to the shortest wavelength.
            normalize: relative to the valid part instead of in cells.
            offset: in cells, added before normalising.
            scale: of the normalised coordinates, radians.
            eps: keeps the division finite. Without ``normalize`` these three are unused.
        """
        super().__init__()
        _check_even(num_pos_feats)
        self.num_pos_feats = num_pos_feats
        self.temperature = temperature
        self.normalize = normalize
        self.offset = offset
        self.scale = scale
        self.eps = eps

    def forward(self, padding_mask: torch.Tensor) -> torch.Tensor:
        """
        Args:
            padding_mask: (B, H, W) bool, True at cells that are padding.

        Returns:
            (B, 2 * num_pos_feats, H, W) float32: the channels of y, then those of x.
        """
        valid = ~padding_mask
        y = valid.cumsum(dim=1, dtype=torch.float32)
        x = valid.cumsum(dim=2, dtype=torch.float32)
        if self.normalize:
            y = (y + self.offset) / (y[:, -1:, :] + self.eps) * self.scale
            x = (x + self.offset) / (x[:, :, -1:] + self.eps) * self.scale
        both = [_sine(each, self.num_pos_feats, self.temperature) for each in (y, x)]
        return torch.cat(both, dim=-1).permute(0, 3, 1, 2)


class PositionEmbeddingLearned(nn.Module):
    """Learned vectors of every row and column (DETR; parameters ``row_embed``, ``col_embed``).

    Maps with more rows or columns than the tables read them stretched, linearly interpolated; the
    published code would read beyond their ends.
    """

    def __init__(self, num_pos_feats: int = 128, table_size: int = 50) -> None:
        """
        Args:
            num_pos_feats: channels of each of the two coordinates.
            table_size: rows and columns that have vectors of their own.
        """
        super().__init__()
        self.num_pos_feats = num_pos_feats
        self.row_embed = nn.Embedding(table_size, num_pos_feats)
        self.col_embed = nn.Embedding(table_size, num_pos_feats)
        nn.init.uniform_(self.row_embed.weight)
        nn.init.uniform_(self.col_embed.weight)

    def forward(self, padding_mask: torch.Tensor) -> torch.Tensor:
        """
        Args:
            padding_mask: (B, H, W) bool; only its shape is used.

        Returns:
            (B, 2 * num_pos_feats, H, W): the channels of the column, then those of the row.
        """
        batch, height, width = padding_mask.shape
        rows = _first_or_stretched(self.row_embed.weight, height)[:, :, None]
        columns = _first_or_stretched(self.col_embed.weight, width)[:, None, :]
        both = [columns.expand(-1, height, -1), rows.expand(-1, -1, width)]
        return torch.cat(both).expand(batch, -1, -1, -1)


def _first_or_stretched(table: torch.Tensor, length: int) -> torch.Tensor:
    """(E, length) of a table (N, E)."""
    if length <= len(table):
        return table[:length].T
    return F.interpolate(table.T[None], size=length, mode="linear", align_corners=True)[0]


def sine_box_embedding(
    coordinates: torch.Tensor,
    num_features: int,
    *,
    temperature: float = 10000,
    exchange_xy: bool = True,
) -> torch.Tensor:
    """Embed points or boxes (DAB-DETR, Liu et al., ICLR 2022).

    Args:
        coordinates: (..., K) in [0, 1], K at least 2: x, y, and for boxes width, height.
        num_features: channels of each coordinate, even.
        temperature: ratio of the longest to the shortest wavelength.
        exchange_xy: put the channels of y before those of x, as in the published models.

    Returns:
        (..., K * num_features).
    """
    _check_even(num_features)
    embedded = _sine(coordinates * (2 * math.pi), num_features, temperature)
    if exchange_xy:
        embedded = torch.cat(
            [embedded[..., 1:2, :], embedded[..., 0:1, :], embedded[..., 2:, :]], dim=-2
        )
    return embedded.flatten(-2)


def _sine(angles: torch.Tensor, num_features: int, temperature: float) -> torch.Tensor:
    """(...) radians to (..., num_features): sine and cosine in turn, the shortest waves first."""
    exponents = torch.arange(0, num_features, 2, device=angles.device, dtype=torch.float32)
    phases = angles[..., None] / temperature ** (exponents / num_features)
    return torch.stack([phases.sin(), phases.cos()], dim=-1).flatten(-2)


def _check_even(num_features: int) -> None:
    if num_features <= 0 or num_features % 2:
        raise ValueError(
            f"a sine embedding needs an even number of channels per coordinate, got {num_features}"
        )
