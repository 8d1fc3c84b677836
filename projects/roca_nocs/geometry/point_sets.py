"""Distances between point sets."""

from __future__ import annotations

import torch

_DISTANCES_PER_CHUNK = 1 << 24


def mean_nearest_distance(
    points: torch.Tensor,
    valid: torch.Tensor,
    references: torch.Tensor,
    pairs: torch.Tensor,
) -> torch.Tensor:
    """Mean squared distance of the points of a set to the nearest points of another.

    One direction only: points of the reference that nothing is near do not count.

    Args:
        points: (N, P, 3).
        valid: (N, P) bool.
        references: (M, Q, 3), same unit; all points count, Q >= 1.
        pairs: (K, 2) int64, which set is measured against which reference.

    Returns:
        (K,) float32, in squared units; zero where a set has no valid point.
    """
    cost = max(points.shape[1] * references.shape[1], 1)
    means = []
    for chunk in pairs.split(max(_DISTANCES_PER_CHUNK // cost, 1)):
        rows, columns = chunk.unbind(1)
        distances = torch.cdist(
            points[rows].float(),
            references[columns].float(),
            compute_mode="donot_use_mm_for_euclid_dist",
        )
        nearest = distances.amin(dim=2).square()
        counted = valid[rows]
        total = nearest.masked_fill(~counted, 0).sum(dim=1)
        means.append(total / counted.sum(dim=1).clamp(min=1))
    return torch.cat(means) if means else points.new_zeros(0)
