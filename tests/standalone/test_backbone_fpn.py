"""Feature pyramids."""

from __future__ import annotations

import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling.backbone import FPN, Backbone, BasicStem, ResNet
from detectron2.modeling.backbone.fpn import (
    LastLevelMaxPool,
    LastLevelP6P7,
    build_resnet_fpn_backbone,
)
from detectron2.structures import ImageList
from fvcore.common.config import CfgNode
from omegaconf import OmegaConf


class Pyramid(Backbone):
    """Average pooled copies of the image, so that sums can be worked out by hand."""

    def __init__(self, strides: tuple[int, ...] = (4, 8)) -> None:
        super().__init__()
        self._out_features = [f"f{stride}" for stride in strides]
        self._out_feature_channels = dict.fromkeys(self._out_features, 1)
        self._out_feature_strides = dict(zip(self._out_features, strides, strict=True))

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {
            name: torch.nn.functional.avg_pool2d(x, stride, ceil_mode=True)
            for name, stride in self._out_feature_strides.items()
        }


def transparent(fpn: FPN) -> FPN:
    """Make every convolution the identity."""
    with torch.no_grad():
        for name, parameter in fpn.named_parameters():
            centre = parameter.shape[-1] // 2 if parameter.dim() == 4 else None
            parameter.zero_()
            if name.startswith("fpn_") and centre is not None:
                parameter[:, :, centre, centre] = 1
    return fpn


@pytest.mark.parametrize(("fuse_type", "divisor"), [("sum", 1), ("avg", 2)])
def test_top_down_sum(fuse_type: str, divisor: int) -> None:
    fpn = transparent(FPN(Pyramid(), ["f4", "f8"], 1, fuse_type=fuse_type))
    image = torch.rand(1, 1, 16, 24, generator=torch.Generator().manual_seed(0))
    levels = fpn(image)
    assert list(levels) == ["p2", "p3"]
    features = fpn.bottom_up(image)
    torch.testing.assert_close(levels["p3"], features["f8"])
    upsampled = features["f8"].repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
    torch.testing.assert_close(levels["p2"], (features["f4"] + upsampled) / divisor)


def test_shapes_and_divisibility() -> None:
    fpn = FPN(Pyramid((4, 8, 16)), ["f4", "f8", "f16"], 5, top_block=None, square_pad=64)
    assert fpn.output_shape() == {f"p{k}": ShapeSpec(channels=5, stride=2**k) for k in (2, 3, 4)}
    assert fpn.size_divisibility == 16
    assert fpn.padding_constraints == {"square_size": 64}


def test_max_pool_level() -> None:
    fpn = FPN(Pyramid((16, 32)), ["f16", "f32"], 2, top_block=LastLevelMaxPool())
    levels = fpn(torch.rand(1, 1, 96, 160))
    assert list(levels) == list(fpn.output_shape()) == ["p4", "p5", "p6"]
    assert torch.equal(levels["p6"], levels["p5"][:, :, ::2, ::2])
    assert fpn.size_divisibility == 32 and fpn.output_shape()["p6"].stride == 64


@pytest.mark.parametrize(("source", "channels"), [("f32", 1), ("p5", 2)])
def test_convolved_levels(source: str, channels: int) -> None:
    top = LastLevelP6P7(channels, 2, in_feature=source)
    fpn = FPN(Pyramid((16, 32)), ["f16", "f32"], 2, top_block=top)
    image = torch.rand(1, 1, 96, 160, generator=torch.Generator().manual_seed(1))
    levels = fpn(image)
    assert {name: tuple(level.shape) for name, level in levels.items()} == {
        "p4": (1, 2, 6, 10),
        "p5": (1, 2, 3, 5),
        "p6": (1, 2, 2, 3),
        "p7": (1, 2, 1, 2),
    }
    features = fpn.bottom_up(image) | levels
    torch.testing.assert_close(levels["p6"], top.p6(features[source]))
    torch.testing.assert_close(levels["p7"], top.p7(levels["p6"].relu()))
    assert LastLevelP6P7(1, 1).in_feature == "res5"


def test_state_dict_names_and_order() -> None:
    fpn = FPN(Pyramid(), ["f4", "f8"], 3, top_block=LastLevelP6P7(3, 3, "p3"))
    assert list(fpn.state_dict()) == [
        f"{layer}.{kind}"
        for layer in (
            "fpn_lateral2",
            "fpn_output2",
            "fpn_lateral3",
            "fpn_output3",
            "top_block.p6",
            "top_block.p7",
        )
        for kind in ("weight", "bias")
    ]
    normed = FPN(Pyramid(), ["f8"], 32, norm="GN").state_dict()
    assert list(normed)[:3] == [
        "fpn_lateral3.weight",
        "fpn_lateral3.norm.weight",
        "fpn_lateral3.norm.bias",
    ]


def test_resnet_50_has_281_entries() -> None:
    with torch.device("meta"):
        names = ["res2", "res3", "res4", "res5"]
        stages = ResNet.make_default_stages(50, norm="FrozenBN")
        bottom_up = ResNet(BasicStem(norm="FrozenBN"), stages, out_features=names)
        fpn = FPN(bottom_up, OmegaConf.create(names), 256, top_block=LastLevelMaxPool())
    assert len(fpn.state_dict()) == 281
    assert list(fpn.state_dict())[16] == "bottom_up.stem.conv1.weight"


def test_refuses() -> None:
    with pytest.raises(AssertionError, match="Strides 16 4 are not log2 contiguous"):
        FPN(Pyramid((4, 16)), ["f4", "f16"], 2)
    with pytest.raises(AssertionError):
        FPN(Pyramid(), [], 2)
    with pytest.raises(AssertionError):
        FPN(Pyramid(), ["f4"], 2, fuse_type="max")
    with pytest.raises(AssertionError):
        FPN(torch.nn.Identity(), ["f4"], 2)


def test_images_must_be_padded() -> None:
    fpn = FPN(Pyramid(), ["f4", "f8"], 2)
    image = torch.rand(1, 12, 20)
    with pytest.raises((ValueError, RuntimeError)):
        fpn(image[None])
    padded = ImageList.from_tensors([image], fpn.size_divisibility)
    assert fpn(padded.tensor)["p2"].shape == (1, 2, 4, 6)


@pytest.mark.standalone_only
def test_the_message_for_images_that_are_not_padded_says_what_to_do() -> None:
    with pytest.raises(ValueError, match=r"pad the images, now \(12, 20\), to a multiple of 8"):
        FPN(Pyramid(), ["f4", "f8"], 2)(torch.rand(1, 1, 12, 20))


def test_seeded_construction() -> None:
    torch.manual_seed(0)
    fpn = FPN(Pyramid(), ["f4", "f8"], 2, top_block=LastLevelMaxPool())
    # Values of the published implementation: the order of all draws is part of the contract.
    drawn = [*fpn.fpn_lateral3.weight.flatten().tolist(), torch.rand(1).item()]
    assert drawn == pytest.approx([-0.8451174, 0.8195874, 0.4036924], abs=1e-6)


def test_from_a_yacs_config() -> None:
    resnets = {
        "DEPTH": 18,
        "OUT_FEATURES": ["res2", "res3"],
        "NORM": "FrozenBN",
        "NUM_GROUPS": 1,
        "WIDTH_PER_GROUP": 64,
        "STRIDE_IN_1X1": True,
        "RES5_DILATION": 1,
        "RES2_OUT_CHANNELS": 64,
        "STEM_OUT_CHANNELS": 64,
        # The real package reads these too.
        "DEFORM_ON_PER_STAGE": [False] * 4,
        "DEFORM_MODULATED": False,
        "DEFORM_NUM_GROUPS": 1,
    }
    fpn = {"IN_FEATURES": ["res2", "res3"], "OUT_CHANNELS": 32, "NORM": "GN", "FUSE_TYPE": "avg"}
    config = CfgNode({"MODEL": {"BACKBONE": {"FREEZE_AT": 1}, "RESNETS": resnets, "FPN": fpn}})
    with pytest.raises(ValueError, match="p5"):
        # The extra level is always made of p5.
        build_resnet_fpn_backbone(config, ShapeSpec(channels=3))(torch.zeros(1, 3, 16, 16))
    config.MODEL.RESNETS.OUT_FEATURES = config.MODEL.FPN.IN_FEATURES = ["res4", "res5"]
    network = build_resnet_fpn_backbone(config, ShapeSpec(channels=3))
    assert list(network.output_shape()) == ["p4", "p5", "p6"]
    assert network.fpn_lateral4.bias is None
    assert not any(parameter.requires_grad for parameter in network.bottom_up.stem.parameters())
