"""Distances between point sets."""

import pytest
import torch

from roca_nocs.geometry import point_sets
from roca_nocs.geometry.point_sets import mean_nearest_distance


def test_one_direction() -> None:
    points = torch.tensor([[[0.0, 0.0, 0.0], [1.0, 0.0, 0.0], [9.0, 9.0, 9.0]]])
    valid = torch.tensor([[True, True, False]])
    references = torch.tensor([[[0.0, 0.0, 2.0], [1.0, 1.0, 0.0], [50.0, 0.0, 0.0]]])
    distance = mean_nearest_distance(points, valid, references, torch.tensor([[0, 0]]))
    assert distance.tolist() == pytest.approx([(2 + 1) / 2])


@pytest.mark.parametrize("per_chunk", [1, 1 << 24])
def test_agrees_with_all_pairs(per_chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(point_sets, "_DISTANCES_PER_CHUNK", per_chunk)
    generator = torch.Generator().manual_seed(0)
    points = torch.randn(3, 6, 3, generator=generator)
    references = torch.randn(4, 5, 3, generator=generator)
    valid = torch.rand(3, 6, generator=generator) > 0.4
    pairs = torch.cartesian_prod(torch.arange(3), torch.arange(4))
    squared = (points[:, None, :, None] - references[None, :, None]).square().sum(dim=-1)
    nearest = squared.amin(dim=-1) * valid[:, None]
    expected = nearest.sum(dim=-1) / valid.sum(dim=1)[:, None]
    actual = mean_nearest_distance(points, valid, references, pairs)
    torch.testing.assert_close(actual.view(3, 4), expected)


def test_nothing_to_measure() -> None:
    points, references = torch.zeros(1, 2, 3), torch.ones(1, 2, 3)
    none = torch.zeros(1, 2, dtype=torch.bool)
    empty = torch.zeros(0, 2, dtype=torch.int64)
    assert mean_nearest_distance(points, none, references, torch.tensor([[0, 0]])).tolist() == [0]
    assert mean_nearest_distance(points, none, references, empty).shape == (0,)
