"""Residual networks (arXiv 1512.03385)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.layers import CNNBlockBase, Conv2d, ShapeSpec, get_norm
from fvcore.nn import weight_init
from torch import nn
from torch.nn import functional as F

from .backbone import Backbone
from .build import BACKBONE_REGISTRY

ResNetBlockBase = CNNBlockBase
Norm = str | Callable[[int], nn.Module] | None

BLOCKS_PER_STAGE = {
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
}
"""Number of blocks of res2 to res5 by depth."""


def _convolution(
    in_channels: int,
    out_channels: int,
    kernel_size: int,
    norm: Norm,
    *,
    activation: Callable[[torch.Tensor], torch.Tensor] | None = F.relu_,
    dilation: int = 1,
    **kwargs: Any,
) -> Conv2d:
    """A convolution without bias that keeps the size at stride 1."""
    return Conv2d(
        in_channels,
        out_channels,
        kernel_size,
        padding=dilation * (kernel_size // 2),
        dilation=dilation,
        bias=False,
        norm=get_norm(norm, out_channels),
        activation=activation,
        **kwargs,
    )


class BasicStem(CNNBlockBase):
    """The first layers: a 7x7 convolution and a 3x3 max pooling, both of stride 2."""

    def __init__(self, in_channels: int = 3, out_channels: int = 64, norm: Norm = "BN") -> None:
        super().__init__(in_channels, out_channels, stride=4)
        self.conv1 = _convolution(in_channels, out_channels, 7, norm, stride=2)
        weight_init.c2_msra_fill(self.conv1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``(N, C, H, W) -> (N, C', ceil(H / 4), ceil(W / 4))``."""
        return F.max_pool2d(self.conv1(x), kernel_size=3, stride=2, padding=1)


class _ResidualBlock(CNNBlockBase):
    """``relu(branch(x) + shortcut(x))``; the shortcut is a projection if the channels change."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, norm: Norm) -> None:
        super().__init__(in_channels, out_channels, stride)
        # Made before the branch: the order decides which random numbers each layer draws.
        self.shortcut = (
            _convolution(in_channels, out_channels, 1, norm, activation=None, stride=stride)
            if in_channels != out_channels
            else None
        )

    def _fill_weights(self, *branch: Conv2d) -> None:
        for layer in (*branch, self.shortcut):
            if layer is not None:
                weight_init.c2_msra_fill(layer)

    def _add_shortcut(self, branch: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        return F.relu_(branch + (x if self.shortcut is None else self.shortcut(x)))


class BasicBlock(_ResidualBlock):
    """Two 3x3 convolutions, for depths 18 and 34."""

    def __init__(
        self, in_channels: int, out_channels: int, *, stride: int = 1, norm: Norm = "BN"
    ) -> None:
        """Make the block.

        Args:
            in_channels: channels of the input.
            out_channels: channels of the output.
            stride: of the first convolution.
            norm: normalisation of all convolutions, see ``detectron2.layers.get_norm``.
        """
        super().__init__(in_channels, out_channels, stride, norm)
        self.conv1 = _convolution(in_channels, out_channels, 3, norm, stride=stride)
        self.conv2 = _convolution(out_channels, out_channels, 3, norm, activation=None)
        self._fill_weights(self.conv1, self.conv2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``(N, C, H, W) -> (N, C', ceil(H / stride), ceil(W / stride))``."""
        return self._add_shortcut(self.conv2(self.conv1(x)), x)


class BottleneckBlock(_ResidualBlock):
    """1x1, 3x3 and 1x1 convolutions, for depths 50, 101 and 152."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        bottleneck_channels: int,
        stride: int = 1,
        num_groups: int = 1,
        norm: Norm = "BN",
        stride_in_1x1: bool = False,
        dilation: int = 1,
    ) -> None:
        """Make the block.

        Args:
            in_channels: channels of the input.
            out_channels: channels of the output.
            bottleneck_channels: channels of the 3x3 convolution.
            stride: of the block.
            num_groups: groups of the 3x3 convolution.
            norm: normalisation of all convolutions, see ``detectron2.layers.get_norm``.
            stride_in_1x1: put the stride on the first 1x1 convolution, as the original (Caffe)
                weights need it, instead of on the 3x3, as the torchvision weights do.
            dilation: of the 3x3 convolution.
        """
        super().__init__(in_channels, out_channels, stride, norm)
        stride_1x1, stride_3x3 = (stride, 1) if stride_in_1x1 else (1, stride)
        self.conv1 = _convolution(in_channels, bottleneck_channels, 1, norm, stride=stride_1x1)
        self.conv2 = _convolution(
            bottleneck_channels,
            bottleneck_channels,
            3,
            norm,
            stride=stride_3x3,
            groups=num_groups,
            dilation=dilation,
        )
        self.conv3 = _convolution(bottleneck_channels, out_channels, 1, norm, activation=None)
        self._fill_weights(self.conv1, self.conv2, self.conv3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``(N, C, H, W) -> (N, C', ceil(H / stride), ceil(W / stride))``."""
        return self._add_shortcut(self.conv3(self.conv2(self.conv1(x))), x)


class ResNet(Backbone):
    """A stem and stages ``res2``, ``res3``, ... of residual blocks."""

    def __init__(
        self,
        stem: CNNBlockBase,
        stages: Sequence[Sequence[CNNBlockBase]],
        num_classes: int | None = None,
        out_features: Sequence[str] | None = None,
        freeze_at: int = 0,
    ) -> None:
        """Assemble the network.

        Args:
            stem: first block.
            stages: blocks of ``res2``, ``res3``, ... Stages behind the last requested output are
                left out.
            num_classes: add a global average pooling and a linear layer with so many outputs.
            out_features: names out of ``stem``, ``res2``, ..., ``linear``; the last one if
                ``None``.
            freeze_at: see :meth:`freeze`.
        """
        super().__init__()
        self.stem = stem
        self.num_classes = num_classes
        strides, channels = {"stem": stem.stride}, {"stem": stem.out_channels}
        names = [f"res{number}" for number in range(2, 2 + len(stages))]
        if out_features is not None and "linear" not in out_features:
            used = [names.index(name) + 1 for name in out_features if name in names]
            names = names[: max(used, default=0)]
        stride = stem.stride
        for name, blocks in zip(names, stages, strict=False):
            assert len(blocks) > 0, f"Stage {name} has no blocks."
            assert all(isinstance(block, CNNBlockBase) for block in blocks), (
                f"The blocks of {name} must be CNNBlockBase, got "
                f"{[type(block).__name__ for block in blocks]}."
            )
            self.add_module(name, nn.Sequential(*blocks))
            stride *= math.prod(block.stride for block in blocks)
            strides[name], channels[name] = stride, blocks[-1].out_channels
        self.stage_names = tuple(names)

        outputs = ["stem", *names]
        if num_classes is not None:
            self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
            self.linear = nn.Linear(channels[outputs[-1]], num_classes)
            # Section 5.1 of arXiv 1706.02677.
            nn.init.normal_(self.linear.weight, std=0.01)
            outputs.append("linear")

        self._out_features = tuple(outputs[-1:] if out_features is None else out_features)
        assert len(self._out_features) > 0, "ResNet needs at least one of `out_features`."
        children = [name for name, _ in self.named_children()]
        unknown = [name for name in self._out_features if name not in outputs]
        assert not unknown, f"Unknown out_features {unknown}. Available children: {children}"
        self._out_feature_strides = strides
        self._out_feature_channels = channels
        self.freeze(freeze_at)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """Map images ``(N, C, H, W)`` to the requested outputs.

        ``res{k}`` has stride ``2^k``, sizes are rounded up; ``linear`` is ``(N, num_classes)``.
        """
        assert x.dim() == 4, (
            f"ResNet takes an input of shape (N, C, H, W). Got {tuple(x.shape)} instead!"
        )
        outputs = {"stem": self.stem(x)}
        x = outputs["stem"]
        for name in self.stage_names:
            x = outputs[name] = getattr(self, name)(x)
        if "linear" in self._out_features:
            outputs["linear"] = self.linear(self.avgpool(x).flatten(1))
        return {name: outputs[name] for name in outputs if name in self._out_features}

    def output_shape(self) -> dict[str, ShapeSpec]:
        """Channels and stride of every requested output (for ``linear`` only the channels)."""
        return {
            name: ShapeSpec(
                channels=self._out_feature_channels.get(name, self.num_classes),
                stride=self._out_feature_strides.get(name),
            )
            for name in self._out_features
        }

    def freeze(self, freeze_at: int = 0) -> ResNet:
        """Stop training the first stages.

        Args:
            freeze_at: 0 nothing, 1 the stem, ``k >= 2`` also ``res2`` to ``res{k}``.

        Returns:
            The network itself.
        """
        if freeze_at >= 1:
            self.stem.freeze()
        for number, name in enumerate(self.stage_names, start=2):
            if freeze_at >= number:
                for block in getattr(self, name):
                    block.freeze()
        return self

    @staticmethod
    def make_stage(
        block_class: type[CNNBlockBase],
        num_blocks: int,
        *,
        in_channels: int,
        out_channels: int,
        **kwargs: Any,
    ) -> list[CNNBlockBase]:
        """Make the blocks of one stage.

        Args:
            block_class: called once per block.
            num_blocks: number of blocks.
            in_channels: channels that enter the first block.
            out_channels: channels of every block's output.
            **kwargs: further arguments of the block. ``x_per_block=[...]`` gives each block its
                own value of ``x``.
        """
        shared, distributed = {}, {}
        for key, value in kwargs.items():
            name = key.removesuffix("_per_block")
            if name == key:
                shared[key] = value
                continue
            assert len(value) == num_blocks, (
                f"Argument '{key}' of make_stage needs {num_blocks} values, got {len(value)}."
            )
            assert name not in kwargs, f"make_stage cannot take both '{name}' and '{key}'."
            distributed[name] = value
        return [
            block_class(
                in_channels=in_channels if index == 0 else out_channels,
                out_channels=out_channels,
                **shared,
                **{name: values[index] for name, values in distributed.items()},
            )
            for index in range(num_blocks)
        ]

    @staticmethod
    def make_default_stages(
        depth: int, block_class: type[CNNBlockBase] | None = None, **kwargs: Any
    ) -> list[list[CNNBlockBase]]:
        """Make the four stages of a network of the paper.

        Args:
            depth: 18, 34, 50, 101 or 152.
            block_class: :class:`BasicBlock` below depth 50, else :class:`BottleneckBlock`.
            **kwargs: further arguments of the block.

        Raises:
            ValueError: another depth.
        """
        if depth not in BLOCKS_PER_STAGE:
            raise ValueError(
                f"No default stages for depth {depth}, choose one of {sorted(BLOCKS_PER_STAGE)}."
            )
        deep = depth >= 50
        if block_class is None:
            block_class = BottleneckBlock if deep else BasicBlock
        outputs = (256, 512, 1024, 2048) if deep else (64, 128, 256, 512)
        inputs = (64, *outputs[:-1])
        stages = []
        for num_blocks, stride, in_channels, out_channels in zip(
            BLOCKS_PER_STAGE[depth], (1, 2, 2, 2), inputs, outputs, strict=True
        ):
            bottleneck = {"bottleneck_channels": out_channels // 4} if deep else {}
            stages.append(
                ResNet.make_stage(
                    block_class,
                    num_blocks,
                    in_channels=in_channels,
                    out_channels=out_channels,
                    stride_per_block=[stride] + [1] * (num_blocks - 1),
                    **bottleneck,
                    **kwargs,
                )
            )
        return stages


make_stage = ResNet.make_stage


@BACKBONE_REGISTRY.register()
def build_resnet_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> ResNet:
    """Build a ResNet from ``cfg.MODEL.{RESNETS, BACKBONE.FREEZE_AT}``."""
    options = cfg.MODEL.RESNETS
    depth, norm = options.DEPTH, options.NORM
    dilated = options.RES5_DILATION == 2
    assert options.RES5_DILATION in (1, 2), (
        f"RES5_DILATION must be 1 or 2, got {options.RES5_DILATION}."
    )
    if depth < 50:
        assert options.RES2_OUT_CHANNELS == 64, "RES2_OUT_CHANNELS must be 64 for depths 18 and 34."
        assert not dilated, "RES5_DILATION must be 1 for depths 18 and 34."
        assert options.NUM_GROUPS == 1, "NUM_GROUPS must be 1 for depths 18 and 34."

    stem = BasicStem(input_shape.channels, options.STEM_OUT_CHANNELS, norm)
    stages = []
    in_channels, width = options.STEM_OUT_CHANNELS, options.NUM_GROUPS * options.WIDTH_PER_GROUP
    for index, num_blocks in enumerate(BLOCKS_PER_STAGE[depth]):
        last_dilated = dilated and index == 3
        out_channels = options.RES2_OUT_CHANNELS << index
        arguments: dict[str, Any] = {
            "stride_per_block": [1 if index == 0 or last_dilated else 2] + [1] * (num_blocks - 1),
            "norm": norm,
        }
        if depth >= 50:
            arguments |= {
                "bottleneck_channels": width << index,
                "num_groups": options.NUM_GROUPS,
                "stride_in_1x1": options.STRIDE_IN_1X1,
                "dilation": 2 if last_dilated else 1,
            }
        stages.append(
            ResNet.make_stage(
                BottleneckBlock if depth >= 50 else BasicBlock,
                num_blocks,
                in_channels=in_channels,
                out_channels=out_channels,
                **arguments,
            )
        )
        in_channels = out_channels
    return ResNet(
        stem,
        stages,
        out_features=options.OUT_FEATURES,
        freeze_at=cfg.MODEL.BACKBONE.FREEZE_AT,
    )
