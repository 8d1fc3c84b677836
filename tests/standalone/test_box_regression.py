"""Box deltas and dense regression losses."""

from __future__ import annotations

import math

import pytest
import torch
from detectron2.modeling.box_regression import Box2BoxTransform, _dense_box_regression_loss
from detectron2.structures import Boxes
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf


def random_boxes(seed: int, count: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(count, 2, generator=generator) * 50
    return torch.cat([corner, corner + 5 + torch.rand(count, 2, generator=generator) * 40], dim=1)


def test_deltas_by_hand() -> None:
    transform = Box2BoxTransform((10.0, 10.0, 5.0, 5.0))
    source, target = torch.tensor([[0.0, 0, 10, 20]]), torch.tensor([[5.0, 0, 25, 10]])
    # centres (5, 10) and (15, 5); sizes (10, 20) and (20, 10)
    expected = [[10 * 1.0, 10 * -0.25, 5 * math.log(2), 5 * math.log(0.5)]]
    torch.testing.assert_close(transform.get_deltas(source, target), torch.tensor(expected))


@given(st.integers(0, 1000), st.integers(0, 6))
def test_round_trip(seed: int, count: int) -> None:
    transform = Box2BoxTransform(OmegaConf.create([10.0, 10.0, 5.0, 5.0]))
    source, target = random_boxes(seed, count), random_boxes(seed + 1, count)
    moved = transform.apply_deltas(transform.get_deltas(source, target), source)
    torch.testing.assert_close(moved, target, rtol=1e-4, atol=1e-3)


def test_several_deltas_per_box() -> None:
    transform = Box2BoxTransform((1.0, 2.0, 3.0, 4.0))
    boxes = random_boxes(0, 3)
    deltas = torch.randn(3, 8, generator=torch.Generator().manual_seed(0))
    both = transform.apply_deltas(deltas, boxes)
    assert both.shape == (3, 8)
    torch.testing.assert_close(both[:, 4:], transform.apply_deltas(deltas[:, 4:], boxes))


def test_growth_is_limited_but_shrinking_is_not() -> None:
    transform = Box2BoxTransform((1.0, 1.0, 1.0, 1.0))
    box = torch.tensor([[0.0, 0, 16, 16]])
    grown = transform.apply_deltas(torch.tensor([[0.0, 0, 50, 50]]), box)
    assert (grown[0, 2:] - grown[0, :2]).tolist() == pytest.approx([1000, 1000], rel=1e-5)
    shrunk = transform.apply_deltas(torch.tensor([[0.0, 0, -50, -50]]), box)
    assert (shrunk[0, 2:] - shrunk[0, :2]).abs().max() < 1e-6


def test_half_precision_deltas_are_applied_in_float32() -> None:
    transform = Box2BoxTransform((1.0, 1.0, 1.0, 1.0))
    moved = transform.apply_deltas(torch.zeros(2, 4, dtype=torch.float16), random_boxes(0, 2))
    assert moved.dtype == torch.float32


def test_sources_need_a_width() -> None:
    box = torch.tensor([[3.0, 0, 3, 5]])
    with pytest.raises(AssertionError, match="Input boxes to Box2BoxTransform are not valid!"):
        Box2BoxTransform((1.0, 1.0, 1.0, 1.0)).get_deltas(box, box)


def loss_inputs() -> tuple[list[Boxes], list[torch.Tensor], list[torch.Tensor], torch.Tensor]:
    anchors = [Boxes(random_boxes(0, 3)), Boxes(random_boxes(1, 2))]
    generator = torch.Generator().manual_seed(2)
    deltas = [0.1 * torch.randn(2, len(level), 4, generator=generator) for level in anchors]
    foreground = torch.tensor([[1, 0, 0, 1, 0], [0, 0, 1, 0, 1]], dtype=torch.bool)
    return anchors, deltas, [random_boxes(3, 5), random_boxes(4, 5)], foreground


@pytest.mark.parametrize("beta", [0.0, 0.5])
def test_smooth_l1_sums_over_the_foreground(beta: float) -> None:
    anchors, deltas, targets, foreground = loss_inputs()
    transform = Box2BoxTransform((1.0, 1.0, 1.0, 1.0))
    loss = _dense_box_regression_loss(
        anchors, transform, deltas, targets, foreground, "smooth_l1", beta
    )
    expected = 0.0
    flat = torch.cat([level.tensor for level in anchors])
    for image, rows in enumerate(torch.cat(deltas, dim=1)):
        for anchor, row in enumerate(rows):
            if foreground[image, anchor]:
                wanted = transform.get_deltas(flat[None, anchor], targets[image][None, anchor])[0]
                for error in (row - wanted).abs().tolist():
                    small = error < beta
                    expected += 0.5 * error**2 / beta if small else error - 0.5 * beta
    assert loss.item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("kind", ["smooth_l1", "giou", "diou", "ciou"])
def test_losses_vanish_at_the_target_and_ignore_the_background(kind: str) -> None:
    anchors, deltas, targets, foreground = loss_inputs()
    transform = Box2BoxTransform((10.0, 10.0, 5.0, 5.0))
    flat = torch.cat([level.tensor for level in anchors])
    perfect = torch.stack([transform.get_deltas(flat, target) for target in targets])
    perfect[~foreground] = 77.0
    targets = [torch.where(m[:, None], t, 0.0) for m, t in zip(foreground, targets, strict=True)]
    exact = list(perfect.split([3, 2], dim=1))
    arguments = (targets, foreground, kind)
    assert _dense_box_regression_loss(anchors, transform, exact, *arguments).item() < 1e-3
    assert _dense_box_regression_loss(anchors, transform, deltas, *arguments).item() > 0.5


@pytest.mark.parametrize("kind", ["smooth_l1", "giou", "diou", "ciou"])
def test_everything_is_foreground_with_an_ellipsis(kind: str) -> None:
    boxes, targets = random_boxes(0, 4), random_boxes(1, 4)
    deltas = torch.full((1, 4, 4), 0.1)
    transform = Box2BoxTransform((1.0, 1.0, 1.0, 1.0))
    mask = torch.ones(1, 4, dtype=torch.bool)
    losses = [
        _dense_box_regression_loss([boxes], transform, [deltas], [targets], selection, kind)
        for selection in (..., mask)
    ]
    torch.testing.assert_close(*losses)


@pytest.mark.parametrize("kind", ["smooth_l1", "giou", "diou", "ciou"])
def test_no_foreground_gives_zero_with_a_gradient(kind: str) -> None:
    anchors, deltas, targets, foreground = loss_inputs()
    deltas = [level.requires_grad_() for level in deltas]
    transform = Box2BoxTransform((1.0, 1.0, 1.0, 1.0))
    loss = _dense_box_regression_loss(
        anchors, transform, deltas, targets, torch.zeros_like(foreground), kind
    )
    assert loss.item() == 0
    loss.backward()
    assert all(level.grad.abs().sum() == 0 for level in deltas)


def test_unknown_loss() -> None:
    anchors, deltas, targets, foreground = loss_inputs()
    transform = Box2BoxTransform((1.0, 1.0, 1.0, 1.0))
    with pytest.raises(ValueError, match="l3"):
        _dense_box_regression_loss(anchors, transform, deltas, targets, foreground, "l3")
