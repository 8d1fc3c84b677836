"""Pooling from a feature pyramid."""

from __future__ import annotations

import copy

import pytest
import torch
from detectron2.layers import ROIAlign
from detectron2.modeling.poolers import (
    ROIPooler,
    assign_boxes_to_levels,
    convert_boxes_to_pooler_format,
)
from detectron2.structures import Boxes
from omegaconf import OmegaConf

SCALES = (1 / 4, 1 / 8, 1 / 16)


def square(side: float, at: float = 0.0) -> list[float]:
    return [at, at, at + side, at + side]


def pyramid(images: int = 2, channels: int = 3) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [
        torch.rand(images, channels, int(128 * scale), int(96 * scale), generator=generator)
        for scale in SCALES
    ]


def mixed_boxes() -> list[Boxes]:
    return [
        Boxes(torch.tensor([square(60, 10), square(10, 4), square(25, 30)])),
        Boxes(torch.tensor([[3.0, 5, 20, 40], square(90, 2)])),
    ]


def test_level_by_size() -> None:
    sides = [1.0, 111.9, 112.0, 223.9, 224.0, 447.9, 448.0, 5000.0]
    boxes = [Boxes(torch.tensor([square(side) for side in sides]))]
    levels = assign_boxes_to_levels(boxes, 2, 5, 224, 4)
    assert levels.tolist() == [0, 0, 1, 1, 2, 2, 3, 3] and levels.dtype == torch.int64
    assert assign_boxes_to_levels([Boxes(torch.zeros(1, 4))], 2, 5, 224, 4).tolist() == [0]


def test_format_of_the_poolers() -> None:
    boxes = [Boxes(torch.ones(1, 4)), Boxes([]), Boxes(torch.full((2, 4), 2.0))]
    assert convert_boxes_to_pooler_format(boxes).tolist() == [
        [0, 1, 1, 1, 1],
        [2, 2, 2, 2, 2],
        [2, 2, 2, 2, 2],
    ]


@pytest.mark.parametrize(("kind", "aligned"), [("ROIAlign", False), ("ROIAlignV2", True)])
def test_each_box_is_pooled_from_its_level_in_order(kind: str, aligned: bool) -> None:
    pooler = ROIPooler(7, SCALES, 2, kind, canonical_box_size=32, canonical_level=3)
    features, boxes = pyramid(), mixed_boxes()
    pooled = pooler(features, boxes)
    assert pooled.shape == (5, 3, 7, 7)
    levels = assign_boxes_to_levels(boxes, 2, 4, 32, 3).tolist()
    assert sorted(set(levels)) == [0, 1, 2]
    for row, level, result in zip(
        convert_boxes_to_pooler_format(boxes), levels, pooled, strict=True
    ):
        align = ROIAlign((7, 7), SCALES[level], 2, aligned=aligned)
        torch.testing.assert_close(result, align(features[level], row[None])[0])


def test_max_pooling_by_hand() -> None:
    feature = torch.arange(16.0).reshape(1, 1, 4, 4)
    pooled = ROIPooler(2, [1.0], 0, "ROIPool")([feature], [Boxes(torch.tensor([square(3)]))])
    assert pooled.tolist() == [[[[5, 7], [13, 15]]]]


def test_gradient_reaches_every_level() -> None:
    features = [feature.requires_grad_() for feature in pyramid()]
    pooler = ROIPooler(2, SCALES, 0, "ROIAlignV2", canonical_box_size=32, canonical_level=3)
    pooler(features, mixed_boxes()).sum().backward()
    # Each box passes on 2 x 2 cells x 3 channels; levels have 3, 1 and 1 boxes.
    totals = [feature.grad.sum().item() for feature in features]
    assert totals == pytest.approx([36, 12, 12], rel=1e-4)


@pytest.mark.parametrize("scales", [SCALES[:1], SCALES])
def test_images_without_boxes(scales: tuple[float, ...]) -> None:
    pooler = ROIPooler((2, 2), scales, 0, "ROIAlignV2")
    features = pyramid()[: len(scales)]
    none = pooler(features, [Boxes([]), Boxes([])])
    assert none.shape == (0, 3, 2, 2)
    some = pooler(features, [Boxes([]), Boxes(torch.tensor([square(20)]))])
    assert some.shape == (1, 3, 2, 2)


@pytest.mark.parametrize("scales", [SCALES[:1], SCALES])
def test_no_images(scales: tuple[float, ...]) -> None:
    pooler = ROIPooler((2, 3), scales, 0, "ROIAlignV2")
    features = [feature[:0] for feature in pyramid()[: len(scales)]]
    assert pooler(features, []).shape == (0, 3, 2, 3)


def test_one_level_that_is_not_square() -> None:
    pooled = ROIPooler((2, 5), SCALES[:1], 0, "ROIAlignV2")(pyramid()[:1], mixed_boxes())
    assert pooled.shape == (5, 3, 2, 5)


@pytest.mark.standalone_only
def test_several_levels_that_are_not_square() -> None:
    pooler = ROIPooler((2, 5), SCALES, 2, "ROIAlignV2", canonical_box_size=32, canonical_level=3)
    features, boxes = pyramid(), mixed_boxes()
    pooled = pooler(features, boxes)
    assert pooled.shape == (5, 3, 2, 5)
    level = assign_boxes_to_levels(boxes, 2, 4, 32, 3)[0].item()
    row = convert_boxes_to_pooler_format(boxes)[:1]
    expected = ROIAlign((2, 5), SCALES[level], 2)(features[level], row)
    torch.testing.assert_close(pooled[:1], expected)


def test_arguments_from_a_config() -> None:
    config = OmegaConf.create({"size": [2, 2], "scales": list(SCALES)})
    pooler = copy.deepcopy(ROIPooler(config.size, config.scales, 0, "ROIAlignV2"))
    assert pooler(pyramid(), mixed_boxes()).shape == (5, 3, 2, 2)


def test_unknown_type() -> None:
    with pytest.raises(ValueError, match="Unknown pooler type: ROIAlignV3"):
        ROIPooler(7, SCALES, 0, "ROIAlignV3")


@pytest.mark.parametrize("scales", [(1 / 4, 1 / 16), (1 / 8, 1 / 4), (1 / 3,), (1 / 4, 1 / 4)])
def test_scales_must_form_a_pyramid(scales: tuple[float, ...]) -> None:
    with pytest.raises(AssertionError):
        ROIPooler(7, scales, 0, "ROIAlignV2")


def test_inputs_are_checked() -> None:
    pooler = ROIPooler(7, SCALES, 0, "ROIAlignV2")
    features, boxes = pyramid(), mixed_boxes()
    with pytest.raises(AssertionError, match="Arguments to pooler must be lists"):
        pooler(tuple(features), boxes)
    with pytest.raises(AssertionError):
        pooler(features[:2], boxes)
    with pytest.raises(AssertionError):
        pooler(features, boxes[:1])
