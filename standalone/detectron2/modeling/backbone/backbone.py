"""What every backbone offers."""

from __future__ import annotations

from abc import ABCMeta, abstractmethod
from collections.abc import Sequence

import torch
from detectron2.layers import ShapeSpec
from torch import nn


class Backbone(nn.Module, metaclass=ABCMeta):
    """A network from images to named feature maps.

    Subclasses implement :meth:`forward` and either override :meth:`output_shape` or set
    ``_out_features`` (names), ``_out_feature_channels`` and ``_out_feature_strides`` (by name).
    """

    _out_features: Sequence[str]
    _out_feature_channels: dict[str, int]
    _out_feature_strides: dict[str, int]

    @abstractmethod
    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """Map images ``(N, C, H, W)`` to feature maps by name, each ``(N, C_f, H_f, W_f)``."""

    @property
    def size_divisibility(self) -> int:
        """Both sides of the input must be multiples of this; 0 if any size will do."""
        return 0

    @property
    def padding_constraints(self) -> dict[str, int]:
        """Further wishes for the padding, see ``ImageList.from_tensors``."""
        return {}

    def output_shape(self) -> dict[str, ShapeSpec]:
        """Channels and stride of every output."""
        return {
            name: ShapeSpec(
                channels=self._out_feature_channels[name], stride=self._out_feature_strides[name]
            )
            for name in self._out_features
        }
