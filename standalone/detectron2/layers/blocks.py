"""Building blocks of convolutional networks."""

from __future__ import annotations

from torch import nn

from .batch_norm import FrozenBatchNorm2d


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
