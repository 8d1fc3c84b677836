"""Bitmaps, polygons and masks relative to boxes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from detectron2.structures import BitMasks, Boxes, PolygonMasks, ROIMasks, polygons_to_bitmask

SQUARE = np.array([2.0, 1.0, 6.0, 1.0, 6.0, 5.0, 2.0, 5.0])
TRIANGLE = np.array([0.0, 0.0, 4.0, 0.0, 4.0, 4.0])


def bitmaps() -> BitMasks:
    tensor = torch.zeros(3, 6, 8)
    tensor[0, 1:3, 2:7] = 1
    tensor[2, 5, 0] = 1
    return BitMasks(tensor)


def test_bitmaps_are_boolean() -> None:
    masks = bitmaps()
    assert masks.tensor.dtype == torch.bool
    assert masks.image_size == (6, 8) and len(masks) == 3
    assert masks.nonempty().tolist() == [True, False, True]
    assert [mask.sum().item() for mask in masks] == [10, 0, 1]
    assert "num_instances=3" in repr(masks)
    assert BitMasks(np.ones((1, 2, 2), dtype=np.uint8)).tensor.dtype == torch.bool


def test_bitmaps_need_three_dimensions() -> None:
    with pytest.raises(AssertionError):
        BitMasks(torch.zeros(4, 4))


def test_bitmap_boxes_end_behind_the_last_pixel() -> None:
    expected = [[2, 1, 7, 3], [0, 0, 0, 0], [0, 5, 1, 6]]
    assert bitmaps().get_bounding_boxes().tensor.tolist() == expected


def test_bitmap_indexing() -> None:
    masks = bitmaps()
    assert masks[0].tensor.shape == (1, 6, 8)
    assert masks[-1].nonempty().tolist() == [True]
    assert masks[1:].nonempty().tolist() == [False, True]
    assert masks[torch.tensor([True, False, True])].nonempty().tolist() == [True, True]
    assert masks[[2, 1]].nonempty().tolist() == [True, False]
    with pytest.raises(AssertionError):
        masks[torch.tensor(0)]


def test_bitmap_cat_and_to() -> None:
    masks = bitmaps()
    joined = BitMasks.cat([masks, masks[:1]])
    assert joined.nonempty().tolist() == [True, False, True, True]
    assert torch.equal(joined.to("cpu").tensor, joined.tensor)
    with pytest.raises(AssertionError):
        BitMasks.cat([])


def test_no_bitmaps() -> None:
    masks = BitMasks(torch.zeros(0, 6, 8))
    assert masks.get_bounding_boxes().tensor.shape == (0, 4)
    assert masks.nonempty().shape == (0,)
    assert masks.crop_and_resize(torch.zeros(0, 4), 7).shape == (0, 7, 7)


def test_bitmap_crop() -> None:
    tensor = torch.zeros(2, 8, 8)
    tensor[:, 2:6, 4:8] = 1
    boxes = torch.tensor([[4.0, 2.0, 8.0, 6.0], [0.0, 2.0, 8.0, 6.0]])
    crops = BitMasks(tensor).crop_and_resize(boxes, 4)
    assert crops.dtype == torch.bool
    assert crops[0].all()
    assert crops[1].tolist() == [[False, False, True, True]] * 4
    with pytest.raises(AssertionError):
        BitMasks(tensor).crop_and_resize(boxes[:1], 4)


def test_polygons_to_bitmask_is_a_union() -> None:
    mask = polygons_to_bitmask([SQUARE, SQUARE + 1], 8, 8)
    assert mask.shape == (8, 8) and mask.dtype == bool
    expected = np.zeros((8, 8), dtype=bool)
    expected[1:5, 2:6] = expected[2:6, 3:7] = True
    np.testing.assert_array_equal(mask, expected)


def test_rasterisation_is_that_of_pycocotools() -> None:
    triangle = np.array([0.0, 0.0, 3.0, 0.0, 3.0, 3.0])
    assert polygons_to_bitmask([triangle], 4, 4).sum() == 3


def test_an_object_without_polygon_is_empty() -> None:
    mask = polygons_to_bitmask([], 3, 4)
    assert mask.shape == (3, 4) and mask.dtype == bool and not mask.any()


def test_bitmaps_from_polygons() -> None:
    polygons = [[SQUARE], [TRIANGLE, SQUARE]]
    for source in (polygons, PolygonMasks(polygons)):
        masks = BitMasks.from_polygon_masks(source, 8, 9)
        assert masks.image_size == (8, 9)
        assert masks.tensor.flatten(1).sum(1).tolist() == [16, 19]
    assert BitMasks.from_polygon_masks([], 8, 9).tensor.shape == (0, 8, 9)


def test_polygon_quantities() -> None:
    polygons = PolygonMasks([[SQUARE], [TRIANGLE, torch.from_numpy(SQUARE)], [list(TRIANGLE)]])
    assert polygons.area().tolist() == [16, 24, 8]
    assert polygons.nonempty().tolist() == [True, True, True]
    assert polygons.get_bounding_boxes().tensor.tolist() == [
        [2, 1, 6, 5],
        [0, 0, 6, 5],
        [0, 0, 4, 4],
    ]
    assert polygons.device == torch.device("cpu") and polygons.to("cuda") is polygons
    assert all(part.dtype == np.float64 for parts in polygons for part in parts)
    assert "num_instances=3" in repr(polygons)


def test_polygon_area_does_not_depend_on_the_orientation() -> None:
    reverse = SQUARE.reshape(-1, 2)[::-1].reshape(-1)
    assert PolygonMasks([[reverse]]).area().tolist() == [16]


@pytest.mark.parametrize(
    ("item", "expected"),
    [
        (1, [8]),
        (-1, [24]),
        (slice(1, None), [8, 24]),
        ([2, 0], [24, 16]),
        ([], []),
        (torch.tensor([True, False, True]), [16, 24]),
        (torch.tensor([1, 1]), [8, 8]),
        (torch.zeros(3, dtype=torch.bool), []),
    ],
)
def test_polygon_indexing(item: object, expected: list[float]) -> None:
    polygons = PolygonMasks([[SQUARE], [TRIANGLE], [SQUARE, TRIANGLE]])
    assert polygons[item].area().tolist() == expected


def test_polygon_index_type() -> None:
    with pytest.raises(ValueError, match="Unsupported tensor dtype"):
        PolygonMasks([[SQUARE]])[torch.zeros(1, dtype=torch.uint8)]


@pytest.mark.standalone_only
def test_polygon_mask_of_another_length() -> None:
    with pytest.raises(IndexError, match="2"):
        PolygonMasks([[SQUARE]])[torch.tensor([True, False])]


def test_polygon_cat() -> None:
    polygons = PolygonMasks([[SQUARE]])
    assert PolygonMasks.cat([polygons, PolygonMasks([[TRIANGLE]])]).area().tolist() == [16, 8]
    with pytest.raises(AssertionError):
        PolygonMasks.cat([])


@pytest.mark.parametrize(
    "polygons", [np.zeros((1, 6)), [np.zeros(6)], "polygon", [[1, 2, 3, 4, 5, 6], 7]]
)
def test_polygons_must_be_lists_of_lists(polygons: object) -> None:
    with pytest.raises((ValueError, TypeError)):
        PolygonMasks(polygons)


@pytest.mark.parametrize("count", [4, 7])
def test_polygons_need_three_whole_points(count: int) -> None:
    with pytest.raises(ValueError, match=f"Cannot create a polygon from {count} coordinates"):
        PolygonMasks([[np.zeros(count)]])


def test_polygon_crop() -> None:
    boxes = torch.tensor([[2.0, 1.0, 6.0, 5.0], [0.0, 1.0, 8.0, 5.0]])
    crops = PolygonMasks([[SQUARE], [SQUARE]]).crop_and_resize(boxes, 8)
    assert crops.dtype == torch.bool and crops[0].all()
    assert crops[1].tolist() == [[False] * 2 + [True] * 4 + [False] * 2] * 8
    assert PolygonMasks([]).crop_and_resize(torch.zeros(0, 4), 5).shape == (0, 5, 5)
    with pytest.raises(AssertionError):
        PolygonMasks([[SQUARE]]).crop_and_resize(boxes, 8)


def test_polygon_crop_of_a_box_without_width() -> None:
    crop = PolygonMasks([[SQUARE]]).crop_and_resize(torch.tensor([[3.0, 1.0, 3.0, 5.0]]), 4)
    assert crop.shape == (1, 4, 4) and crop.all()


def test_crops_of_polygons_and_bitmaps_agree() -> None:
    polygons = PolygonMasks([[SQUARE * 10], [TRIANGLE * 10 + 5]])
    masks = BitMasks.from_polygon_masks(polygons, 80, 80)
    boxes = polygons.get_bounding_boxes().tensor
    first, second = polygons.crop_and_resize(boxes, 28), masks.crop_and_resize(boxes, 28)
    # The two rasterise the diagonal differently: at most one cell per row.
    assert (first != second).sum() <= 28


@pytest.mark.standalone_only
def test_polygon_boxes_left_of_the_image_and_without_polygon() -> None:
    polygons = PolygonMasks([[SQUARE - 10], []])
    assert polygons.get_bounding_boxes().tensor.tolist() == [[-8, -9, -4, -5], [0, 0, 0, 0]]
    assert polygons.nonempty().tolist() == [True, False]
    assert polygons.area().tolist() == [16, 0]


def test_roi_masks() -> None:
    masks = ROIMasks(torch.ones(2, 4, 4))
    assert len(masks) == 2 and masks.device == torch.device("cpu")
    assert len(masks[1:]) == 1 and len(masks.to("cpu")) == 2
    pasted = masks.to_bitmasks(Boxes(torch.tensor([[0.0, 0, 4, 2], [1, 1, 3, 3]])), 4, 6)
    assert isinstance(pasted, BitMasks)
    expected = torch.zeros(2, 4, 6, dtype=torch.bool)
    expected[0, :2, :4] = expected[1, 1:3, 1:3] = True
    assert torch.equal(pasted.tensor, expected)
    with pytest.raises(ValueError):
        ROIMasks(torch.ones(4, 4))
