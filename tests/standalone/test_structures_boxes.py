"""Boxes, box modes and pairwise overlaps."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from detectron2.structures import (
    Boxes,
    BoxMode,
    pairwise_ioa,
    pairwise_iou,
    pairwise_point_box_distance,
)
from detectron2.structures.boxes import matched_pairwise_iou, pairwise_intersection
from hypothesis import given
from hypothesis import strategies as st

coordinate = st.floats(-500, 500, width=32)
raw_box = st.lists(coordinate, min_size=4, max_size=4)


def boxes(*rows: list[float]) -> Boxes:
    return Boxes(torch.tensor(rows, dtype=torch.float32))


def test_box_mode_is_json_serialisable_as_an_integer() -> None:
    assert json.loads(json.dumps({"bbox_mode": BoxMode.XYWH_ABS})) == {"bbox_mode": 1}


@pytest.mark.parametrize("container", [list, tuple])
def test_convert_keeps_list_and_tuple(container: type) -> None:
    box = container([5.0, 6.0, 10.0, 12.0])
    converted = BoxMode.convert(box, BoxMode.XYXY_ABS, BoxMode.XYWH_ABS)
    assert converted == container([5.0, 6.0, 5.0, 6.0])
    assert type(converted) is container


def test_convert_accepts_plain_integers_as_modes() -> None:
    assert BoxMode.convert([1, 2, 3, 4], 1, 0) == [1, 2, 4, 6]


@pytest.mark.parametrize("dtype", [np.int64, np.float32, np.float64])
def test_convert_keeps_array_dtype_and_input(dtype: type) -> None:
    box = np.array([[5, 5, 10, 10], [1, 1, 2, 3]], dtype=dtype)
    before = box.copy()
    converted = BoxMode.convert(box, BoxMode.XYXY_ABS, BoxMode.XYWH_ABS)
    assert converted.dtype == dtype
    np.testing.assert_array_equal(converted, [[5, 5, 5, 5], [1, 1, 1, 2]])
    np.testing.assert_array_equal(box, before)


def test_convert_tensor_leaves_input_alone() -> None:
    box = torch.tensor([[1.0, 2.0, 3.0, 4.0]])
    converted = BoxMode.convert(box, BoxMode.XYWH_ABS, BoxMode.XYXY_ABS)
    assert converted.tolist() == [[1, 2, 4, 6]]
    assert box.tolist() == [[1, 2, 3, 4]]


def test_convert_equal_modes_returns_the_same_object() -> None:
    box = np.zeros((2, 4))
    assert BoxMode.convert(box, BoxMode.XYXY_REL, BoxMode.XYXY_REL) is box


def test_convert_no_boxes() -> None:
    converted = BoxMode.convert(torch.zeros(0, 4), BoxMode.XYWH_ABS, BoxMode.XYXY_ABS)
    assert converted.shape == (0, 4)


@given(raw_box)
def test_convert_round_trip(box: list[float]) -> None:
    there = BoxMode.convert(box, BoxMode.XYWH_ABS, BoxMode.XYXY_ABS)
    back = BoxMode.convert(there, BoxMode.XYXY_ABS, BoxMode.XYWH_ABS)
    # float32 spacing at 1000
    assert back == pytest.approx(box, abs=2e-4)


def test_rotated_boxes() -> None:
    assert BoxMode.convert([10.0, 20.0, 4.0, 6.0], 1, 4) == [12.0, 23.0, 4.0, 6.0, 0.0]
    quarter_turn = torch.tensor([[50.0, 40.0, 20.0, 10.0, 90.0]])
    converted = BoxMode.convert(quarter_turn, BoxMode.XYWHA_ABS, BoxMode.XYXY_ABS)
    torch.testing.assert_close(converted, torch.tensor([[45.0, 30.0, 55.0, 50.0]]))
    diamond = BoxMode.convert([0.0, 0.0, 2.0, 2.0, -45.0], 4, 0)
    root = math.sqrt(2)
    assert diamond == pytest.approx([-root, -root, root, root], abs=1e-6)


@pytest.mark.parametrize("modes", [(BoxMode.XYXY_REL, BoxMode.XYXY_ABS), (0, 3)])
def test_convert_refuses_relative_modes(modes: tuple[int, int]) -> None:
    with pytest.raises(AssertionError):
        BoxMode.convert([0.1, 0.2, 0.3, 0.4], *modes)


def test_convert_refuses_wrong_input() -> None:
    with pytest.raises(NotImplementedError):
        BoxMode.convert([1.0, 2.0, 3.0, 4.0], BoxMode.XYXY_ABS, BoxMode.XYWHA_ABS)
    with pytest.raises(AssertionError):
        BoxMode.convert([1.0, 2.0, 3.0], BoxMode.XYXY_ABS, BoxMode.XYWH_ABS)
    with pytest.raises(AssertionError):
        BoxMode.convert(torch.zeros(2, 4), BoxMode.XYWHA_ABS, BoxMode.XYXY_ABS)
    with pytest.raises(IndexError):
        BoxMode.convert(np.zeros(4), BoxMode.XYXY_ABS, BoxMode.XYWH_ABS)


@pytest.mark.standalone_only
def test_convert_list_keeps_double_precision() -> None:
    assert BoxMode.convert([0.1, 0.2, 0.3, 0.4], 0, 0) == [0.1, 0.2, 0.3, 0.4]
    assert BoxMode.convert([0.1, 0.2, 1.1, 2.2], 0, 1)[:2] == [0.1, 0.2]


@pytest.mark.parametrize(
    "source", [[[1, 2, 3, 4]], np.array([[1, 2, 3, 4]]), torch.tensor([[1, 2, 3, 4]]).double()]
)
def test_boxes_are_float32(source: object) -> None:
    made = Boxes(source)
    assert made.tensor.dtype == torch.float32
    assert made.tensor.tolist() == [[1, 2, 3, 4]]


@pytest.mark.parametrize("empty", [[], np.zeros((0, 4)), torch.zeros(0), torch.zeros(3, 0)])
def test_empty_input_makes_zero_boxes(empty: object) -> None:
    made = Boxes(empty)
    assert made.tensor.shape == (0, 4) and len(made) == 0
    assert made.area().shape == (0,)
    assert made.nonempty().shape == (0,)
    made.clip((10, 10))
    assert list(made) == []


@pytest.mark.parametrize("shape", [(4,), (2, 5), (1, 2, 4)])
def test_boxes_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(AssertionError):
        Boxes(torch.zeros(shape))


def test_simple_quantities() -> None:
    made = boxes([1, 2, 4, 6], [0, 0, 0.5, 9])
    assert made.area().tolist() == [12, 4.5]
    assert made.get_centers().tolist() == [[2.5, 4], [0.25, 4.5]]
    assert made.nonempty().tolist() == [True, True]
    assert made.nonempty(threshold=0.5).tolist() == [True, False]
    assert [row.tolist() for row in made] == made.tensor.tolist()
    assert "Boxes" in repr(made)
    assert made.device == made.to("cpu").device == torch.device("cpu")


def test_inside_box_has_an_exclusive_upper_border() -> None:
    made = boxes([0, 0, 5, 5], [0, 0, 10, 5], [-1, 0, 5, 5], [0, 0, 5, 20])
    assert made.inside_box((20, 10)).tolist() == [True, False, False, False]
    assert made.inside_box((20, 10), boundary_threshold=1).tolist() == [True] * 4


def test_clip_rebinds_and_scale_works_in_place() -> None:
    shared = torch.tensor([[-1.0, -2.0, 30.0, 40.0]])
    first, second = Boxes(shared), Boxes(shared)
    first.clip((20, 10))
    assert first.tensor.tolist() == [[0, 0, 10, 20]]
    assert second.tensor.tolist() == [[-1, -2, 30, 40]]
    third = Boxes(shared)
    third.scale(2.0, 0.5)
    assert second.tensor.tolist() == [[-2, -1, 60, 20]]


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_clip_refuses_unbounded_boxes(value: float) -> None:
    with pytest.raises(AssertionError, match="Box tensor contains infinite or NaN!"):
        boxes([0, 0, 1, value]).clip((5, 5))


@given(st.lists(raw_box, min_size=1, max_size=5), st.integers(1, 300), st.integers(1, 300))
def test_clipping_twice_changes_nothing(rows: list[list[float]], height: int, width: int) -> None:
    made = boxes(*rows)
    made.clip((height, width))
    once = made.tensor.clone()
    assert (once >= 0).all() and (once[:, 0::2] <= width).all() and (once[:, 1::2] <= height).all()
    made.clip((height, width))
    assert torch.equal(made.tensor, once)


def test_indexing() -> None:
    made = boxes([0, 0, 1, 1], [0, 0, 2, 2], [0, 0, 3, 3])
    assert made[1].tensor.tolist() == [[0, 0, 2, 2]]
    assert made[-1].tensor.tolist() == [[0, 0, 3, 3]]
    assert made[1:].area().tolist() == [4, 9]
    assert made[[2, 0]].area().tolist() == [9, 1]
    assert made[torch.tensor([True, False, True])].area().tolist() == [1, 9]
    assert len(made[torch.zeros(3, dtype=torch.bool)]) == 0
    with pytest.raises(AssertionError):
        made[torch.tensor(1)]
    with pytest.raises(IndexError):
        made[3]


def test_cat_never_shares_storage() -> None:
    first, second = boxes([0, 0, 1, 1]), boxes([0, 0, 2, 2], [0, 0, 3, 3])
    joined = Boxes.cat([first, second])
    assert joined.area().tolist() == [1, 4, 9]
    single = Boxes.cat([first])
    single.scale(2, 2)
    assert first.area().tolist() == [1]
    assert Boxes.cat([]).tensor.shape == (0, 4)
    with pytest.raises(AssertionError):
        Boxes.cat([first, torch.zeros(1, 4)])


def test_clone_has_its_own_storage() -> None:
    made = boxes([0, 0, 1, 1])
    made.clone().scale(3, 3)
    assert made.area().tolist() == [1]


def test_pairwise_overlaps() -> None:
    first = boxes([0, 0, 1, 1], [0, 0, 1, 1])
    second = boxes(
        [0, 0, 1, 1], [0, 0, 0.5, 1], [0, 0, 1, 0.5], [0, 0, 0.5, 0.5], [0.5, 0.5, 1.5, 1.5]
    )
    quarter_shift = 0.25 / 1.75
    expected = torch.tensor([[1, 0.5, 0.5, 0.25, quarter_shift]] * 2)
    torch.testing.assert_close(pairwise_iou(first, second), expected)
    torch.testing.assert_close(
        pairwise_ioa(first, second), torch.tensor([[1.0, 1.0, 1.0, 1.0, 0.25]] * 2)
    )
    torch.testing.assert_close(
        pairwise_intersection(first, second), torch.tensor([[1.0, 0.5, 0.5, 0.25, 0.25]] * 2)
    )


def test_degenerate_boxes_overlap_nothing_but_match_as_nan() -> None:
    point, touching = boxes([2, 2, 2, 2]), boxes([2, 2, 3, 3])
    for other in (point, touching):
        assert pairwise_iou(point, other).tolist() == [[0.0]]
        assert pairwise_ioa(other, point).tolist() == [[0.0]]
    assert matched_pairwise_iou(point, point).isnan().all()


@pytest.mark.parametrize(("n", "m"), [(0, 3), (3, 0), (0, 0)])
def test_pairwise_overlaps_of_nothing(n: int, m: int) -> None:
    first, second = Boxes(torch.zeros(n, 4)), Boxes(torch.zeros(m, 4))
    for function in (pairwise_iou, pairwise_ioa, pairwise_intersection):
        assert function(first, second).shape == (n, m)


@given(st.lists(raw_box, min_size=1, max_size=4), st.lists(raw_box, min_size=1, max_size=4))
def test_iou_is_symmetric_and_bounded(first: list[list[float]], second: list[list[float]]) -> None:
    a, b = (
        Boxes(torch.cat([t[:, :2].minimum(t[:, 2:]), t[:, :2].maximum(t[:, 2:])], dim=1))
        for t in (torch.tensor(first), torch.tensor(second))
    )
    iou = pairwise_iou(a, b)
    assert ((iou >= 0) & (iou <= 1 + 1e-5)).all()
    torch.testing.assert_close(iou, pairwise_iou(b, a).T)


def test_matched_iou() -> None:
    first, second = boxes([0, 0, 2, 2], [0, 0, 1, 1]), boxes([1, 0, 3, 2], [5, 5, 6, 6])
    torch.testing.assert_close(matched_pairwise_iou(first, second), torch.tensor([1 / 3, 0.0]))
    with pytest.raises(AssertionError):
        matched_pairwise_iou(first, second[:1])


def test_point_box_distance() -> None:
    distance = pairwise_point_box_distance(torch.tensor([[2.0, 3.0]]), boxes([0, 1, 10, 4]))
    assert distance.tolist() == [[[2, 2, 8, 1]]]
