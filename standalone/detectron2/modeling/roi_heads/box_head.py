"""Feature extractors of the box branch."""

from collections.abc import Sequence
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import Conv2d, ShapeSpec, get_norm
from detectron2.utils.registry import Registry
from fvcore.nn import weight_init
from torch import nn

ROI_BOX_HEAD_REGISTRY = Registry("ROI_BOX_HEAD")
ROI_BOX_HEAD_REGISTRY.__doc__ = (
    "Box heads; called with ``(cfg, ShapeSpec)``; ``(N, C, H, W)`` features in, per-box features "
    "out, whose shape is the ``output_shape`` of the head."
)


def build_box_head(cfg: CfgNode, input_shape: ShapeSpec) -> nn.Module:
    """Build the head named by ``cfg.MODEL.ROI_BOX_HEAD.NAME``."""
    return ROI_BOX_HEAD_REGISTRY.get(cfg.MODEL.ROI_BOX_HEAD.NAME)(cfg, input_shape)


@ROI_BOX_HEAD_REGISTRY.register()
class FastRCNNConvFCHead(nn.Sequential):
    """3x3 convolutions, then fully connected layers, each followed by ReLU."""

    @configurable
    def __init__(
        self,
        input_shape: ShapeSpec,
        *,
        conv_dims: Sequence[int],
        fc_dims: Sequence[int],
        conv_norm: Any = "",
    ) -> None:
        """
        Args:
            input_shape: channels, height and width of one pooled region.
            conv_dims: output channels of the convolutions.
            fc_dims: output features of the fully connected layers.
            conv_norm: normalisation of the convolutions, see :func:`detectron2.layers.get_norm`.
        """
        super().__init__()
        conv_dims, fc_dims = tuple(conv_dims), tuple(fc_dims)
        assert conv_dims or fc_dims, (
            "FastRCNNConvFCHead needs at least one entry in conv_dims/fc_dims"
        )

        channels, height, width = input_shape.channels, input_shape.height, input_shape.width
        convs, fcs = [], []
        for index, dim in enumerate(conv_dims, start=1):
            conv = Conv2d(
                channels,
                dim,
                kernel_size=3,
                padding=1,
                bias=not conv_norm,
                norm=get_norm(conv_norm, dim),
                activation=nn.ReLU(),
            )
            self.add_module(f"conv{index}", conv)
            convs.append(conv)
            channels = dim

        self._output_shape = ShapeSpec(channels=channels, height=height, width=width)
        features = channels * (height or 1) * (width or 1)
        for index, dim in enumerate(fc_dims, start=1):
            if index == 1:
                self.add_module("flatten", nn.Flatten())
            fc = nn.Linear(features, dim)
            self.add_module(f"fc{index}", fc)
            self.add_module(f"fc_relu{index}", nn.ReLU())
            fcs.append(fc)
            features = dim
            self._output_shape = ShapeSpec(channels=dim)

        for conv in convs:
            weight_init.c2_msra_fill(conv)
        for fc in fcs:
            weight_init.c2_xavier_fill(fc)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: ShapeSpec) -> dict[str, Any]:
        """Read ``cfg.MODEL.ROI_BOX_HEAD``."""
        head = cfg.MODEL.ROI_BOX_HEAD
        return {
            "input_shape": input_shape,
            "conv_dims": [head.CONV_DIM] * head.NUM_CONV,
            "fc_dims": [head.FC_DIM] * head.NUM_FC,
            "conv_norm": head.NORM,
        }

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map ``(M, C, H, W)`` to ``(M, D)``, or to ``(M, D, H, W)`` without ``fc_dims``."""
        for layer in self:
            x = layer(x)
        return x

    @property
    def output_shape(self) -> ShapeSpec:
        """Shape of the features of one region."""
        return self._output_shape
