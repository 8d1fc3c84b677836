"""ResNets for rasters: channels and strides of the stem, the dilated last stage, their weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torchvision
from torch import nn

from roca_nocs.engine.checkpoint import Checkpointer
from roca_nocs.engine.resnet_weights import adapt_stem, rename_torchvision
from roca_nocs.modeling.backbone.raster_resnet import RasterStem, build_raster_resnet


def test_dilated_stage_computes_what_torchvision_does() -> None:
    """Also in its first block, whose dilation is still 1."""
    torch.manual_seed(0)
    reference = torchvision.models.resnet50(
        replace_stride_with_dilation=[False, False, True]
    ).eval()
    backbone = build_raster_resnet(50, dilation=True)
    state = rename_torchvision(reference.state_dict())
    backbone.load_state_dict({k: v for k, v in state.items() if "num_batches" not in k})
    image = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        x = reference.maxpool(reference.relu(reference.bn1(reference.conv1(image))))
        found = backbone(image)
        for name in ("layer1", "layer2", "layer3", "layer4"):
            x = getattr(reference, name)(x)
            feature = found[f"res{int(name[-1]) + 1}"]
            torch.testing.assert_close(feature, x, rtol=1e-4, atol=1e-4)
    shapes = backbone.output_shape()
    assert [shapes[f"res{stage}"].stride for stage in (2, 3, 4, 5)] == [4, 8, 16, 16]


@pytest.mark.parametrize("depth", [18, 34])
def test_basic_blocks_cannot_be_dilated(depth: int) -> None:
    with pytest.raises(ValueError, match=rf"a ResNet-{depth} has basic blocks"):
        build_raster_resnet(depth, dilation=True)


@pytest.mark.parametrize("stride", [1, 2, 4])
def test_stem(stride: int) -> None:
    backbone = build_raster_resnet(18, in_channels=5, stem_stride=stride, norm="BN", freeze_at=0)
    shapes = backbone.output_shape()
    features = backbone(torch.randn(2, 5, 16 * stride, 24 * stride))
    for name, factor in (("res2", 1), ("res3", 2), ("res4", 4), ("res5", 8)):
        assert shapes[name].stride == factor * stride
        assert features[name].shape[1:] == (shapes[name].channels, 16 // factor, 24 // factor)


@pytest.mark.parametrize(("depth", "channels"), [(18, [8, 16, 32, 64]), (50, [32, 64, 128, 256])])
def test_width(depth: int, channels: list[int]) -> None:
    backbone = build_raster_resnet(depth, width=8, norm="BN", freeze_at=0)
    features = backbone(torch.randn(2, 3, 64, 64))
    assert [features[f"res{stage}"].shape[1] for stage in (2, 3, 4, 5)] == channels
    assert [backbone.output_shape()[f"res{stage}"].channels for stage in (2, 3, 4, 5)] == channels


def test_unknown_depth() -> None:
    with pytest.raises(ValueError, match=r"one of \[18, 34, 50, 101, 152\], got 20"):
        build_raster_resnet(20)


def test_unknown_stride() -> None:
    with pytest.raises(ValueError, match=r"must be one of \(1, 2, 4\), got 8"):
        RasterStem(stride=8)


def test_first_stages_are_frozen() -> None:
    backbone = build_raster_resnet(18)
    trained = {name.split(".")[0] for name, p in backbone.named_parameters() if p.requires_grad}
    assert trained == {"res3", "res4", "res5"}


def test_adapted_stem() -> None:
    """A raster of equal channels gives what an image of equal channels gives."""
    torch.manual_seed(0)
    weight, plane = torch.randn(6, 3, 7, 7), torch.randn(1, 1, 16, 16)
    adapted = adapt_stem(weight, 5)
    assert adapted.shape == (6, 5, 7, 7)
    torch.testing.assert_close(
        torch.conv2d(plane.expand(-1, 5, -1, -1), adapted),
        torch.conv2d(plane.expand(-1, 3, -1, -1), weight),
        rtol=1e-4,
        atol=1e-4,
    )


@pytest.mark.parametrize("in_channels", [3, 5])
def test_image_weights_are_loaded_into_a_raster_backbone(in_channels: int, tmp_path: Path) -> None:
    torch.manual_seed(0)
    state = torchvision.models.resnet18().state_dict()
    torch.save(state, tmp_path / "resnet18.pth")
    model = nn.Module()
    model.backbone = build_raster_resnet(18, in_channels=in_channels, stem_stride=1)
    Checkpointer(model, "").load(str(tmp_path / "resnet18.pth"))
    weight = state["conv1.weight"]
    expected = weight if in_channels == 3 else adapt_stem(weight, in_channels)
    assert torch.equal(model.backbone.stem.conv1.weight, expected)
    last = model.backbone.res5[1].conv2.weight
    assert torch.equal(last, state["layer4.1.conv2.weight"])
