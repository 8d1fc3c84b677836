"""Padding of images into one tensor."""

from __future__ import annotations

import pytest
import torch
from detectron2.structures import ImageList


def test_pads_at_the_bottom_and_right() -> None:
    small, wide = torch.ones(3, 2, 3), torch.full((3, 1, 5), 2.0)
    batch = ImageList.from_tensors([small, wide], pad_value=-1.0)
    assert batch.tensor.shape == (2, 3, 2, 5)
    assert batch.image_sizes == [(2, 3), (1, 5)]
    assert all(type(side) is int for size in batch.image_sizes for side in size)
    assert torch.equal(batch[0], small) and torch.equal(batch[1], wide)
    assert (batch.tensor[0, :, :, 3:] == -1).all() and (batch.tensor[1, :, 1:] == -1).all()
    assert len(batch) == 2


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({}, (10, 17)),
        ({"size_divisibility": 1}, (10, 17)),
        ({"size_divisibility": 8}, (16, 24)),
        ({"padding_constraints": {"square_size": 32}}, (32, 32)),
        ({"padding_constraints": {"square_size": 0}}, (10, 17)),
        ({"size_divisibility": 8, "padding_constraints": {"size_divisibility": 5}}, (10, 20)),
        ({"padding_constraints": {"square_size": 30, "size_divisibility": 16}}, (32, 32)),
    ],
)
@pytest.mark.parametrize("count", [1, 2])
def test_padded_size(arguments: dict, expected: tuple[int, int], count: int) -> None:
    images = [torch.rand(3, 10, 17), torch.rand(3, 4, 6)][:count]
    assert ImageList.from_tensors(images, **arguments).tensor.shape[-2:] == expected


def test_images_without_channels() -> None:
    batch = ImageList.from_tensors([torch.ones(2, 2), torch.ones(1, 3)], 4)
    assert batch.tensor.shape == (2, 4, 4)
    assert batch[1].shape == (1, 3)


def test_keeps_the_dtype_and_the_gradient() -> None:
    assert ImageList.from_tensors([torch.ones(1, 2, 2, dtype=torch.uint8)]).tensor.dtype == (
        torch.uint8
    )
    image = torch.ones(1, 2, 2, requires_grad=True)
    ImageList.from_tensors([image, torch.ones(1, 3, 3)]).tensor.sum().backward()
    assert image.grad.tolist() == [[[1, 1], [1, 1]]]


def test_result_does_not_share_storage() -> None:
    image = torch.zeros(1, 2, 2)
    ImageList.from_tensors([image]).tensor.fill_(1)
    assert image.sum() == 0


def test_an_image_is_a_view() -> None:
    batch = ImageList.from_tensors([torch.zeros(1, 2, 2), torch.zeros(1, 3, 3)])
    batch[0].fill_(1)
    assert batch.tensor.sum() == 4


def test_to() -> None:
    batch = ImageList.from_tensors([torch.ones(1, 2, 2)])
    half = batch.to(torch.float16)
    assert half.tensor.dtype == torch.float16 and half.image_sizes == [(2, 2)]
    assert half.device == torch.device("cpu")


def test_refuses() -> None:
    with pytest.raises(AssertionError):
        ImageList.from_tensors([])
    with pytest.raises(AssertionError):
        ImageList.from_tensors([torch.ones(1, 2, 2), torch.ones(3, 2, 2)])


@pytest.mark.standalone_only
def test_an_image_larger_than_the_square_is_refused() -> None:
    with pytest.raises(ValueError, match="4 x 4 images but an image of the batch needs 5 x 3"):
        ImageList.from_tensors([torch.ones(1, 5, 3)], padding_constraints={"square_size": 4})
