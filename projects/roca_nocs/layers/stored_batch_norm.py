"""Batch normalisation that never looks at the batch."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

__all__ = ["StoredBatchNorm2d"]


class StoredBatchNorm2d(nn.BatchNorm2d):
    """``BatchNorm2d`` with its stored statistics in training too; weight and bias are trained.

    The official NOCS program runs its heads like this. Parameters, buffers and state dicts are
    those of ``BatchNorm2d``; unlike ``FrozenBatchNorm2d`` it learns, and unlike ``BatchNorm2d`` it
    neither updates the statistics nor couples the samples of a batch.
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Normalise (N, C, H, W)."""
        mean, var = self.running_mean, self.running_var
        return F.batch_norm(x, mean, var, self.weight, self.bias, training=False, eps=self.eps)
