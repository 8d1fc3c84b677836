"""Feature pyramid networks (arXiv 1612.03144)."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from detectron2.config import CfgNode
from detectron2.layers import Conv2d, ShapeSpec, get_norm
from fvcore.nn import weight_init
from torch import nn
from torch.nn import functional as F

from .backbone import Backbone
from .build import BACKBONE_REGISTRY
from .resnet import Norm, build_resnet_backbone


class FPN(Backbone):
    """Pyramid levels ``p{k}`` of stride ``2^k`` and equal channels over another backbone."""

    def __init__(
        self,
        bottom_up: Backbone,
        in_features: Sequence[str],
        out_channels: int,
        norm: Norm = "",
        top_block: nn.Module | None = None,
        fuse_type: str = "sum",
        square_pad: int = 0,
    ) -> None:
        """Make the pyramid.

        Args:
            bottom_up: network whose features are used.
            in_features: names of its outputs from fine to coarse; each stride twice the previous.
            out_channels: channels of every level.
            norm: normalisation of all convolutions; they have a bias only if it is ``""``.
            top_block: makes further, coarser levels: a module with the attributes ``num_levels``
                and ``in_feature`` (name of a level or of an output of ``bottom_up``) that returns
                a list of maps.
            fuse_type: ``sum`` or ``avg``: how the finer and the upsampled coarser map are merged.
            square_pad: side of the square to which images are padded; 0 for none.
        """
        super().__init__()
        assert isinstance(bottom_up, Backbone), (
            f"`bottom_up` must be a Backbone, got {type(bottom_up).__name__}."
        )
        assert len(in_features) > 0, "FPN needs at least one of `in_features`."
        assert fuse_type in ("avg", "sum"), f"fuse_type must be 'avg' or 'sum', got '{fuse_type}'."
        shapes = bottom_up.output_shape()
        strides = [shapes[name].stride for name in in_features]
        for finer, coarser in itertools.pairwise(strides):
            assert coarser == 2 * finer, f"Strides {coarser} {finer} are not log2 contiguous"

        levels = [stride.bit_length() - 1 for stride in strides]
        self._levels = tuple(levels)
        for level, name in zip(levels, in_features, strict=True):
            lateral = _convolution(shapes[name].channels, out_channels, 1, norm)
            output = _convolution(out_channels, out_channels, 3, norm)
            weight_init.c2_xavier_fill(lateral)
            weight_init.c2_xavier_fill(output)
            self.add_module(f"fpn_lateral{level}", lateral)
            self.add_module(f"fpn_output{level}", output)
        self.top_block = top_block
        self.in_features = tuple(in_features)
        self.bottom_up = bottom_up

        if top_block is not None:
            levels.extend(range(levels[-1] + 1, levels[-1] + 1 + top_block.num_levels))
        self._out_features = [f"p{level}" for level in levels]
        self._out_feature_strides = {f"p{level}": 2**level for level in levels}
        self._out_feature_channels = dict.fromkeys(self._out_features, out_channels)
        self._size_divisibility = strides[-1]
        self._fuse_type = fuse_type
        self._square_pad = square_pad

    @property
    def size_divisibility(self) -> int:
        """The coarsest input stride: upsampling must hit the size of each finer map exactly."""
        return self._size_divisibility

    @property
    def padding_constraints(self) -> dict[str, int]:
        """The requested square, see ``ImageList.from_tensors``."""
        return {"square_size": self._square_pad}

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """Map images ``(N, C, H, W)`` to the levels from fine to coarse.

        Raises:
            ValueError: the image sides are not multiples of ``size_divisibility``.
        """
        features = self.bottom_up(x)
        merged = None
        results: list[torch.Tensor] = []
        for level, name in zip(reversed(self._levels), reversed(self.in_features), strict=True):
            lateral = getattr(self, f"fpn_lateral{level}")(features[name])
            merged = lateral if merged is None else self._fuse(lateral, merged, x.shape)
            results.insert(0, getattr(self, f"fpn_output{level}")(merged))
        if self.top_block is not None:
            source = self.top_block.in_feature
            if source in features:
                top_input = features[source]
            else:
                top_input = results[self._out_features.index(source)]
            results.extend(self.top_block(top_input))
        return dict(zip(self._out_features, results, strict=True))

    def _fuse(
        self, lateral: torch.Tensor, coarser: torch.Tensor, image_shape: torch.Size
    ) -> torch.Tensor:
        upsampled = F.interpolate(coarser, scale_factor=2.0, mode="nearest")
        if upsampled.shape[-2:] != lateral.shape[-2:]:
            raise ValueError(
                f"FPN cannot add an upsampled map of {tuple(upsampled.shape[-2:])} to one of "
                f"{tuple(lateral.shape[-2:])}: pad the images, now {tuple(image_shape[-2:])}, to "
                f"a multiple of {self._size_divisibility} (see ImageList.from_tensors)."
            )
        fused = lateral + upsampled
        return fused / 2 if self._fuse_type == "avg" else fused


def _convolution(in_channels: int, out_channels: int, kernel_size: int, norm: Norm) -> Conv2d:
    return Conv2d(
        in_channels,
        out_channels,
        kernel_size,
        padding=kernel_size // 2,
        bias=norm == "",
        norm=get_norm(norm, out_channels),
    )


class LastLevelMaxPool(nn.Module):
    """Level ``p6``: every other pixel of ``p5``."""

    def __init__(self) -> None:
        super().__init__()
        self.num_levels = 1
        self.in_feature = "p5"

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        """``(N, C, H, W)`` to one map ``(N, C, ceil(H / 2), ceil(W / 2))``."""
        return [F.max_pool2d(x, kernel_size=1, stride=2, padding=0)]


class LastLevelP6P7(nn.Module):
    """Levels ``p6`` and ``p7`` by two convolutions of stride 2 (arXiv 1708.02002)."""

    def __init__(self, in_channels: int, out_channels: int, in_feature: str = "res5") -> None:
        """Make the layers; ``in_feature`` names a level or an output of the bottom-up network."""
        super().__init__()
        self.num_levels = 2
        self.in_feature = in_feature
        self.p6 = nn.Conv2d(in_channels, out_channels, 3, 2, 1)
        self.p7 = nn.Conv2d(out_channels, out_channels, 3, 2, 1)
        weight_init.c2_xavier_fill(self.p6)
        weight_init.c2_xavier_fill(self.p7)

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        """``(N, C, H, W)`` to maps of half and of a quarter of the size, rounded up."""
        p6 = self.p6(x)
        return [p6, self.p7(F.relu(p6))]


@BACKBONE_REGISTRY.register()
def build_resnet_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> FPN:
    """Build a ResNet with an FPN and ``p6`` from ``cfg.MODEL.{RESNETS, FPN}``."""
    return FPN(
        bottom_up=build_resnet_backbone(cfg, input_shape),
        in_features=cfg.MODEL.FPN.IN_FEATURES,
        out_channels=cfg.MODEL.FPN.OUT_CHANNELS,
        norm=cfg.MODEL.FPN.NORM,
        top_block=LastLevelMaxPool(),
        fuse_type=cfg.MODEL.FPN.FUSE_TYPE,
    )
