"""Rotational symmetries of CAD models about their up axis (+y), as Scan2CAD annotates them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache

import torch

# The position of a tag is its id; the order is the number of rotations that leave the model
# unchanged. A full rotational symmetry is sampled every 10 degrees (Scan2CAD benchmark).
SYMMETRY_TAGS = (
    "__SYM_NONE",
    "__SYM_ROTATE_UP_2",
    "__SYM_ROTATE_UP_4",
    "__SYM_ROTATE_UP_INF",
)
SYMMETRY_ORDERS = (1, 2, 4, 36)


def symmetry_ids(tags: Sequence[str]) -> torch.Tensor:
    """Ids (N,) int64 of N symmetry tags.

    Raises:
        ValueError: an unknown tag.
    """
    unknown = sorted(set(tags) - set(SYMMETRY_TAGS))
    if unknown:
        raise ValueError(f"unknown symmetry tags {unknown}; expected some of {SYMMETRY_TAGS}")
    return torch.tensor([SYMMETRY_TAGS.index(tag) for tag in tags], dtype=torch.int64)


def symmetry_rotations(ids: torch.Tensor, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """The rotations about +y under which models look the same.

    Args:
        ids: (...) int64, positions in ``SYMMETRY_TAGS``.
        dtype: of the result.

    Returns:
        (..., 36, 3, 3); a group with fewer elements is repeated. Element 0 is the identity.
    """
    return _table().to(ids.device, dtype)[ids]


@cache
def _table() -> torch.Tensor:
    """(4, 36, 3, 3) float64."""
    most = max(SYMMETRY_ORDERS)
    angles = torch.tensor(
        [[2 * math.pi * (i % order) / order for i in range(most)] for order in SYMMETRY_ORDERS],
        dtype=torch.float64,
    )
    cos, sin = angles.cos(), angles.sin()
    zero, one = torch.zeros_like(cos), torch.ones_like(cos)
    entries = [cos, zero, sin, zero, one, zero, -sin, zero, cos]
    return torch.stack(entries, dim=-1).reshape(len(SYMMETRY_ORDERS), most, 3, 3)
