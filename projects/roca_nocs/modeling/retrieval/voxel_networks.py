"""Residual 3-D convolutional encoder and decoder of 32^3 occupancy grids (ROCA, section 3.4).

Parameter names are those of the published checkpoint.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

GRID_SIZE = 32


class ResidualBlock(nn.Module):
    """``r + conv(ReLU(conv(r)))`` with ``r = ReLU(x)``.

    The skip path carries ReLU(x), not x, as in the published weights: the code they were trained
    with applies the first ReLU in place.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        for index in (0, 1):
            convolution = nn.Conv3d(channels, channels, 3, padding=1)
            self.add_module(f"weight_block_{index}", nn.Sequential(nn.ReLU(), convolution))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, D, D, D) -> the same shape."""
        x = F.relu(x)
        return x + self.weight_block_1(self.weight_block_0(x))


class VoxelEncoder(nn.Module):
    """Embeds occupancy grids of 32^3 cells."""

    embedding_size = 256

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv3d(1, 8, 7, padding=3), nn.ReLU()]
        channels = 8
        for width in (8, 16, 32, 64):
            layers += [nn.Conv3d(channels, width, 4, stride=2, padding=1), ResidualBlock(width)]
            layers += [nn.ReLU()]
            channels = width
        layers += [nn.Conv3d(channels, self.embedding_size, 2), nn.Flatten()]
        self.network = nn.Sequential(*layers)

    def forward(self, grids: torch.Tensor) -> torch.Tensor:
        """(N, 1, 32, 32, 32) float -> (N, 256)."""
        return self.network(grids)


class VoxelDecoder(nn.Module):
    """Completes an occupancy grid from its embedding."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = [
            nn.ReLU(),
            nn.ConvTranspose3d(VoxelEncoder.embedding_size, 64, 2),
            ResidualBlock(64),
        ]
        channels = 64
        for width in (32, 16, 8):
            layers += [
                nn.ConvTranspose3d(channels, width, 4, stride=2, padding=1),
                ResidualBlock(width),
            ]
            channels = width
        layers += [nn.ConvTranspose3d(channels, 8, 4, stride=2, padding=1), nn.ReLU()]
        layers += [nn.ConvTranspose3d(8, 1, 7, padding=3)]
        self.network = nn.Sequential(*layers)

    def forward(self, embeddings: torch.Tensor) -> torch.Tensor:
        """(N, 256) -> logits of occupancy (N, 1, 32, 32, 32)."""
        return self.network(embeddings[:, :, None, None, None])
