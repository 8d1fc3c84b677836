"""Backward flow: where the content of a map was one step before, and maps that follow it.

A flow (B, 2, H, W) is in cells of its own grid, channel 0 along columns and channel 1 along rows:
what is at cell p at step f was at p + flow(p) at step f - 1.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import nn


class FlowHead(nn.Module):
    """Flow of a feature map; zero before training."""

    def __init__(self, channels: int) -> None:
        """
        Args:
            channels: C of the map, a multiple of 4.
        """
        super().__init__()
        width = channels // 4
        self.layers = nn.Sequential(
            nn.Conv2d(channels, width, 3, padding=1),
            nn.GroupNorm(math.gcd(8, width), width),
            nn.ReLU(),
            nn.Conv2d(width, 2, 3, padding=1),
        )
        nn.init.zeros_(self.layers[-1].weight)
        nn.init.zeros_(self.layers[-1].bias)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """(B, C, H, W) to (B, 2, H, W) float32."""
        # Cells are counted to hundreds: half precision would lose their fractions.
        with torch.autocast(features.device.type, enabled=False):
            return self.layers(features.float())


def warp_by_flow(
    maps: torch.Tensor, flow: torch.Tensor, mode: str = "bilinear", outside: str = "zeros"
) -> torch.Tensor:
    """The maps one step later: out(p) = maps(p + flow(p)).

    Args:
        maps: (B, C, H, W) floating point.
        flow: (B, 2, H, W) float32, or (1, 2, H, W) for all.
        mode: ``"bilinear"`` or ``"nearest"``.
        outside: values beyond the map, ``"zeros"`` or ``"border"``.

    Returns:
        (B, C, H, W) in the dtype of ``maps``.
    """
    height, width = maps.shape[-2:]
    x = torch.arange(width, device=flow.device) + 0.5 + flow[:, 0].float()
    y = torch.arange(height, device=flow.device)[:, None] + 0.5 + flow[:, 1].float()
    positions = torch.stack([2 * x / width - 1, 2 * y / height - 1], dim=-1)
    warped = F.grid_sample(
        maps.float(),
        positions.expand(len(maps), -1, -1, -1),
        mode=mode,
        padding_mode=outside,
        align_corners=False,
    )
    return warped.to(maps.dtype)


def resize_flow(flow: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """The same flow on a grid of another (height, width), in cells of that grid.

    Averaged over the cells of a coarser grid, interpolated for a finer one.
    """
    height, width = flow.shape[-2:]
    if (height, width) == tuple(size):
        return flow
    ratio = flow.new_tensor([size[1] / width, size[0] / height])[:, None, None]
    if size[0] <= height and size[1] <= width:
        return F.adaptive_avg_pool2d(flow, size) * ratio
    return F.interpolate(flow, size=size, mode="bilinear", align_corners=False) * ratio


def compose_flow(before: torch.Tensor, step: torch.Tensor) -> torch.Tensor:
    """Flow over all steps so far: of ``before``, and of one more ``step`` after it.

    Both (B, 2, H, W). What left the map moves on as its border does.
    """
    return step + warp_by_flow(before, step, outside="border")
