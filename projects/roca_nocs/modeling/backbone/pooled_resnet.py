"""A ResNet with one level more than its stages, as Cube R-CNN has it."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from detectron2.layers import ShapeSpec
from detectron2.modeling import ResNet

__all__ = ["PooledResNet"]


class PooledResNet(ResNet):
    """A ``ResNet`` whose output ``res6`` is every other pixel of ``res5``.

    Unlike a level that is pooled on top of a feature pyramid it takes part in the top-down path.
    ``out_features`` must name ``res5``.
    """

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """Feature maps (B, channels, h, w) by name."""
        outputs = super().forward(x)
        outputs["res6"] = F.max_pool2d(outputs["res5"], kernel_size=1, stride=2)
        return outputs

    def output_shape(self) -> dict[str, ShapeSpec]:
        """Channels and strides by name."""
        shapes = super().output_shape()
        last = shapes["res5"]
        shapes["res6"] = ShapeSpec(channels=last.channels, stride=2 * last.stride)
        return shapes
