"""ResNets for rasters: any number of input channels, a finer stem, a dilated last stage."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from detectron2.modeling import ResNet
from detectron2.modeling.backbone.resnet import BasicBlock, BasicStem, BottleneckBlock

__all__ = ["RasterStem", "build_raster_resnet"]

_STEM_STRIDES = (1, 2, 4)
_WIDTH = 64
_BLOCKS = {
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
}
FEATURES = ("res2", "res3", "res4", "res5")


class RasterStem(BasicStem):
    """The 7x7 convolution of a ResNet, with less or no reduction of the resolution.

    Stride 4 is detectron2's stem; 2 leaves out the pooling, 1 also the stride of the convolution.
    Parameters have the same names and, for three channels, shapes throughout.
    """

    def __init__(
        self,
        in_channels: int = 3,
        out_channels: int = _WIDTH,
        norm: str = "FrozenBN",
        stride: int = 4,
    ) -> None:
        """
        Args:
            in_channels: of the images.
            out_channels: of the result.
            norm: name of the normalisation.
            stride: 4, 2 or 1.

        Raises:
            ValueError: another stride.
        """
        if stride not in _STEM_STRIDES:
            raise ValueError(f"the stem's stride must be one of {_STEM_STRIDES}, got {stride}")
        super().__init__(in_channels, out_channels, norm)
        self.stride = stride
        if stride == 1:
            self.conv1.stride = (1, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, in_channels, H, W) to (B, out_channels, ceil(H / stride), ceil(W / stride))."""
        # Not in place: detectron2's own stem leaves the activation to forward, others have it.
        x = F.relu(self.conv1(x))
        return F.max_pool2d(x, kernel_size=3, stride=2, padding=1) if self.stride == 4 else x


def build_raster_resnet(
    depth: int,
    *,
    in_channels: int = 3,
    width: int = _WIDTH,
    stem_stride: int = 4,
    dilation: bool = False,
    norm: str = "FrozenBN",
    freeze_at: int = 2,
    out_features: Sequence[str] = FEATURES,
) -> ResNet:
    """A ResNet with torchvision's places of the strides.

    Args:
        depth: 18, 34, 50, 101 or 152.
        in_channels: of the images. Weights for three channels are adapted when they are loaded.
        width: channels of the stem and of the 3x3 convolutions of the first stage; the later ones
            have 2, 4 and 8 times as many.
        stem_stride: 4, 2 or 1; the strides of all features scale with it.
        dilation: the last stage keeps the resolution and dilates its 3x3 convolutions after the
            first instead ("DC5" of DETR).
        norm: name of the normalisation.
        freeze_at: 0 trains everything, 1 freezes the stem, 2 also the first stage.
        out_features: names of the outputs, from fine to coarse.

    Raises:
        ValueError: ``dilation`` with basic blocks, or an unknown depth or stride.
    """
    if dilation and depth < 50:
        raise ValueError(
            f"dilation needs bottleneck blocks (depth 50 or more): a ResNet-{depth} has basic "
            "blocks, which cannot be dilated"
        )
    if depth not in _BLOCKS:
        raise ValueError(f"depth must be one of {sorted(_BLOCKS)}, got {depth}")
    stages = []
    in_channels_of_stage = width
    for index, num_blocks in enumerate(_BLOCKS[depth]):
        dilated = dilation and index == 3
        stride = 1 if index == 0 or dilated else 2
        channels = width << index
        if depth < 50:
            block, out_channels, options = BasicBlock, channels, {}
        else:
            block, out_channels = BottleneckBlock, 4 * channels
            # The first block keeps the dilation of the stage before, as torchvision's weights do.
            dilations = [1] + [2 if dilated else 1] * (num_blocks - 1)
            options = {"bottleneck_channels": channels, "dilation_per_block": dilations}
        stages.append(
            ResNet.make_stage(
                block,
                num_blocks,
                in_channels=in_channels_of_stage,
                out_channels=out_channels,
                stride_per_block=[stride] + [1] * (num_blocks - 1),
                norm=norm,
                **options,
            )
        )
        in_channels_of_stage = out_channels
    return ResNet(
        RasterStem(in_channels, width, norm, stem_stride),
        stages,
        out_features=list(out_features),
        freeze_at=freeze_at,
    )
