"""Samples of region maps against resizing them, and the owner of each pixel."""

import torch
import torch.nn.functional as F

from roca_nocs.layers.region_samples import owning_regions, sample_regions


def test_samples_are_those_of_resized_maps() -> None:
    torch.manual_seed(0)
    maps = torch.randn(2, 5, 6, 7, requires_grad=True)
    boxes = torch.tensor([[2.0, 1.0, 14.0, 5.0], [0.0, 3.0, 3.0, 20.0]])
    for row, (x0, y0, x1, y1) in enumerate(boxes.int().tolist()):
        resized = F.interpolate(maps[row : row + 1], (y1 - y0, x1 - x0), mode="bilinear")[0]
        pixels = torch.cartesian_prod(torch.arange(y0, y1), torch.arange(x0, x1))
        sampled = sample_regions(maps, boxes, torch.full((len(pixels),), row), pixels)
        expected = resized.flatten(1).T
        torch.testing.assert_close(sampled, expected)
        found, wanted = (
            torch.autograd.grad(v.square().sum(), maps, retain_graph=True)[0]
            for v in (sampled, expected)
        )
        torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-4)


def test_no_pixels_no_regions() -> None:
    maps = torch.zeros(0, 3, 4, 4, requires_grad=True)
    empty = torch.zeros(0, dtype=torch.int64)
    sampled = sample_regions(maps, torch.zeros(0, 4), empty, torch.zeros(0, 2, dtype=torch.int64))
    assert sampled.shape == (0, 3)
    sampled.sum().backward()
    owners = owning_regions(torch.zeros(0, 4), torch.zeros(0), empty, 2, (3, 4))
    assert owners.tolist() == [[[-1] * 4] * 3] * 2


def test_owners() -> None:
    boxes = torch.tensor(
        [[0.0, 0.0, 3.0, 2.0], [1.0, 0.0, 4.0, 1.0], [0.0, 0.0, 4.0, 4.0], [2.6, 1.0, 3.4, 2.0]]
    )
    scores = torch.tensor([0.5, 0.9, 0.3, 0.8])
    images = torch.tensor([1, 1, 0, 1])
    owners = owning_regions(boxes, scores, images, 3, (3, 4))
    assert owners[0].eq(2).all()
    # The last box holds no pixel centre: its columns end before 3.5.
    assert owners[1].tolist() == [[0, 1, 1, 1], [0, 0, 0, -1], [-1, -1, -1, -1]]
    assert owners[2].eq(-1).all()
