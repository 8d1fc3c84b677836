"""Anchors on a grid."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling import ANCHOR_GENERATOR_REGISTRY, build_anchor_generator
from detectron2.modeling.anchor_generator import DefaultAnchorGenerator
from detectron2.structures import Boxes
from fvcore.common.config import CfgNode
from omegaconf import OmegaConf


def test_cell_anchors_have_the_size_and_ratio() -> None:
    sizes, ratios = [32.0, 50.0], [0.25, 1.0, 3.0]
    generator = DefaultAnchorGenerator(sizes=sizes, aspect_ratios=ratios, strides=[4], offset=0.0)
    (anchors,) = generator([torch.zeros(1, 1, 1, 1)])
    assert generator.num_anchors == [6] and generator.box_dim == 4
    expected = [(size, ratio) for size in sizes for ratio in ratios]
    for (x0, y0, x1, y1), (size, ratio) in zip(anchors.tensor.tolist(), expected, strict=True):
        assert (x1 - x0) * (y1 - y0) == pytest.approx(size**2, rel=1e-5)
        assert (y1 - y0) / (x1 - x0) == pytest.approx(ratio, rel=1e-5)
        assert (x0 + x1, y0 + y1) == pytest.approx((0, 0), abs=1e-5)


@pytest.mark.parametrize("offset", [0.0, 0.25, 0.5])
def test_grid(offset: float) -> None:
    generator = DefaultAnchorGenerator(
        sizes=[[8], [16]], aspect_ratios=[[1.0]], strides=[4, 8], offset=offset
    )
    fine, coarse = generator([torch.zeros(2, 5, 2, 3), torch.zeros(2, 5, 1, 2)])
    assert isinstance(fine, Boxes) and fine.tensor.dtype == torch.float32
    centres = [[(j + offset) * 4, (i + offset) * 4] for i in range(2) for j in range(3)]
    torch.testing.assert_close(fine.get_centers(), torch.tensor(centres))
    torch.testing.assert_close(
        coarse.get_centers(), torch.tensor([[(j + offset) * 8, offset * 8] for j in range(2)])
    )
    assert (fine.area() == 64).all() and (coarse.area() == 256).all()


def test_default_offset_is_the_middle_of_the_cell() -> None:
    generator = DefaultAnchorGenerator(sizes=[8], aspect_ratios=[1.0], strides=[4])
    assert generator([torch.zeros(1, 1, 1, 1)])[0].get_centers().tolist() == [[2, 2]]


def test_anchors_of_one_cell_are_neighbours() -> None:
    generator = DefaultAnchorGenerator(sizes=[8, 16], aspect_ratios=[1.0], strides=[4], offset=0)
    (anchors,) = generator([torch.zeros(1, 1, 1, 2)])
    assert anchors.area().tolist() == [64, 256, 64, 256]
    assert anchors.get_centers()[:, 0].tolist() == [0, 0, 4, 4]


@pytest.mark.parametrize("sizes", [[16, 32], [[16, 32]], [[16, 32], [16, 32], [16, 32]]])
@pytest.mark.parametrize("convert", [list, OmegaConf.create])
def test_one_list_serves_all_levels(sizes: list, convert: object) -> None:
    generator = DefaultAnchorGenerator(
        sizes=convert(sizes), aspect_ratios=convert([1.0]), strides=convert([4, 8, 16])
    )
    assert generator.num_anchors == [2, 2, 2]
    features = [torch.zeros(1, 1, 2, 2)] * 3
    before = [level.tensor for level in generator(features)]
    after = [level.tensor for level in copy.deepcopy(generator)(features)]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ({"sizes": [[8], [16]], "aspect_ratios": [1.0]}, "sizes"),
        ({"sizes": [], "aspect_ratios": [1.0]}, "sizes"),
        ({"sizes": [8], "aspect_ratios": [[1.0], [1.0]]}, "aspect_ratios"),
        ({"sizes": [8], "aspect_ratios": []}, "aspect_ratios"),
    ],
)
def test_wrong_number_of_lists(arguments: dict[str, list], name: str) -> None:
    with pytest.raises(AssertionError, match=name):
        DefaultAnchorGenerator(strides=[4, 8, 16], **arguments)


@pytest.mark.parametrize("offset", [-0.1, 1.0, math.nan])
def test_offset_range(offset: float) -> None:
    with pytest.raises(AssertionError):
        DefaultAnchorGenerator(sizes=[8], aspect_ratios=[1.0], strides=[4], offset=offset)


def test_cell_anchors_are_not_saved_but_move() -> None:
    generator = DefaultAnchorGenerator(sizes=[8], aspect_ratios=[1.0], strides=[4, 8])
    assert generator.state_dict() == {}
    assert [name for name, _ in generator.named_buffers()] == ["cell_anchors.0", "cell_anchors.1"]


@pytest.mark.standalone_only
def test_empty_map() -> None:
    generator = DefaultAnchorGenerator(sizes=[8], aspect_ratios=[1.0], strides=[4])
    assert generator([torch.zeros(1, 1, 0, 3)])[0].tensor.shape == (0, 4)


@pytest.mark.standalone_only
def test_number_of_maps_is_checked() -> None:
    generator = DefaultAnchorGenerator(sizes=[8], aspect_ratios=[1.0], strides=[4, 8])
    with pytest.raises(AssertionError, match="2 feature maps, got 1"):
        generator([torch.zeros(1, 1, 2, 2)])


def test_from_a_yacs_config() -> None:
    options = {
        "NAME": "DefaultAnchorGenerator",
        "SIZES": [[32, 64]],
        "ASPECT_RATIOS": [[0.5, 1.0]],
        "OFFSET": 0.0,
    }
    config = CfgNode({"MODEL": {"ANCHOR_GENERATOR": options}})
    generator = build_anchor_generator(config, [ShapeSpec(stride=4), ShapeSpec(stride=8)])
    assert isinstance(generator, ANCHOR_GENERATOR_REGISTRY.get("DefaultAnchorGenerator"))
    assert generator.num_anchors == [4, 4]
    assert generator([torch.zeros(1, 1, 1, 1)] * 2)[1].get_centers().abs().max() < 1e-5
