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

With the place o in [0, 1] of a value in its bin nothing is lost: the value is (k + o) / B. The
rules with floor allow it; by that of ``ganocs`` a value may lie outside its bin.

A head has one of three outputs for R regions, A axes and S x S cells:

==================  =======================================================================
(R, A, S, S)        coordinates
(R, A, B, S, S)     logits of the bins
(R, A, 2, B, S, S)  logits of the bins, and of the place of the coordinate in each of them
==================  =======================================================================
"""

from __future__ import annotations

import torch

__all__ = [
    "BIN_RULES",
    "check_bin_rule",
    "decode_bins",
    "decode_offsets",
    "decode_outputs",
    "encode_bins",
    "encode_offsets",
    "expected_coordinates",
    "soft_argmax",
]

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


def encode_offsets(values: torch.Tensor, bins: torch.Tensor, num_bins: int) -> torch.Tensor:
    """Places (...) in [0, 1] of values (...) in their bins (...) int64, of B."""
    return (values * num_bins - bins).clamp(0, 1)


def decode_offsets(bins: torch.Tensor, offsets: torch.Tensor, num_bins: int) -> torch.Tensor:
    """Values (...) at places (...) in [0, 1] of bins (...) int64; see :func:`encode_offsets`."""
    return (bins + offsets) / num_bins


def decode_outputs(outputs: torch.Tensor, rule: str = "centre") -> torch.Tensor:
    """Coordinates (R, A, S, S) float32 of a head's outputs, see above; of bins the most probable.

    Args:
        outputs: of any of the three kinds.
        rule: of ``BIN_RULES``, for bins without places.
    """
    if outputs.ndim == 4:
        return outputs.float()
    if outputs.ndim == 5:
        return decode_bins(outputs.argmax(dim=2), outputs.shape[2], rule)
    logits, offsets = outputs.unbind(dim=2)
    bins = logits.argmax(dim=2, keepdim=True)
    places = offsets.gather(2, bins).float().sigmoid()
    return decode_offsets(bins, places, logits.shape[2])[:, :, 0]


def expected_coordinates(outputs: torch.Tensor, rule: str = "centre") -> torch.Tensor:
    """The same with gradient: of bins the expectation, each at its predicted place if there is one.

    Args: see :func:`decode_outputs`.
    """
    if outputs.ndim == 4:
        return outputs.float()
    if outputs.ndim == 5:
        return soft_argmax(outputs, rule)
    logits, offsets = outputs.unbind(dim=2)
    return soft_argmax(logits, offsets=offsets.sigmoid())


def soft_argmax(
    logits: torch.Tensor, rule: str = "centre", offsets: torch.Tensor | None = None
) -> torch.Tensor:
    """Expectation of the value, through which gradients flow.

    Args:
        logits: (R, A, B, ...).
        rule: of ``BIN_RULES``.
        offsets: (R, A, B, ...) in [0, 1], places in the bins; they replace the rule's.

    Returns:
        (R, A, ...) float32, in [0, 1].
    """
    num_bins = logits.shape[2]
    indices = torch.arange(num_bins, device=logits.device, dtype=torch.float32)
    probabilities = logits.float().softmax(dim=2).movedim(2, -1)
    if offsets is None:
        return probabilities @ decode_bins(indices, num_bins, rule)
    values = decode_offsets(indices, offsets.float().movedim(2, -1), num_bins)
    return (probabilities * values).sum(dim=-1)


def _offset(rule: str) -> float:
    return 0.5 if rule == "centre" else 0.0
