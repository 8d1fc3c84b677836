"""Learning rate schedules: factors over the base rate, as fvcore `ParamScheduler` objects."""

from __future__ import annotations

from collections.abc import Sequence

from detectron2.solver import WarmupParamScheduler
from fvcore.common.param_scheduler import (
    CompositeParamScheduler,
    ConstantParamScheduler,
    CosineParamScheduler,
    MultiStepParamScheduler,
    ParamScheduler,
)

__all__ = ["flat_cosine", "multi_step"]


def _with_warmup(schedule: ParamScheduler, iterations: float, max_iter: int) -> ParamScheduler:
    """Rise linearly from 0.001 of the schedule's start during the first iterations."""
    return WarmupParamScheduler(
        schedule, warmup_factor=0.001, warmup_length=min(iterations / max_iter, 1.0)
    )


def flat_cosine(
    max_iter: int, *, warmup: int = 40, flat: float = 0.7, final: float = 0.1
) -> ParamScheduler:
    """Linear warm-up, then 1, then half a cosine wave down to `final`.

    Args:
        max_iter: length of the training in iterations.
        warmup: iterations.
        flat: share of the training after which the rate falls, in (0, 1).
        final: factor at the end.
    """
    schedule = CompositeParamScheduler(
        [ConstantParamScheduler(1.0), CosineParamScheduler(1.0, final)],
        lengths=[flat, 1 - flat],
        interval_scaling=["fixed", "rescaled"],
    )
    return _with_warmup(schedule, warmup, max_iter)


def multi_step(
    max_iter: int, *, milestones: Sequence[int], warmup: float = 1000, gamma: float = 0.1
) -> ParamScheduler:
    """Linear warm-up, then 1, multiplied by `gamma` at each milestone.

    Args:
        max_iter: length of the training in iterations.
        milestones: iterations, ascending, below `max_iter`.
        warmup: iterations.
        gamma: factor.
    """
    milestones = tuple(milestones)
    if not all(0 < m < max_iter for m in milestones) or sorted(milestones) != [*milestones]:
        raise ValueError(f"milestones must ascend between 0 and {max_iter}, got {milestones}")
    schedule = MultiStepParamScheduler(
        values=[gamma**k for k in range(len(milestones) + 1)],
        milestones=milestones,
        num_updates=max_iter,
    )
    return _with_warmup(schedule, warmup, max_iter)
