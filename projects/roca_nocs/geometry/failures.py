"""Failures that ordinary data cause: kept as values and counted, never warned about."""

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


class ExpectedFailure(RuntimeError):
    """A whole computation has no answer; any other error is a defect and must pass through.

    Raised by the geometry alone and caught where losses are put together and where a model
    predicts. Batched functions give ``reasons`` instead, so that one instance does not take the
    others with it.

    Attributes:
        reason: to count by.
    """

    def __init__(self, reason: FailureReason, message: str = "") -> None:
        super().__init__(f"{reason.name}: {message}" if message else reason.name)
        self.reason = reason


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
