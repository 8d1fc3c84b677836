"""Greedy selection and matching of all groups at once against one item at a time."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from roca_nocs.evaluation.matching import (
    greedy_matching,
    greedy_selection,
    pairs_between,
    pairs_within,
    ragged_ranges,
    rank_in_group,
)

seeds = st.integers(0, 2**32 - 1)


def test_ranges_and_ranks() -> None:
    owners, values = ragged_ranges(np.array([5, 9, 2]), np.array([2, 0, 3]))
    assert owners.tolist() == [0, 0, 2, 2, 2]
    assert values.tolist() == [5, 6, 2, 3, 4]
    assert rank_in_group(np.array([1, 1, 4, 7, 7, 7])).tolist() == [0, 1, 0, 0, 1, 2]


def test_pairs() -> None:
    first, second = pairs_within(np.array([0, 0, 0, 3, 5, 5]))
    assert list(zip(first, second, strict=True)) == [(0, 1), (0, 2), (1, 2), (4, 5)]
    first, second = pairs_between(np.array([2, 7, 2]), np.array([2, 9, 2]))
    assert list(zip(first, second, strict=True)) == [(0, 0), (0, 2), (2, 0), (2, 2)]


def test_nothing_to_do() -> None:
    none = np.zeros(0, np.int64)
    assert pairs_within(none)[0].tolist() == []
    assert greedy_selection(none, none, 0).tolist() == []
    assert greedy_selection(none, none, 2).tolist() == [True, True]
    assert greedy_matching(none, none, none).tolist() == []
    assert greedy_matching(none, none, np.zeros(2, np.int64)).tolist() == [-1, -1]


def test_removed_items_remove_nothing() -> None:
    # 0 removes 1, so that 1 cannot remove 2.
    kept = greedy_selection(np.array([0, 1]), np.array([1, 2]), 3)
    assert kept.tolist() == [True, False, True]


@given(seed=seeds)
@settings(max_examples=25, deadline=None)
def test_selection_one_item_at_a_time(seed: int) -> None:
    rng = np.random.default_rng(seed)
    groups = np.sort(rng.integers(0, 4, rng.integers(0, 30)))
    first, second = pairs_within(groups)
    chosen = rng.random(len(first)) < rng.random()
    first, second = first[chosen], second[chosen]
    kept = np.ones(len(groups), bool)
    for item in range(len(groups)):
        if kept[item]:
            kept[second[first == item]] = False
    np.testing.assert_array_equal(greedy_selection(first, second, len(groups)), kept)


@given(seed=seeds)
@settings(max_examples=25, deadline=None)
def test_matching_one_item_at_a_time(seed: int) -> None:
    rng = np.random.default_rng(seed)
    groups = np.sort(rng.integers(0, 4, rng.integers(0, 30)))
    first, second = pairs_between(groups, rng.integers(0, 4, rng.integers(0, 20)))
    chosen = rng.random(len(first)) < rng.random()
    first, second = first[chosen], second[chosen]
    expected, taken = np.full(len(groups), -1), set()
    for item in range(len(groups)):
        for partner in second[first == item].tolist():
            if partner not in taken:
                expected[item] = partner
                taken.add(partner)
                break
    matched = greedy_matching(first, second, rank_in_group(groups))
    np.testing.assert_array_equal(matched, expected)
