"""Random choice of training samples."""

from __future__ import annotations

import torch


def subsample_labels(
    labels: torch.Tensor, num_samples: int, positive_fraction: float, bg_label: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Choose positives and negatives at random.

    Draws two permutations, first of the positives, from the default generator of the device.

    Args:
        labels: ``(N,)`` integers; -1 is ignored, ``bg_label`` is negative, the rest positive.
        num_samples: number of samples wanted; fewer come back if there are not enough.
        positive_fraction: at most ``int(num_samples * positive_fraction)`` positives are taken,
            negatives fill up.
        bg_label: label of the background.

    Returns:
        int64 indices of the positives and of the negatives.
    """
    positive = ((labels != -1) & (labels != bg_label)).nonzero()[:, 0]
    negative = (labels == bg_label).nonzero()[:, 0]
    num_positive = min(int(num_samples * positive_fraction), positive.numel())
    num_negative = min(num_samples - num_positive, negative.numel())
    return _choose(positive, num_positive), _choose(negative, num_negative)


def _choose(indices: torch.Tensor, count: int) -> torch.Tensor:
    permutation = torch.randperm(indices.numel(), device=indices.device)
    return indices[permutation[:count]]
