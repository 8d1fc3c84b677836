"""The neck of DETR-like detectors: backbone features of all strides to the same channels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import nn


class ChannelMapper(nn.Module):
    """Convolution and group normalisation of each feature, and of further, coarser levels.

    The first extra level is made from the last feature as the backbone gives it, not from its
    mapped version; every further one from the level before. Parameters: ``convs.i.{conv,norm}``,
    ``extra_convs.i.{conv,norm}``.
    """

    def __init__(
        self,
        in_features: Sequence[str],
        in_channels: Sequence[int] | None,
        out_channels: int = 256,
        num_outs: int = 4,
        kernel_size: int = 1,
        num_groups: int = 32,
    ) -> None:
        """
        Args:
            in_features: names of the backbone's features, from fine to coarse.
            in_channels: their channels; None if :meth:`set_in_channels` is to follow, by a model
                that knows its backbone.
            out_channels: channels of all levels.
            num_outs: number of levels, at least that of the features; each extra one halves the
                resolution.
            kernel_size: of the convolutions of the features, odd.
            num_groups: of the normalisation; must divide ``out_channels``.

        Raises:
            ValueError: numbers that do not fit each other.
        """
        super().__init__()
        self.in_features = tuple(in_features)
        self.in_channels: tuple[int, ...] | None = None
        self.out_channels = out_channels
        self.num_outs = num_outs
        self.kernel_size = kernel_size
        self.num_groups = num_groups
        if num_outs < len(self.in_features):
            raise ValueError(
                f"num_outs={num_outs} is less than the number of in_features {self.in_features}"
            )
        if in_channels is not None:
            self.set_in_channels(in_channels)

    def set_in_channels(self, in_channels: Sequence[int]) -> None:
        """Make the convolutions.

        Args:
            in_channels: channels of each of ``in_features``.

        Raises:
            ValueError: another number of them.
        """
        self.in_channels = tuple(in_channels)
        if len(self.in_channels) != len(self.in_features) or not self.in_features:
            raise ValueError(
                f"in_channels {self.in_channels} must have one number for each of in_features "
                f"{self.in_features}"
            )
        self.convs = nn.ModuleList(
            _ConvNorm(channels, self.out_channels, self.kernel_size, 1, self.num_groups)
            for channels in self.in_channels
        )
        extra = self.num_outs - len(self.in_features)
        before = [self.in_channels[-1], *[self.out_channels] * (extra - 1)][:extra]
        self.extra_convs = nn.ModuleList(
            _ConvNorm(channels, self.out_channels, 3, 2, self.num_groups) for channels in before
        )

    def forward(self, features: Mapping[str, torch.Tensor]) -> list[torch.Tensor]:
        """
        Args:
            features: (B, in_channels, H, W) by name; others than ``in_features`` are ignored.

        Returns:
            ``num_outs`` levels (B, out_channels, H, W), from fine to coarse.
        """
        used = [features[name] for name in self.in_features]
        levels = [conv(feature) for conv, feature in zip(self.convs, used, strict=True)]
        previous = used[-1]
        for conv in self.extra_convs:
            previous = conv(previous)
            levels.append(previous)
        return levels


class _ConvNorm(nn.Module):
    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int, stride: int, num_groups: int
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(
            in_channels, out_channels, kernel_size, stride=stride, padding=kernel_size // 2
        )
        self.norm = nn.GroupNorm(num_groups, out_channels)
        nn.init.xavier_uniform_(self.conv.weight)
        assert self.conv.bias is not None
        nn.init.zeros_(self.conv.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(self.conv(x))
