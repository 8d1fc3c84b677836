"""The shape code: what the depth features say about the whole object in a region."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from roca_nocs.layers.masked_pixels import MaskedPixels
from roca_nocs.layers.mlp import MLP, SharedMLP
from roca_nocs.layers.pixel_roi_align import pixel_roi_align


class ShapeEncoder(nn.Module):
    """Perceptron at each pixel of the object, maximum over the pixels, perceptron on the result."""

    def __init__(
        self,
        *,
        in_channels: int,
        pixel_sizes: Sequence[int],
        code_sizes: Sequence[int],
        sampling_ratio: int,
        dropout: float,
    ) -> None:
        """
        Args:
            in_channels: F, channels of the depth features.
            pixel_sizes: layers of the perceptron that all pixels share.
            code_sizes: layers of the perceptron after the maximum; the last is D.
            sampling_ratio: samples along each side of a grid cell; 0 takes about one per pixel of
                the feature map, as the published model does; it has no half-pixel shift either.
            dropout: probability with which numbers of the code are dropped in training.
        """
        super().__init__()
        self.sampling_ratio = sampling_ratio
        self.shared_net = SharedMLP(in_channels, pixel_sizes)
        self.global_net = MLP(pixel_sizes[-1], code_sizes)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        features: torch.Tensor,
        boxes: torch.Tensor,
        image_indices: torch.Tensor,
        pixels: MaskedPixels,
    ) -> torch.Tensor:
        """
        Args:
            features: (B, F, H, W).
            boxes: (N, 4), in pixels of the features.
            image_indices: (N,) int64.
            pixels: those of the objects, of G x G.

        Returns:
            (N, D). A region without object pixels has the code of a zero maximum.
        """
        values = pixel_roi_align(features, boxes, image_indices, pixels, self.sampling_ratio)
        values = self.shared_net(values, pixels)
        return self.dropout(self.global_net(pixels.maximum(values)))
