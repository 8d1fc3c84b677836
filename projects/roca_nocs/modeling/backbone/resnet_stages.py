"""Residual stages of any depth as torchvision has them."""

from __future__ import annotations

from typing import Any

from detectron2.layers import CNNBlockBase
from detectron2.modeling import ResNet


def torchvision_stages(depth: int, **block: Any) -> list[list[CNNBlockBase]]:
    """The stages of a ResNet, with the stride of a bottleneck block in its 3x3 convolution.

    A config that names this function can change its depth: the blocks below depth 50 have no
    bottleneck and refuse detectron2's ``stride_in_1x1``.

    Args:
        depth: 18, 34, 50, 101 or 152.
        block: further arguments of the blocks, such as ``norm``.
    """
    if depth >= 50:
        block["stride_in_1x1"] = False
    return ResNet.make_default_stages(depth, **block)
