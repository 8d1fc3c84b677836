"""The interface of backbones and residual networks."""

from __future__ import annotations

import pytest
import torch
from detectron2.config import LazyCall as L
from detectron2.config import instantiate
from detectron2.layers import CNNBlockBase, FrozenBatchNorm2d, ShapeSpec
from detectron2.modeling.backbone import (
    BACKBONE_REGISTRY,
    Backbone,
    BasicStem,
    BottleneckBlock,
    ResNet,
    ResNetBlockBase,
    build_backbone,
    build_resnet_backbone,
    make_stage,
)
from detectron2.modeling.backbone.resnet import BasicBlock
from fvcore.common.config import CfgNode
from torch import nn


def resnet18(norm: str = "BN", **kwargs: object) -> ResNet:
    return ResNet(BasicStem(norm=norm), ResNet.make_default_stages(18, norm=norm), **kwargs)


def tiny_stages(norm: str = "") -> list[list[CNNBlockBase]]:
    return [
        ResNet.make_stage(
            BottleneckBlock,
            2,
            in_channels=channels,
            out_channels=2 * channels,
            stride_per_block=[2, 1],
            bottleneck_channels=4,
            norm=norm,
        )
        for channels in (4, 8, 16)
    ]


class Constant(Backbone):
    """A backbone that sets the documented attributes only."""

    def __init__(self) -> None:
        super().__init__()
        self._out_features = ["a"]
        self._out_feature_channels = {"a": 3}
        self._out_feature_strides = {"a": 1}

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"a": x}


def test_backbone_is_abstract_with_defaults() -> None:
    with pytest.raises(TypeError):
        Backbone()
    backbone = Constant()
    assert backbone.output_shape() == {"a": ShapeSpec(channels=3, stride=1)}
    assert backbone.size_divisibility == 0
    assert backbone.padding_constraints == {}


def test_class_paths() -> None:
    assert ResNet.__module__ == "detectron2.modeling.backbone.resnet"
    assert ResNetBlockBase is CNNBlockBase
    assert make_stage(BasicBlock, 1, in_channels=4, out_channels=4)[0].stride == 1


def test_feature_sizes_round_up() -> None:
    names = ["stem", "res2", "res3", "res4", "res5"]
    network = resnet18(out_features=names).eval()
    with torch.no_grad():
        features = network(torch.zeros(1, 3, 65, 97))
    sizes = {name: tuple(feature.shape[1:]) for name, feature in features.items()}
    assert sizes == {
        "stem": (64, 17, 25),
        "res2": (64, 17, 25),
        "res3": (128, 9, 13),
        "res4": (256, 5, 7),
        "res5": (512, 3, 4),
    }
    assert network.output_shape() == {
        name: ShapeSpec(channels=size[0], stride=stride)
        for (name, size), stride in zip(sizes.items(), (4, 4, 8, 16, 32), strict=True)
    }


def test_state_dict_names() -> None:
    state = resnet18().state_dict()
    assert len(state) == 120
    for name in (
        "stem.conv1.weight",
        "stem.conv1.norm.running_var",
        "res2.0.conv1.weight",
        "res3.0.shortcut.norm.num_batches_tracked",
        "res5.1.conv2.norm.bias",
    ):
        assert name in state
    assert "res2.0.shortcut.weight" not in state and "res2.0.conv1.bias" not in state
    bottleneck = BottleneckBlock(4, 8, bottleneck_channels=2).state_dict()
    assert {name.split(".")[0] for name in bottleneck} == {"shortcut", "conv1", "conv2", "conv3"}


def test_unused_stages_are_left_out() -> None:
    network = resnet18(out_features=["res2", "res4"]).eval()
    assert hasattr(network, "res4") and not hasattr(network, "res5")
    assert list(network(torch.zeros(1, 3, 32, 32))) == ["res2", "res4"]
    assert list(resnet18().eval()(torch.zeros(1, 3, 32, 32))) == ["res5"]
    only_stem = resnet18(out_features=["stem"])
    assert not hasattr(only_stem, "res2")


def test_classification() -> None:
    network = ResNet(BasicStem(out_channels=4), tiny_stages(), num_classes=7)
    assert network(torch.zeros(2, 3, 64, 64))["linear"].shape == (2, 7)
    # 7 x 32 draws of a normal distribution of standard deviation 0.01
    assert 0.005 < network.linear.weight.std() < 0.015


@pytest.mark.standalone_only
def test_asking_for_the_classification_keeps_all_stages() -> None:
    network = ResNet(
        BasicStem(out_channels=4), tiny_stages(), num_classes=7, out_features=["linear"]
    )
    assert network.stage_names == ("res2", "res3", "res4")
    assert network.linear.in_features == 32
    assert network.output_shape() == {"linear": ShapeSpec(channels=7)}


def test_unknown_output_lists_the_children() -> None:
    with pytest.raises(AssertionError, match=r"stem.*res5"):
        resnet18(out_features=["res5", "res6"])


def test_input_must_have_four_dimensions() -> None:
    with pytest.raises(AssertionError, match=r"ResNet takes an input of shape \(N, C, H, W\)"):
        resnet18(out_features=["stem"])(torch.zeros(3, 32, 32))


@pytest.mark.parametrize("freeze_at", range(5))
def test_freezing(freeze_at: int) -> None:
    network = resnet18(freeze_at=freeze_at)
    for number, name in enumerate(("stem", "res2", "res3", "res4", "res5"), start=1):
        stage = getattr(network, name)
        frozen = number <= freeze_at
        assert all(parameter.requires_grad != frozen for parameter in stage.parameters())
        norms = {type(m) for m in stage.modules()} & {FrozenBatchNorm2d, nn.BatchNorm2d}
        assert norms == {FrozenBatchNorm2d if frozen else nn.BatchNorm2d}


@pytest.mark.parametrize(("on_1x1", "strides"), [(True, (2, 1)), (False, (1, 2))])
def test_place_of_the_stride(on_1x1: bool, strides: tuple[int, int]) -> None:
    block = BottleneckBlock(8, 16, bottleneck_channels=4, stride=2, stride_in_1x1=on_1x1)
    assert (block.conv1.stride[0], block.conv2.stride[0]) == strides
    assert block.shortcut.stride == (2, 2)
    assert block(torch.zeros(1, 8, 7, 7)).shape == (1, 16, 4, 4)


def test_groups_and_dilation_keep_the_size() -> None:
    block = BottleneckBlock(8, 8, bottleneck_channels=4, num_groups=2, dilation=3)
    assert block.shortcut is None and block.conv2.weight.shape == (4, 2, 3, 3)
    assert block(torch.zeros(1, 8, 9, 9)).shape == (1, 8, 9, 9)


def test_block_is_a_rectified_sum() -> None:
    torch.manual_seed(0)
    block = BasicBlock(2, 2, norm="")
    x = torch.randn(1, 2, 4, 4)
    before = x.clone()
    branch = block.conv2(torch.relu(nn.functional.conv2d(x, block.conv1.weight, padding=1)))
    torch.testing.assert_close(block(x), torch.relu(branch + x))
    assert torch.equal(x, before)


def test_make_stage_distributes_arguments() -> None:
    blocks = ResNet.make_stage(
        BasicBlock, 3, in_channels=4, out_channels=8, stride_per_block=[2, 1, 1], norm=""
    )
    assert [(b.in_channels, b.out_channels, b.stride) for b in blocks] == [
        (4, 8, 2),
        (8, 8, 1),
        (8, 8, 1),
    ]
    with pytest.raises(AssertionError):
        ResNet.make_stage(BasicBlock, 3, in_channels=4, out_channels=8, stride_per_block=[2, 1])
    with pytest.raises(AssertionError):
        ResNet.make_stage(
            BasicBlock, 1, in_channels=4, out_channels=8, stride_per_block=[2], stride=1
        )


@pytest.mark.parametrize(
    ("depth", "blocks", "channels"),
    [(18, [2, 2, 2, 2], 512), (34, [3, 4, 6, 3], 512), (50, [3, 4, 6, 3], 2048)],
)
def test_default_stages(depth: int, blocks: list[int], channels: int) -> None:
    with torch.device("meta"):
        stages = ResNet.make_default_stages(depth)
    assert [len(stage) for stage in stages] == blocks
    assert stages[-1][-1].out_channels == channels
    assert [stage[0].stride for stage in stages] == [1, 2, 2, 2]
    expected = BasicBlock if depth < 50 else BottleneckBlock
    assert all(type(block) is expected for stage in stages for block in stage)


def test_default_stages_of_an_unknown_depth() -> None:
    with pytest.raises((ValueError, KeyError)):
        ResNet.make_default_stages(20)


def test_from_a_lazy_config() -> None:
    config = L(ResNet)(
        stem=L(BasicStem)(in_channels=3, out_channels=64, norm="FrozenBN"),
        stages=L(ResNet.make_default_stages)(depth=18, norm="FrozenBN"),
        out_features=["res2", "res3"],
    )
    assert list(instantiate(config).output_shape()) == ["res2", "res3"]


def test_seeded_construction() -> None:
    torch.manual_seed(0)
    network = resnet18()
    after = torch.rand(1)
    # Values of the published implementation: the order of all draws is part of the contract.
    drawn = [*network.res5[0].shortcut.weight[0, :3, 0, 0].tolist(), after.item()]
    assert drawn == pytest.approx([-0.0669591, 0.0343995, -0.0119285, 0.0808173], abs=1e-6)


def yacs_config(**resnets: object) -> CfgNode:
    options = {
        "DEPTH": 18,
        "OUT_FEATURES": ["res3", "res5"],
        "NORM": "FrozenBN",
        "NUM_GROUPS": 1,
        "WIDTH_PER_GROUP": 64,
        "STRIDE_IN_1X1": True,
        "RES5_DILATION": 1,
        "RES2_OUT_CHANNELS": 64,
        "STEM_OUT_CHANNELS": 64,
        "DEFORM_ON_PER_STAGE": [False] * 4,
        "DEFORM_MODULATED": False,
        "DEFORM_NUM_GROUPS": 1,
    }
    return CfgNode(
        {
            "MODEL": {
                "PIXEL_MEAN": [0.0, 0.0, 0.0],
                "BACKBONE": {"NAME": "build_resnet_backbone", "FREEZE_AT": 2},
                "RESNETS": options | resnets,
            }
        }
    )


def test_from_a_yacs_config() -> None:
    network = build_backbone(yacs_config())
    assert network.output_shape() == {
        "res3": ShapeSpec(channels=128, stride=8),
        "res5": ShapeSpec(channels=512, stride=32),
    }
    assert not any(parameter.requires_grad for parameter in network.res2.parameters())
    assert all(parameter.requires_grad for parameter in network.res3.parameters())


def test_dilated_last_stage_from_a_yacs_config() -> None:
    options = {"DEPTH": 50, "RES2_OUT_CHANNELS": 16, "WIDTH_PER_GROUP": 4, "RES5_DILATION": 2}
    network = build_resnet_backbone(yacs_config(**options), ShapeSpec(channels=1))
    assert network.stem.conv1.in_channels == 1
    assert network.output_shape()["res5"] == ShapeSpec(channels=128, stride=16)
    block = network.res5[1]
    assert block.conv2.dilation == (2, 2) and network.res4[0].conv1.stride == (2, 2)
    assert block.conv1.out_channels == 32


@pytest.mark.parametrize(
    "options", [{"RES5_DILATION": 2}, {"NUM_GROUPS": 2}, {"RES2_OUT_CHANNELS": 256}]
)
def test_shallow_networks_have_fixed_options(options: dict[str, int]) -> None:
    with pytest.raises(AssertionError):
        build_resnet_backbone(yacs_config(**options), ShapeSpec(channels=3))


@BACKBONE_REGISTRY.register()
def build_something_else(cfg: CfgNode, input_shape: ShapeSpec) -> nn.Module:
    return nn.Identity()


def test_a_registered_object_must_make_a_backbone() -> None:
    config = yacs_config()
    config.MODEL.BACKBONE.NAME = "build_something_else"
    with pytest.raises(AssertionError):
        build_backbone(config)
