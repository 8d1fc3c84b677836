"""Matching by quality."""

from __future__ import annotations

import pytest
import torch
from detectron2.modeling.matcher import Matcher
from omegaconf import OmegaConf

QUALITY = torch.tensor([[0.15, 0.45, 0.2, 0.6], [0.3, 0.65, 0.05, 0.1], [0.05, 0.4, 0.25, 0.4]])


def test_intervals_and_low_quality_matches() -> None:
    matches, labels = Matcher([0.3, 0.7], [0, -1, 1])(QUALITY)
    assert matches.tolist() == [1, 1, 2, 0] and labels.tolist() == [-1, -1, 0, -1]
    assert matches.dtype == torch.int64 and labels.dtype == torch.int8
    matches, labels = Matcher([0.3, 0.7], [0, -1, 1], allow_low_quality_matches=True)(QUALITY)
    # The third ground truth has its best quality, 0.4, in columns 1 and 3.
    assert matches.tolist() == [1, 1, 2, 0] and labels.tolist() == [-1, 1, 0, 1]


def test_lower_bound_is_inclusive() -> None:
    quality = torch.tensor([[0.29999, 0.3, 0.5, 0.7, 1.0]])
    assert Matcher([0.3, 0.7], [0, -1, 1])(quality)[1].tolist() == [0, -1, -1, 1, 1]
    assert Matcher([0.5], [0, 1])(quality)[1].tolist() == [0, 0, 1, 1, 1]


def test_a_ground_truth_that_nothing_overlaps_makes_everything_positive() -> None:
    quality = torch.tensor([[0.8, 0.0, 0.1], [0.0, 0.0, 0.0]])
    matches, labels = Matcher([0.3, 0.7], [0, -1, 1], allow_low_quality_matches=True)(quality)
    assert labels.tolist() == [1, 1, 1] and matches.tolist() == [0, 0, 0]


@pytest.mark.parametrize("low_quality", [False, True])
def test_empty_matrices(low_quality: bool) -> None:
    matcher = Matcher([0.3, 0.7], [-1, 0, 1], allow_low_quality_matches=low_quality)
    matches, labels = matcher(torch.zeros(0, 3))
    assert matches.tolist() == [0, 0, 0] and matches.dtype == torch.int64
    assert labels.tolist() == [-1, -1, -1] and labels.dtype == torch.int8
    matches, labels = matcher(torch.zeros(2, 0))
    assert matches.shape == labels.shape == (0,)


def test_thresholds_are_not_changed() -> None:
    thresholds, labels = [0.3, 0.7], [0, -1, 1]
    Matcher(thresholds, labels)(QUALITY)
    assert thresholds == [0.3, 0.7] and labels == [0, -1, 1]


def test_thresholds_from_a_config() -> None:
    config = OmegaConf.create({"thresholds": [0.5], "labels": [0, 1]})
    assert Matcher(config.thresholds, config.labels)(QUALITY)[1].tolist() == [0, 1, 0, 1]
    assert config.thresholds == [0.5]


@pytest.mark.parametrize(
    ("thresholds", "labels"),
    [([0.7, 0.3], [0, -1, 1]), ([0.5], [0, 2]), ([0.5], [0, 1, 1]), ([-0.5], [0, 1])],
)
def test_rules_are_checked(thresholds: list[float], labels: list[int]) -> None:
    with pytest.raises(AssertionError):
        Matcher(thresholds, labels)


@pytest.mark.parametrize("value", [-0.1, float("nan")])
def test_qualities_must_not_be_negative(value: float) -> None:
    with pytest.raises(AssertionError):
        Matcher([0.5], [0, 1])(torch.tensor([[0.3, value]]))


def test_matrix_must_have_two_dimensions() -> None:
    with pytest.raises(AssertionError):
        Matcher([0.5], [0, 1])(torch.ones(3))
