"""Failures that ordinary data cause: kept as values and counted, never raised or warned about.

Batched functions give ``reasons``, so that one instance does not take the others with it. Losses
leave such instances out and count them; a model keeps them in its output, and whoever reports them
(evaluators, results on disk) names them by :func:`alignment_failures`. Any exception is a defect.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import torch


class FailureReason(IntEnum):
    """Why a geometric problem has no answer. As numbers they fill the ``reasons`` of batched
    results, where ``OK`` means that there is an answer."""

    OK = 0
    NO_OVERLAP = 1
    NO_VALID_DEPTH = 2
    OCCLUDED = 3
    NO_DETECTIONS = 4
    NO_ASSOCIATION = 5
    TOO_FEW_POINTS = 6
    DEGENERATE_GEOMETRY = 7
    RANSAC_NO_CONSENSUS = 8
    DEGENERATE_LOSS = 9


@dataclass(frozen=True)
class AlignmentFailure:
    """Instance ``index`` of a batch could not be aligned."""

    index: int
    reason: FailureReason


def alignment_failures(reasons: torch.Tensor) -> list[AlignmentFailure]:
    """The failed instances of a batch, by ascending index.

    Args:
        reasons: (N,) int64, values of :class:`FailureReason`.
    """
    return [
        AlignmentFailure(index, FailureReason(reason))
        for index, reason in enumerate(reasons.tolist())
        if reason != FailureReason.OK
    ]
