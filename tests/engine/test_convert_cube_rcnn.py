"""Published Cube R-CNN weights become those of our model, number by number."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from detectron2.config import instantiate
from torch import nn
from torchvision.models import resnet34

from roca_nocs.engine.config import load_config
from roca_nocs.engine.convert import CONVERSIONS, ConversionError, convert
from roca_nocs.engine.convert_cube_rcnn import rename_cube_rcnn

ROOT = Path(__file__).parents[2]
CLASSES, WIDTH = 38, 1024
OUTPUTS = {"center_deltas": 2, "center_depth": 1, "dims": 3, "pose": 6, "uncertainty": 1}


@pytest.fixture(scope="module")
def config_model() -> nn.Module:
    with torch.device("meta"):
        return instantiate(load_config(ROOT / CONVERSIONS["cube_rcnn"].config).model)


def published(shapes: dict[str, torch.Size]) -> dict[str, torch.Tensor]:
    """A state dict with the names and shapes of the published file, and random values."""
    random = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> torch.Tensor:
        return torch.rand(shape, generator=random)

    body = resnet34(weights=None).state_dict()
    state = {f"backbone.bottom_up.{k}": x for k, x in body.items() if not k.startswith("fc.")}
    for name, size in OUTPUTS.items():
        state[f"roi_heads.cube_head.bbox_3D_{name}.weight"] = draw(size * CLASSES, WIDTH)
        state[f"roi_heads.cube_head.bbox_3D_{name}.bias"] = draw(size * CLASSES)
    state["roi_heads.priors_dims_per_cat"] = draw(1, CLASSES, 2, 3)
    state["roi_heads.priors_z_scales"] = draw(CLASSES, 1)
    state["pixel_mean"] = state["pixel_std"] = draw(3, 1, 1)
    state["proposal_generator.anchor_generator.cell_anchors.0"] = draw(3, 4)
    # Parts of detectron2 have the same names there.
    same = ("backbone.fpn_", "proposal_generator.", "roi_heads.box_", "roi_heads.cube_head.feature")
    for name, shape in shapes.items():
        if name.startswith(same):
            state[name] = draw(*shape)
    return state


def test_every_tensor_finds_its_place(config_model: nn.Module) -> None:
    shapes = {name: tensor.shape for name, tensor in config_model.state_dict().items()}
    state = published(shapes)
    converted = convert(rename_cube_rcnn(state), shapes)
    assert converted.keys() == shapes.keys()

    head = "roi_heads.cube_head."
    theirs = {
        name: state[f"{head}bbox_3D_{name}.weight"].view(CLASSES, size, WIDTH)
        for name, size in OUTPUTS.items()
    }
    ours = converted[f"{head}bbox3d.weight"].view(CLASSES, 6, WIDTH)
    torch.testing.assert_close(ours[:, :2], theirs["center_deltas"])
    torch.testing.assert_close(ours[:, 2:3], theirs["center_depth"])
    torch.testing.assert_close(ours[:, 3:], theirs["dims"])
    bias = converted[f"{head}bbox3d.bias"].view(CLASSES, 6)
    torch.testing.assert_close(bias[:, 2], state[f"{head}bbox_3D_center_depth.bias"])
    assert torch.equal(converted[f"{head}pose6d.weight"], state[f"{head}bbox_3D_pose.weight"])
    priors = state["roi_heads.priors_dims_per_cat"][0]
    assert torch.equal(converted["roi_heads.priors.dimensions"], priors[:, 0])
    assert torch.equal(converted["roi_heads.priors.dimensions_std"], priors[:, 1])
    assert torch.equal(
        converted["backbone.bottom_up.res2.0.conv1.weight"],
        state["backbone.bottom_up.layer1.0.conv1.weight"],
    )


def test_model_around_the_weights(config_model: nn.Module) -> None:
    """What the published weights expect: images, levels, heads."""
    heads = config_model.roi_heads
    assert config_model.input_format == "BGR"
    assert heads.cube_head.pose_type == "6d" and heads._codec_settings["z_type"] == "direct"
    assert config_model.backbone.size_divisibility == 64
    shapes = config_model.backbone.bottom_up.output_shape()
    assert [shapes[name].stride for name in ("res5", "res6")] == [32, 64]
    assert config_model.backbone.fpn_lateral6.in_channels == 512


def test_pooled_level() -> None:
    model = load_config(ROOT / CONVERSIONS["cube_rcnn"].config).model
    model.backbone.bottom_up.stages.depth = 18
    bottom_up = instantiate(model.backbone.bottom_up).eval()
    with torch.no_grad():
        maps = bottom_up(torch.randn(1, 3, 64, 128))
    assert torch.equal(maps["res6"], maps["res5"][:, :, ::2, ::2])
    assert [*maps] == ["res2", "res3", "res4", "res5", "res6"]


def test_files_that_cannot_be_converted() -> None:
    state = {"backbone.bottom_up.base.base_layer.0.weight": torch.zeros(1)}
    with pytest.raises(ConversionError, match=r"base\.base_layer.*cubercnn_Res34_FPN"):
        rename_cube_rcnn(state)
    with pytest.raises(ConversionError, match=r"bbox_3D_center_deltas\.weight.*no Cube R-CNN"):
        rename_cube_rcnn({"roi_heads.box_head.fc1.weight": torch.zeros(1)})
    head = {
        f"roi_heads.cube_head.bbox_3D_{name}.{kind}": torch.zeros(rows)
        for name, rows in (("center_deltas", 4), ("center_depth", 3), ("dims", 6))
        for kind in ("weight", "bias")
    }
    with pytest.raises(ConversionError, match="do not fit each other"):
        rename_cube_rcnn(head)
