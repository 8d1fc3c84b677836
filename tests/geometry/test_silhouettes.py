"""Silhouettes of point sets."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from roca_nocs.geometry.silhouettes import fill_box, silhouette_scores, splat_silhouettes

INTRINSICS = torch.tensor([[100.0, 0, 80], [0, 100, 60], [0, 0, 1]])
UPRIGHT = torch.diag(torch.tensor([1.0, -1.0, -1.0]))  # model y up to camera y down


def chair() -> torch.Tensor:
    """(P, 3): a seat and a back, which looks different from every side."""
    u, v = torch.meshgrid(
        torch.linspace(-0.4, 0.4, 40), torch.linspace(-0.4, 0.4, 40), indexing="ij"
    )
    seat = torch.stack([u, -0.1 + 0 * u, v], dim=-1)
    back = torch.stack([0.7 * u, 0.4 + v, -0.4 + 0 * u], dim=-1)
    return torch.cat([seat.flatten(0, 1), back.flatten(0, 1)])


def turn(angle: float) -> torch.Tensor:
    cos, sin = math.cos(angle), math.sin(angle)
    return torch.tensor([[cos, 0, sin], [0, 1, 0], [-sin, 0, cos]])


def draw(points: torch.Tensor, rotation: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mask (1, G, G) and box (1, 4) of a model three metres away."""
    rays = (points @ rotation.T + torch.tensor([0.0, 0.0, 3.0])) @ INTRINSICS.T
    pixels = (rays[:, :2] / rays[:, 2:])[None]
    mask, _ = splat_silhouettes(pixels, 24)
    return mask, torch.cat([pixels.amin(dim=1), pixels.amax(dim=1)], dim=1)


def score(
    points: torch.Tensor, mask: torch.Tensor, box: torch.Tensor, rotation: torch.Tensor, **kwargs
) -> float:
    pose = INTRINSICS[None], rotation[None], torch.tensor([[0.0, 0.0, 3.0]]), torch.ones(1, 3)
    return silhouette_scores(mask, box, *pose, points[None], **kwargs).item()


def test_silhouette_fills_its_box_and_closes_gaps() -> None:
    x, y = torch.meshgrid(torch.arange(10.0), torch.arange(5.0), indexing="ij")
    full = torch.stack([x, y], dim=-1).flatten(0, 1)
    ring = full[(full[:, 0] < 2) | (full[:, 0] > 7) | (full[:, 1] < 1) | (full[:, 1] > 3)]
    silhouettes, extent = splat_silhouettes(torch.stack([full]), 8)
    assert silhouettes.all()
    assert extent.tolist() == [[9.0, 4.0]]
    hole, _ = splat_silhouettes(ring[None], 8)
    assert not hole[0, 4, 4]
    assert hole[0, 0].all() and hole[0, :, 0].all()


def test_masks_fill_their_own_box() -> None:
    masks = torch.zeros(3, 8, 8, dtype=torch.bool)
    masks[0, 2:4, 1:7] = True
    masks[1] = torch.eye(8, dtype=torch.bool)
    boxes = torch.tensor([[10.0, 20.0, 26.0, 52.0]]).repeat(3, 1)
    filled, size = fill_box(masks, boxes)
    assert filled[0].all()
    assert torch.equal(filled[1], masks[1])
    assert not filled[2].any()
    assert size.tolist() == [[12, 8], [16, 32], [16, 32]]
    corner = torch.zeros(1, 8, 8, dtype=torch.bool)
    corner[0, 6:, 4:] = corner[0, 4:, 6:] = True
    filled, _ = fill_box(corner, boxes[:1])
    expected = torch.ones(8, 8, dtype=torch.bool)
    expected[:4, :4] = False
    assert torch.equal(filled[0], expected)


def test_looser_boxes_change_nothing() -> None:
    """A box with a margin, and the mask smaller in it."""
    points = chair()
    mask, box = draw(points, UPRIGHT)
    loose = torch.zeros(1, 48, 48, dtype=torch.bool)
    loose[:, 12:36, 12:36] = mask
    size = box[:, 2:] - box[:, :2]
    wider = torch.cat([box[:, :2] - size / 2, box[:, 2:] + size / 2], dim=1)
    filled, tight = fill_box(loose, wider)
    torch.testing.assert_close(tight, size, rtol=1e-4, atol=0)
    enlarged = mask.repeat_interleave(2, dim=1).repeat_interleave(2, dim=2)
    assert (filled == enlarged).float().mean() > 0.98


def test_points_in_one_place() -> None:
    silhouettes, extent = splat_silhouettes(torch.full((2, 3, 2), 7.0), 4)
    assert silhouettes.sum(dim=(1, 2)).tolist() == [1, 1]
    assert extent.tolist() == [[0, 0], [0, 0]]
    assert splat_silhouettes(torch.zeros(0, 3, 2), 4)[0].shape == (0, 4, 4)


@settings(max_examples=20, deadline=None)
@given(heading=st.integers(0, 23), predicted=st.integers(0, 23))
def test_heading_does_not_matter(heading: int, predicted: int) -> None:
    """The model itself fits at any predicted heading of the search's grid."""
    points = chair()
    mask, box = draw(points, UPRIGHT @ turn(heading * math.pi / 12))
    value = score(points, mask, box, UPRIGHT @ turn(predicted * math.pi / 12), angle_weight=0.0)
    assert value == pytest.approx(1, abs=0.02)


def test_the_predicted_heading_counts_a_little() -> None:
    points = chair()
    mask, box = draw(points, UPRIGHT)
    assert score(points, mask, box, UPRIGHT) == pytest.approx(1.05, abs=1e-4)
    turned = score(points, mask, box, UPRIGHT @ turn(math.pi / 2))
    assert 0.9 < turned < 1.05


def test_own_model_fits_better_than_others() -> None:
    points = chair()
    mask, box = draw(points, UPRIGHT @ turn(1.0))
    own = score(points, mask, box, UPRIGHT)
    for other in (points * torch.tensor([1.0, 0.5, 1.0]), points[:1600], points.abs() - 0.2):
        assert score(other, mask, box, UPRIGHT) < own - 0.05


def test_aspect_ratio_of_the_box() -> None:
    points = chair()
    mask, box = draw(points, UPRIGHT)
    stretched = box * torch.tensor([1.0, 2.0, 1.0, 2.0])
    loss = score(points, mask, box, UPRIGHT) - score(points, mask, stretched, UPRIGHT)
    assert 0.05 < loss <= 0.2 * math.log(2) + 1e-4


def test_nothing_and_the_degenerate() -> None:
    empty = torch.zeros(0, 4, 4, dtype=torch.bool)
    pose = torch.zeros(0, 3, 3), torch.zeros(0, 3, 3), torch.zeros(0, 3), torch.zeros(0, 3)
    assert silhouette_scores(empty, torch.zeros(0, 4), *pose, torch.zeros(0, 5, 3)).shape == (0,)
    # Behind the camera, without scale, with an empty mask and a box without area.
    mask = torch.zeros(1, 4, 4, dtype=torch.bool)
    pose = INTRINSICS[None], UPRIGHT[None], torch.tensor([[0.0, 0.0, -3.0]]), torch.zeros(1, 3)
    value = silhouette_scores(mask, torch.zeros(1, 4), *pose, torch.rand(1, 5, 3))
    assert value.isfinite().all()
