"""Atrous spatial pyramid pooling (arXiv 1706.05587)."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

import torch
from fvcore.nn import weight_init
from torch import nn
from torch.nn import functional as F

from .batch_norm import get_norm
from .blocks import DepthwiseSeparableConv2d
from .wrappers import Conv2d

Norm = str | Callable[[int], nn.Module] | None
Activation = Callable[[torch.Tensor], torch.Tensor] | None


class ASPP(nn.Module):
    """Look at one feature map with several dilations and with global pooling, and merge.

    State dict: ``convs.0`` (1x1), ``convs.1`` to ``convs.3`` (dilated 3x3), ``convs.4.1`` (after
    pooling), ``project``.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        dilations: Sequence[int],
        *,
        norm: Norm,
        activation: Activation,
        pool_kernel_size: Sequence[int] | None = None,
        dropout: float = 0.0,
        use_depthwise_separable_conv: bool = False,
    ) -> None:
        """Make the branches.

        Args:
            in_channels: channels of the input.
            out_channels: channels of every branch and of the output.
            dilations: three dilations.
            norm: normalisation of all but the pooling branch, whose map may be a single pixel.
            activation: copied for every layer.
            pool_kernel_size: (height, width) of the average pooling; ``None`` pools everything.
            dropout: probability of dropping an output value in training.
            use_depthwise_separable_conv: make the dilated convolutions depth-wise separable.
        """
        super().__init__()
        assert len(dilations) == 3, f"ASPP expects 3 dilations, got {len(dilations)}."
        self.pool_kernel_size = None if pool_kernel_size is None else tuple(pool_kernel_size)
        self.dropout = dropout

        def convolution(channels: int, kernel_size: int, norm: Norm, dilation: int = 1) -> Conv2d:
            layer = Conv2d(
                channels,
                out_channels,
                kernel_size,
                padding=dilation * (kernel_size // 2),
                dilation=dilation,
                bias=norm == "",
                norm=get_norm(norm, out_channels),
                activation=copy.deepcopy(activation),
            )
            weight_init.c2_xavier_fill(layer)
            return layer

        def dilated(dilation: int) -> nn.Module:
            if not use_depthwise_separable_conv:
                return convolution(in_channels, 3, norm, dilation)
            return DepthwiseSeparableConv2d(
                in_channels,
                out_channels,
                padding=dilation,
                dilation=dilation,
                norm1=norm,
                activation1=copy.deepcopy(activation),
                norm2=norm,
                activation2=copy.deepcopy(activation),
            )

        self.convs = nn.ModuleList([convolution(in_channels, 1, norm)])
        self.convs.extend(dilated(dilation) for dilation in dilations)
        pool = (
            nn.AdaptiveAvgPool2d(1)
            if self.pool_kernel_size is None
            else nn.AvgPool2d(self.pool_kernel_size, stride=1)
        )
        self.convs.append(nn.Sequential(pool, convolution(in_channels, 1, "")))
        self.project = convolution(5 * out_channels, 1, norm)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``(N, C, H, W) -> (N, C', H, W)``.

        Raises:
            ValueError: the map is not a multiple of the pooling window.
        """
        size = x.shape[-2:]
        window = self.pool_kernel_size
        if window is not None and (size[0] % window[0] or size[1] % window[1]):
            raise ValueError(
                f"ASPP needs a feature map whose size is a multiple of `pool_kernel_size` "
                f"{window}, got {tuple(size)}."
            )
        *branches, pooled = [branch(x) for branch in self.convs]
        pooled = F.interpolate(pooled, size=size, mode="bilinear", align_corners=False)
        merged = self.project(torch.cat([*branches, pooled], dim=1))
        return F.dropout(merged, self.dropout, training=self.training)
