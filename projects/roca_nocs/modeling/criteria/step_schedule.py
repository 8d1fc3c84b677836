"""Weights of losses that change in the course of a training."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

from detectron2.utils.events import get_event_storage

__all__ = ["StepSchedule", "Weight", "current_weight"]


@dataclass(frozen=True)
class StepSchedule:
    """A weight that changes in steps.

    Attributes:
        rates: the weights, one more than `inflections`.
        inflections: ascending iterations (counted from 0) at which the next weight begins.
    """

    rates: Sequence[float]
    inflections: Sequence[int]

    def __post_init__(self) -> None:
        if len(self.rates) != len(self.inflections) + 1:
            raise ValueError(
                f"rates must be one more than inflections, got {list(self.rates)} and "
                f"{list(self.inflections)}"
            )
        if list(self.inflections) != sorted(self.inflections):
            raise ValueError(f"inflections must ascend, got {list(self.inflections)}")

    def __call__(self, iteration: int) -> float:
        """The weight in this iteration: of the index that is the number of inflections passed."""
        return self.rates[bisect_right(self.inflections, iteration)]


Weight = float | StepSchedule


def current_weight(weight: Weight) -> float:
    """The weight in this iteration, which detectron2's event storage tells a schedule."""
    if isinstance(weight, StepSchedule):
        return weight(get_event_storage().iter)
    return weight
