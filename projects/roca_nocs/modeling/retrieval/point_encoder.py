"""PointNet without normalisation layers (Qi et al., 2017) for sets with invalid points.

The parameters of the layers at points are those of convolutions of width one (published names).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn


class PointTransform(nn.Module):
    """Predicts a (k, k) matrix per set, near the identity, to multiply its columns by."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels
        self.conv1 = nn.Conv1d(channels, 64, 1)
        self.conv2 = nn.Conv1d(64, 128, 1)
        self.conv3 = nn.Conv1d(128, 1024, 1)
        self.fc1 = nn.Linear(1024, 512)
        self.fc2 = nn.Linear(512, 256)
        self.fc3 = nn.Linear(256, channels * channels)

    def forward(self, features: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
        """(N, P, k), (N, P) bool -> (N, k, k)."""
        x = _at_points(self.conv2, _at_points(self.conv1, features).relu_()).relu_()
        x = _at_points(self.conv3, x).masked_fill_(~valid[..., None], 0)
        x = x.max(dim=1).values.relu()
        x = self.fc3(F.relu(self.fc2(F.relu(self.fc1(x)))))
        identity = torch.eye(self.channels, device=x.device, dtype=x.dtype)
        return x.view(-1, self.channels, self.channels) + identity


class PointEncoder(nn.Module):
    """Embeds point sets."""

    embedding_size = 1024

    def __init__(self) -> None:
        super().__init__()
        self.stn = PointTransform(3)
        self.conv1 = nn.Conv1d(3, 64, 1)
        self.fstn = PointTransform(64)
        self.conv2 = nn.Conv1d(64, 128, 1)
        self.conv3 = nn.Conv1d(128, self.embedding_size, 1)

    def forward(self, points: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
        """(N, 3, P), (N, P) bool -> (N, 1024)."""
        x = points.transpose(1, 2)
        x = x @ self.stn(x, valid).mT
        x = _at_points(self.conv1, x).relu_()
        x = x @ self.fstn(x, valid).mT
        x = _at_points(self.conv3, _at_points(self.conv2, x).relu_())
        # Sets without a valid point take their minimum (published numbers): their embedding
        # depends on the coordinates of the invalid ones.
        empty = (~valid.any(dim=1)).nonzero()[:, 0]
        lowest = x[empty].amin(dim=1)
        x = x.masked_fill_(~valid[..., None], -torch.inf).max(dim=1).values
        return x.index_copy(0, empty, lowest).relu()


def _at_points(layer: nn.Conv1d, x: torch.Tensor) -> torch.Tensor:
    """A convolution of width one, (N, P, C) -> (N, P, D), without the detour of convolutions."""
    return F.linear(x, layer.weight[..., 0], layer.bias)
