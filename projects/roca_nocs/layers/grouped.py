"""Outputs of which every instance uses those of its class."""

from __future__ import annotations

import torch


def select_class(outputs: torch.Tensor, classes: torch.Tensor, size: int) -> torch.Tensor:
    """The channels of each instance's class.

    Args:
        outputs: (N, C * size, ...), the channels of a class side by side.
        classes: (N,) int64 in [0, C).
        size: channels of one class.

    Returns:
        (N, size, ...).
    """
    grouped = outputs.unflatten(1, (outputs.shape[1] // size, size))
    return grouped[torch.arange(len(classes), device=classes.device), classes]
