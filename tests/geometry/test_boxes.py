"""Boxes of set-prediction detectors: properties of formats, overlaps and the logit."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from roca_nocs.geometry.boxes import (
    cxcywh_to_xyxy,
    elementwise_giou,
    elementwise_iou,
    inverse_sigmoid,
    pairwise_iou_giou,
    xyxy_to_cxcywh,
)

coordinate = st.floats(0, 1, width=32)
cxcywh = st.tuples(coordinate, coordinate, coordinate, coordinate)
box = cxcywh.map(lambda each: cxcywh_to_xyxy(torch.tensor(each, dtype=torch.float64)))


@settings(max_examples=50)
@given(box, box)
def test_overlaps_are_symmetric_and_bounded(a: torch.Tensor, b: torch.Tensor) -> None:
    iou, giou = elementwise_iou(a, b), elementwise_giou(a, b)
    assert iou == elementwise_iou(b, a)
    assert giou == elementwise_giou(b, a)
    assert 0 <= iou < 1
    assert -1 < giou <= iou + 1e-12


@settings(max_examples=50)
@given(box)
def test_overlap_with_itself(a: torch.Tensor) -> None:
    area = (a[2:] - a[:2]).prod()
    torch.testing.assert_close(elementwise_iou(a, a), area / (area + 1e-6))
    torch.testing.assert_close(elementwise_giou(a, a), area / (area + 1e-6))


def test_apart() -> None:
    """Two unit squares with a gap of one: a hull of 3 with a third of it empty."""
    a, b = torch.tensor([0.0, 0, 1, 1]), torch.tensor([2.0, 0, 3, 1])
    assert elementwise_iou(a, b) == 0
    assert elementwise_giou(a, b).item() == pytest.approx(-1 / 3, abs=1e-6)


@settings(max_examples=20)
@given(st.lists(box, min_size=0, max_size=4), st.lists(box, min_size=1, max_size=4))
def test_pairwise_is_elementwise_of_all_pairs(
    rows: list[torch.Tensor], columns: list[torch.Tensor]
) -> None:
    a, b = torch.cat([torch.zeros(0, 4), *(each[None] for each in rows)]), torch.stack(columns)
    iou, giou = pairwise_iou_giou(a, b)
    assert iou.shape == giou.shape == (len(rows), len(columns))
    for i, first in enumerate(a):
        for j, second in enumerate(b):
            assert iou[i, j] == elementwise_iou(first, second)
            assert giou[i, j] == elementwise_giou(first, second)


@given(cxcywh)
def test_formats_are_inverse(values: tuple[float, ...]) -> None:
    boxes = torch.tensor([values], dtype=torch.float64)
    torch.testing.assert_close(xyxy_to_cxcywh(cxcywh_to_xyxy(boxes)), boxes)


@pytest.mark.parametrize("function", [elementwise_iou, elementwise_giou])
def test_gradients_of_empty_and_equal_boxes_are_finite(function) -> None:
    a = torch.tensor([[0.0, 0, 0, 0], [0.2, 0.2, 0.4, 0.4], [0.5, 0.5, 0.5, 0.9]])
    a.requires_grad_()
    function(a, a.detach().clone()).sum().backward()
    assert a.grad.isfinite().all()


@given(st.floats(-6.5, 6.5, width=32))
def test_logit_is_the_inverse_of_the_sigmoid(value: float) -> None:
    x = torch.tensor(value, dtype=torch.float64)
    torch.testing.assert_close(inverse_sigmoid(x.sigmoid()), x)


def test_logit_saturates_outside_the_unit_interval() -> None:
    x = torch.tensor([-1.0, 0.0, 1e-4, 1.0, 2.0], requires_grad=True)
    logits = inverse_sigmoid(x)
    bound = torch.tensor(1e-3).log()
    torch.testing.assert_close(logits[[0, 1]], bound.expand(2))
    torch.testing.assert_close(logits[[3, 4]], -bound.expand(2))
    logits.sum().backward()
    assert x.grad[[0, 1, 3, 4]].tolist() == [0, 0, 0, 0]


def test_small_boxes_need_a_small_epsilon() -> None:
    """A cell of a thousandth of the image: the usual epsilon halves its overlap with itself."""
    a = torch.tensor([0.5, 0.5, 0.501, 0.501], dtype=torch.float64)
    assert elementwise_iou(a, a).item() == pytest.approx(0.5)
    for overlap in (elementwise_iou, elementwise_giou):
        assert overlap(a, a, eps=1e-9).item() == pytest.approx(1.0, abs=2e-3)
    empty = torch.full((4,), 0.5, requires_grad=True)
    elementwise_giou(empty, empty, eps=1e-9).backward()
    assert empty.grad is not None and empty.grad.isfinite().all()
