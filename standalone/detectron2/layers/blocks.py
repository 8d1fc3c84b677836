"""Building blocks of convolutional networks."""

from __future__ import annotations

from collections.abc import Callable

import torch
from fvcore.nn import weight_init
from torch import nn

from .batch_norm import FrozenBatchNorm2d, get_norm
from .wrappers import Conv2d


class CNNBlockBase(nn.Module):
    """A block with one input map and one output map ``(N, C, H, W)``.

    Attributes:
        in_channels: channels of the input.
        out_channels: channels of the output.
        stride: input pixels per output pixel.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.stride = stride

    def freeze(self) -> CNNBlockBase:
        """Stop training this block: no gradients, batch statistics fixed. Returns the block."""
        self.requires_grad_(False)
        FrozenBatchNorm2d.convert_frozen_batchnorm(self)
        return self


class DepthwiseSeparableConv2d(nn.Module):
    """A depth-wise ``k x k`` convolution followed by a point-wise one."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 3,
        padding: int = 1,
        dilation: int = 1,
        *,
        norm1: str | Callable[[int], nn.Module] | None = None,
        activation1: Callable[[torch.Tensor], torch.Tensor] | None = None,
        norm2: str | Callable[[int], nn.Module] | None = None,
        activation2: Callable[[torch.Tensor], torch.Tensor] | None = None,
    ) -> None:
        """Make the pair of layers.

        Args:
            in_channels: channels of the input.
            out_channels: channels of the output.
            kernel_size: of the depth-wise convolution, like ``padding`` and ``dilation``.
            padding: pixels on each side.
            dilation: spacing of the kernel.
            norm1: normalisation after the depth-wise convolution, see :func:`get_norm`.
            activation1: activation after the depth-wise convolution.
            norm2: normalisation after the point-wise convolution.
            activation2: activation after the point-wise convolution.
        """
        super().__init__()
        self.depthwise = Conv2d(
            in_channels,
            in_channels,
            kernel_size=kernel_size,
            padding=padding,
            dilation=dilation,
            groups=in_channels,
            bias=not norm1,
            norm=get_norm(norm1, in_channels),
            activation=activation1,
        )
        self.pointwise = Conv2d(
            in_channels,
            out_channels,
            kernel_size=1,
            bias=not norm2,
            norm=get_norm(norm2, out_channels),
            activation=activation2,
        )
        weight_init.c2_msra_fill(self.depthwise)
        weight_init.c2_msra_fill(self.pointwise)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``(N, C, H, W) -> (N, C', H', W')``."""
        return self.pointwise(self.depthwise(x))
