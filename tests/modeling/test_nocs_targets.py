"""Targets of regions: clean outlines, depth, regions of several images, and no regions."""

from __future__ import annotations

import pytest
import torch

from roca_nocs.modeling.roi_heads.nocs_targets import (
    RESAMPLING,
    ObjectMaps,
    resample,
    roi_depth,
)

HEIGHT, WIDTH, SIZE = 40, 60, 14


def ramp() -> torch.Tensor:
    """(3, H, W): coordinates that grow linearly over the image, around 1/2."""
    y, x = torch.meshgrid(torch.arange(HEIGHT), torch.arange(WIDTH), indexing="ij")
    x, y = x / (2 * WIDTH), y / (2 * HEIGHT)
    return 0.4 + torch.stack([x, y, (x + y) / 2])


def two_images() -> ObjectMaps:
    """A disc and, in the other image, two rectangles that touch."""
    y, x = torch.meshgrid(torch.arange(HEIGHT), torch.arange(WIDTH), indexing="ij")
    masks = torch.zeros(3, HEIGHT, WIDTH, dtype=torch.bool)
    masks[0] = (x - 30) ** 2 + (y - 20) ** 2 < 12**2
    masks[1, 5:25, 10:30] = True
    masks[2, 5:25, 30:50] = True
    seen = torch.stack([masks[0], masks[1] | masks[2]])
    nocs = torch.stack([ramp(), 1 - ramp()]) - 0.5
    depth = torch.stack([torch.full((1, HEIGHT, WIDTH), 2.0), torch.full((1, HEIGHT, WIDTH), 3.0)])
    depth[1, :, :, 10:20] = 0  # unknown
    boxes = torch.tensor([[18.0, 8, 43, 33], [10, 5, 30, 25], [30, 5, 50, 25]])
    return ObjectMaps(nocs * seen[:, None], masks, boxes, torch.tensor([0, 1, 1]), depth)


def positions(boxes: torch.Tensor) -> torch.Tensor:
    """(R, 3, S, S): the ramp at the centres of the cells."""
    steps = (torch.arange(SIZE) + 0.5) / SIZE
    x = boxes[:, :1] + steps * (boxes[:, 2:3] - boxes[:, :1]) - 0.5
    y = boxes[:, 1:2] + steps * (boxes[:, 3:] - boxes[:, 1:2]) - 0.5
    x = (x / (2 * WIDTH))[:, None, :].expand(-1, SIZE, -1)
    y = (y / (2 * HEIGHT))[:, :, None].expand(-1, -1, SIZE)
    return 0.4 + torch.stack([x, y, (x + y) / 2], dim=1)


def test_outlines_hold_the_object_alone() -> None:
    objects = two_images()
    boxes = torch.tensor([[15.0, 5, 46, 36], [3, 0, 33, 31]])
    coordinates, mask = resample(objects, boxes, torch.tensor([0, 1]), SIZE)
    expected = positions(boxes)
    expected[1] = 1 - expected[1]
    assert mask.flatten(1).any(dim=1).all() and not mask.flatten(1).all(dim=1).any()
    # At most the step between the centres of two pixels.
    assert ((coordinates - expected).abs() * mask[:, None]).max() < 0.5 / 40
    assert not (coordinates * ~mask[:, None]).any()
    share = mask.flatten(1).float().mean(dim=1)
    area = torch.stack([objects.masks[0].sum(), objects.masks[1].sum()]) / (
        31 * torch.tensor([31, 30])
    )
    torch.testing.assert_close(share, area, atol=0.03, rtol=0)


def test_published_outlines_are_pulled_to_zero() -> None:
    objects = two_images()
    boxes = torch.tensor([[15.0, 5, 46, 36]])
    rows = torch.tensor([0])
    clean, mask = resample(objects, boxes, rows, SIZE)
    for mode, least in (("nocs", 0.05), ("ganocs", 0.1)):
        pulled, other = resample(objects, boxes, rows, SIZE, mode)
        both = mask & other
        assert both.sum() > 0.8 * mask.sum()
        difference = (clean - pulled)[both[:, None].expand_as(clean)]
        assert difference.max() > least and difference.median().abs() < 0.02


def test_regions_see_their_own_object_only() -> None:
    """Both rectangles lie in both regions."""
    objects = two_images()
    boxes = torch.tensor([[10.0, 5, 50, 25]]).expand(2, -1)
    for mode in RESAMPLING:
        _, mask = resample(objects, boxes, torch.tensor([2, 1]), SIZE, mode)
        halves = mask.float().unflatten(2, (2, SIZE // 2)).mean(dim=(1, 3))
        torch.testing.assert_close(halves, torch.tensor([[0.0, 1], [1, 0]]), atol=0.15, rtol=0)


def test_depth() -> None:
    objects = two_images()
    boxes, rows = objects.boxes[[0, 1, 2]], torch.tensor([0, 1, 2])
    depth = roi_depth(objects, boxes, rows, SIZE)
    _, mask = resample(objects, boxes, rows, SIZE)
    assert depth.shape == (3, 1, SIZE, SIZE)
    torch.testing.assert_close(depth[0, 0][mask[0]], torch.full((int(mask[0].sum()),), 2.0))
    assert not depth[0, 0][~mask[0]].any()
    torch.testing.assert_close(depth[1, 0, :, SIZE // 2 :], torch.full((SIZE, SIZE // 2), 3.0))
    assert not depth[1, 0, :, : SIZE // 2].any()
    torch.testing.assert_close(depth[2], torch.full((1, SIZE, SIZE), 3.0))


@pytest.mark.parametrize("mode", RESAMPLING)
def test_no_regions(mode: str) -> None:
    objects = two_images()
    nothing = objects.select(torch.zeros(0, dtype=torch.int64))
    empty = torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64)
    for given in (objects, nothing):
        coordinates, mask = resample(given, *empty, SIZE, mode)
        assert coordinates.shape == (0, 3, SIZE, SIZE)
        assert mask.shape == (0, SIZE, SIZE) and mask.dtype == torch.bool
        assert roi_depth(given, *empty, SIZE).shape == (0, 1, SIZE, SIZE)


def test_unknown_mode() -> None:
    with pytest.raises(ValueError, match=r"target_resample is 'nearest'; expected one of"):
        resample(two_images(), torch.zeros(1, 4), torch.tensor([0]), SIZE, "nearest")
