"""Greedy selection and matching within groups, all groups at once.

Items are arranged in groups (the objects of one class in one scene or image) that do not touch each
other. Only the order within a group is sequential, so every step here handles one item of each
group, or all items that wait for nothing; there is no Python loop over items or pairs.
"""

from __future__ import annotations

import numpy as np


def ragged_ranges(starts: np.ndarray, lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The ranges ``starts[i] .. starts[i] + lengths[i] - 1``, joined.

    Args:
        starts: (N,) integer.
        lengths: (N,) integer, not negative.

    Returns:
        (P,) int64 index i of the range and (P,) int64 value, P the sum of the lengths.
    """
    lengths = np.asarray(lengths, np.int64)
    owners = np.repeat(np.arange(len(lengths)), lengths)
    offsets = np.arange(len(owners)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    return owners, np.asarray(starts, np.int64)[owners] + offsets


def rank_in_group(groups: np.ndarray) -> np.ndarray:
    """(N,) int64: position of each item within its group; groups (N,) ascending."""
    return np.arange(len(groups)) - np.searchsorted(groups, groups, side="left")


def pairs_within(groups: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """All pairs i < j of items of one group.

    Args:
        groups: (N,) ascending.

    Returns:
        (P,) int64 i and (P,) int64 j, ordered by i and then by j.
    """
    following = np.arange(1, len(groups) + 1)
    return ragged_ranges(following, np.searchsorted(groups, groups, side="right") - following)


def pairs_between(groups: np.ndarray, others: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """All pairs of an item and an item of the other set in the same group.

    Args:
        groups: (N,).
        others: (M,) in any order.

    Returns:
        (P,) int64 index of the first and (P,) int64 of the second set, ordered by the first and
        then by the second.
    """
    order = np.argsort(others, kind="stable")
    starts = np.searchsorted(others[order], groups, side="left")
    ends = np.searchsorted(others[order], groups, side="right")
    first, second = ragged_ranges(starts, ends - starts)
    return first, order[second]


def greedy_selection(first: np.ndarray, second: np.ndarray, count: int) -> np.ndarray:
    """Go through the items in order; each one that is still there removes those it excludes.

    Each round decides all items without an undecided predecessor that could remove them.

    Args:
        first: (P,) int64, the excluding item of a pair, always smaller than `second`.
        second: (P,) int64, the item that it excludes.
        count: number of items N.

    Returns:
        (N,) bool: the items that remain.
    """
    kept = np.zeros(count, dtype=bool)
    undecided = np.ones(count, dtype=bool)
    while undecided.any():
        waiting = np.zeros(count, dtype=bool)
        waiting[second] = True
        decided = undecided & ~waiting
        kept |= decided
        undecided &= waiting
        undecided[second[decided[first]]] = False
        alive = undecided[first] & undecided[second]
        first, second = first[alive], second[alive]
    return kept


def greedy_matching(first: np.ndarray, second: np.ndarray, ranks: np.ndarray) -> np.ndarray:
    """Each item in turn takes the first partner that is free.

    Args:
        first: (P,) int64 item of an admissible pair.
        second: (P,) int64 partner; the order of an item's pairs is its order of preference.
        ranks: (N,) int64, when an item has its turn. Items of the same rank must not share a
            partner.

    Returns:
        (N,) int64: the partner of each item, -1 = none.
    """
    partner = np.full(len(ranks), -1, dtype=np.int64)
    order = np.lexsort((first, ranks[first]))
    first, second = first[order], second[order]
    taken = np.zeros(second.max(initial=-1) + 1, dtype=bool)
    turns = ranks[first]
    for turn in np.unique(turns):
        now = slice(*np.searchsorted(turns, (turn, turn + 1)))
        free = ~taken[second[now]]
        items, choice = np.unique(first[now][free], return_index=True)
        partner[items] = second[now][free][choice]
        taken[partner[items]] = True
    return partner
