"""Random order and random subsets within groups of a list, without a loop over the groups."""

from __future__ import annotations

import torch


def shuffle_within_groups(
    groups: torch.Tensor, generator: torch.Generator | None = None
) -> torch.Tensor:
    """A random permutation that moves no entry out of its group.

    Args:
        groups: (M,) int64, ascending.
        generator: on the device of ``groups``; None takes torch's global one.

    Returns:
        (M,) int64: position j gets entry ``result[j]``, which is of the same group.
    """
    # float64 keeps 2^-52 of resolution: up to a million groups leave 32 bits for the order.
    keys = torch.rand(len(groups), dtype=torch.float64, device=groups.device, generator=generator)
    return (keys + groups).argsort()


def rank_in_group(groups: torch.Tensor) -> torch.Tensor:
    """Position (M,) int64 of each entry within its group; ``groups`` (M,) int64, ascending."""
    positions = torch.arange(len(groups), device=groups.device)
    return positions - torch.searchsorted(groups, groups)


def subset_of_groups(
    groups: torch.Tensor, most: int, generator: torch.Generator | None = None
) -> torch.Tensor:
    """Draw at most ``most`` entries of each group, without replacement.

    Args:
        groups: (M,) int64, ascending.
        most: largest number of entries that are kept of one group.
        generator: see :func:`shuffle_within_groups`.

    Returns:
        Positions (K,) int64, ascending.
    """
    order = shuffle_within_groups(groups, generator)
    return order[rank_in_group(groups) < most].sort().values
