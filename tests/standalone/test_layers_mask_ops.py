"""Pasting of masks into images."""

from __future__ import annotations

import pytest
import torch
from detectron2.layers import paste_masks_in_image
from detectron2.structures import Boxes


def paste_by_hand(
    mask: torch.Tensor, box: list[float], height: int, width: int
) -> list[list[float]]:
    """Bilinear interpolation written out for one mask; zeros outside."""
    size = len(mask)

    def value(row: int, column: int) -> float:
        inside = 0 <= row < size and 0 <= column < size
        return mask[row, column].item() if inside else 0.0

    image = []
    for y in range(height):
        image.append([])
        for x in range(width):
            u = (x + 0.5 - box[0]) / (box[2] - box[0]) * size - 0.5
            v = (y + 0.5 - box[1]) / (box[3] - box[1]) * size - 0.5
            i, j = int(v // 1), int(u // 1)
            a, b = v - i, u - j
            image[-1].append(
                (1 - a) * ((1 - b) * value(i, j) + b * value(i, j + 1))
                + a * ((1 - b) * value(i + 1, j) + b * value(i + 1, j + 1))
            )
    return image


def test_a_full_mask_fills_its_box() -> None:
    boxes = torch.tensor([[1.0, 2, 4, 6], [-5, -5, 3, 3]])
    pasted = paste_masks_in_image(torch.ones(2, 28, 28), boxes, (8, 6))
    expected = torch.zeros(2, 8, 6, dtype=torch.bool)
    expected[0, 2:6, 1:4] = expected[1, :3, :3] = True
    assert torch.equal(pasted, expected)


def test_tensor_and_boxes_are_accepted() -> None:
    masks = torch.rand(3, 4, 4, generator=torch.Generator().manual_seed(0))
    boxes = torch.tensor([[0.0, 0, 5, 5], [2, 2, 9, 4], [3, 1, 4, 8]])
    first = paste_masks_in_image(masks, boxes, (10, 10))
    assert torch.equal(first, paste_masks_in_image(masks, Boxes(boxes), (10, 10)))


def test_threshold_is_inclusive() -> None:
    masks = torch.full((1, 4, 4), 0.25)
    box = torch.tensor([[0.0, 0, 4, 4]])
    assert paste_masks_in_image(masks, box, (4, 4), threshold=0.25).all()
    assert not paste_masks_in_image(masks, box, (4, 4), threshold=0.26).any()


def test_negative_threshold_asks_for_soft_masks() -> None:
    masks = torch.full((1, 2, 2), 0.5)
    soft = paste_masks_in_image(masks, torch.tensor([[0.0, 0, 2, 2]]), (2, 2), threshold=-1)
    assert soft.dtype == torch.uint8 and soft.tolist() == [[[127, 127], [127, 127]]]


def test_nothing_to_paste() -> None:
    pasted = paste_masks_in_image(torch.zeros(0, 28, 28), torch.zeros(0, 4), (5, 6))
    assert pasted.shape == (0, 5, 6)


@pytest.mark.standalone_only
def test_boxes_outside_of_the_image() -> None:
    boxes = torch.tensor([[20.0, 20, 30, 30], [-9, 0, -5, 4]])
    assert not paste_masks_in_image(torch.ones(2, 4, 4), boxes, (8, 8)).any()


def test_refuses() -> None:
    with pytest.raises(AssertionError, match="quare"):
        paste_masks_in_image(torch.zeros(1, 4, 5), torch.zeros(1, 4), (5, 5))
    with pytest.raises(AssertionError):
        paste_masks_in_image(torch.zeros(1, 4, 4), torch.zeros(2, 4), (5, 5))


@pytest.mark.standalone_only
def test_nothing_to_paste_is_boolean() -> None:
    empty = torch.zeros(0, 28, 28), torch.zeros(0, 4), (5, 6)
    assert paste_masks_in_image(*empty).dtype == torch.bool
    assert paste_masks_in_image(*empty, threshold=-1).dtype == torch.uint8


@pytest.mark.standalone_only
@pytest.mark.parametrize("box", [[2.0, 1, 18, 13], [0.25, 0.5, 3.75, 3.0], [-6, 4, 9, 30]])
def test_interpolates_everywhere_within_reach(box: list[float]) -> None:
    # On the CPU upstream cuts the soft border off one pixel outside the box.
    mask = torch.rand(1, 3, 3, generator=torch.Generator().manual_seed(4))
    soft = paste_masks_in_image(mask, torch.tensor([box]), (16, 20), threshold=-1)
    expected = torch.tensor(paste_by_hand(mask[0], box, 16, 20)) * 255
    assert (soft[0].float() - expected).abs().max() <= 1.001


@pytest.mark.standalone_only
def test_a_box_without_area_gives_an_empty_mask() -> None:
    boxes = torch.tensor([[2.5, 1, 2.5, 4], [3, 3, 1, 1]])
    assert not paste_masks_in_image(torch.ones(2, 3, 3), boxes, (6, 6), threshold=0.01).any()


@pytest.mark.standalone_only
@pytest.mark.gpu
def test_devices_agree() -> None:
    generator = torch.Generator().manual_seed(0)
    masks = torch.rand(20, 28, 28, generator=generator)
    corner = torch.rand(20, 2, generator=generator) * 50
    boxes = torch.cat([corner, corner + 1 + torch.rand(20, 2, generator=generator) * 40], dim=1)
    here = paste_masks_in_image(masks, boxes, (64, 80), threshold=-1)
    there = paste_masks_in_image(masks.cuda(), boxes.cuda(), (64, 80), threshold=-1).cpu()
    # Rounding may change the last of the 255 steps.
    assert (here.int() - there.int()).abs().max() <= 1
