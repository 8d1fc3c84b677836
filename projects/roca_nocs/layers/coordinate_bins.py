"""Coordinates in [0, 1] as classes: B equal bins.

The published programs encode and decode by rules of their own (``BIN_RULES``):

===========  ======================  ===============
rule         index of the value v    value of index k
===========  ======================  ===============
``centre``   floor(B v)              (k + 1/2) / B
``nocs``     floor(B v - 1e-6)       k / B
``ganocs``   round((B - 1) v)        k / B
===========  ======================  ===============

Indices are clamped to 0..B - 1. Only ``centre`` is without bias; the others are half a bin low on
average and up to a whole one (``nocs``) or one and a half (``ganocs``).
"""

from __future__ import annotations

import torch

__all__ = ["BIN_RULES", "check_bin_rule", "decode_bins", "encode_bins", "soft_argmax"]

BIN_RULES = ("centre", "nocs", "ganocs")

_NOCS_MARGIN = 1e-6


def check_bin_rule(rule: str) -> str:
    """The rule itself.

    Raises:
        ValueError: it is not in ``BIN_RULES``.
    """
    if rule not in BIN_RULES:
        raise ValueError(f"bin_rule is {rule!r}; expected one of {BIN_RULES}")
    return rule


def encode_bins(values: torch.Tensor, num_bins: int, rule: str = "centre") -> torch.Tensor:
    """Indices of the bins of values.

    Args:
        values: (...) floating point, in [0, 1]; others go to the first or last bin.
        num_bins: B.
        rule: of ``BIN_RULES``.

    Returns:
        (...) int64.
    """
    if rule == "ganocs":
        indices = (values * (num_bins - 1)).round()
    elif rule == "nocs":
        indices = (values * num_bins - _NOCS_MARGIN).floor()
    else:
        indices = (values * num_bins).floor()
    return indices.clamp(0, num_bins - 1).long()


def decode_bins(indices: torch.Tensor, num_bins: int, rule: str = "centre") -> torch.Tensor:
    """Values (...) float32 of bins (...) int64; see :func:`encode_bins`."""
    return (indices + _offset(rule)) / num_bins


def soft_argmax(logits: torch.Tensor, rule: str = "centre") -> torch.Tensor:
    """Expectation of the value, through which gradients flow.

    Args:
        logits: (R, A, B, ...).
        rule: of ``BIN_RULES``.

    Returns:
        (R, A, ...) float32, in [0, 1].
    """
    num_bins = logits.shape[2]
    indices = torch.arange(num_bins, device=logits.device, dtype=torch.float32)
    probabilities = logits.float().softmax(dim=2).movedim(2, -1)
    return probabilities @ decode_bins(indices, num_bins, rule)


def _offset(rule: str) -> float:
    return 0.5 if rule == "centre" else 0.0
