"""Semantic segmentation from the memory of a deformable encoder."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn


class SemanticHead(nn.Module):
    """All levels to the finest one, added, then up to the finest feature of the backbone.

    Each level passes a 3x3 convolution to C/2 channels, or as many as asked for; a 1x1 convolution
    adds the backbone's feature; a 3x3 and a 1x1 convolution give the classes.
    """

    def __init__(
        self,
        hidden_dim: int,
        fine_channels: int,
        num_classes: int,
        num_levels: int,
        gn_groups: int | str = 8,
        width: int | None = None,
    ) -> None:
        """
        Args:
            hidden_dim: C.
            fine_channels: of the backbone's finest feature.
            num_classes: classes of the result.
            num_levels: levels that are read.
            gn_groups: of the normalisations, or ``"auto"``.
            width: channels between; None for C/2.

        Raises:
            ValueError: the channels between are not a multiple of the groups.
        """
        super().__init__()
        name = "hidden_dim / 2" if width is None else "semantic_dim"
        width = hidden_dim // 2 if width is None else width
        groups = math.gcd(8, width) if gn_groups == "auto" else int(gn_groups)
        if width % groups:
            raise ValueError(f"{name} must be a multiple of gn_groups={groups}, got {width}")
        self.levels = nn.ModuleList(
            _conv_norm(hidden_dim, width, groups) for _ in range(num_levels)
        )
        self.lateral = nn.Conv2d(fine_channels, width, 1)
        self.fuse = _conv_norm(width, width, groups)
        self.classes = nn.Conv2d(width, num_classes, 1)

    def forward(self, levels: Sequence[torch.Tensor], finest: torch.Tensor | None) -> torch.Tensor:
        """
        Args:
            levels: (B, C, h, w) from fine to coarse.
            finest: (B, fine_channels, h', w'), the backbone's finest feature; None leaves it out,
                and the result has twice the size of the finest level.

        Returns:
            (B, num_classes, h', w') logits.
        """
        maps = [conv(level) for conv, level in zip(self.levels, levels, strict=True)]
        total = maps[0]
        for each in maps[1:]:
            total = total + _resize(each, maps[0].shape[-2:])
        if finest is None:
            total = _resize(total, [2 * size for size in total.shape[-2:]])
        else:
            total = _resize(total, finest.shape[-2:]) + self.lateral(finest)
        return self.classes(self.fuse(total))


def _conv_norm(in_channels: int, out_channels: int, groups: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 3, padding=1),
        nn.GroupNorm(groups, out_channels),
        nn.ReLU(),
    )


def _resize(maps: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
    return F.interpolate(maps, size=list(size), mode="bilinear", align_corners=False)
