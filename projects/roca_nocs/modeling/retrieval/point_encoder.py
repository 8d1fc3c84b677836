"""PointNet without normalisation layers (Qi et al., 2017) for sets with invalid points."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn


class PointTransform(nn.Module):
    """Predicts a (k, k) matrix per set, near the identity, to multiply its columns by."""

    def __init__(self, channels: int, widths: tuple[int, int, int]) -> None:
        super().__init__()
        narrow, middle, wide = widths
        self.channels = channels
        self.conv1 = nn.Conv1d(channels, narrow, 1)
        self.conv2 = nn.Conv1d(narrow, middle, 1)
        self.conv3 = nn.Conv1d(middle, wide, 1)
        self.fc1 = nn.Linear(wide, wide // 2)
        self.fc2 = nn.Linear(wide // 2, wide // 4)
        self.fc3 = nn.Linear(wide // 4, channels * channels)

    def forward(self, features: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
        """(N, k, P), (N, P) bool -> (N, k, k)."""
        x = self.conv3(F.relu(self.conv2(F.relu(self.conv1(features)))))
        x = F.relu(x).masked_fill(~valid[:, None], 0).amax(dim=2)
        x = self.fc3(F.relu(self.fc2(F.relu(self.fc1(x)))))
        identity = torch.eye(self.channels, device=x.device, dtype=x.dtype)
        return x.view(-1, self.channels, self.channels) + identity


class PointEncoder(nn.Module):
    """Embeds point sets."""

    def __init__(self, widths: tuple[int, int, int] = (64, 128, 1024)) -> None:
        """
        Args:
            widths: channels after each of the three layers on points; the last is the size E of
                the embedding.
        """
        super().__init__()
        narrow, middle, self.embedding_size = widths
        self.stn = PointTransform(3, widths)
        self.conv1 = nn.Conv1d(3, narrow, 1)
        self.fstn = PointTransform(narrow, widths)
        self.conv2 = nn.Conv1d(narrow, middle, 1)
        self.conv3 = nn.Conv1d(middle, self.embedding_size, 1)

    def forward(self, points: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
        """(N, 3, P), (N, P) bool -> (N, E)."""
        x = self.stn(points, valid) @ points
        x = F.relu(self.conv1(x))
        x = self.fstn(x, valid) @ x
        x = self.conv3(F.relu(self.conv2(x)))
        # Invalid points take the channel's minimum, which is what remains of a set without valid
        # points: its embedding depends on the coordinates of the invalid ones (published numbers).
        return F.relu(torch.where(valid[:, None], x, x.amin(dim=2, keepdim=True)).amax(dim=2))
