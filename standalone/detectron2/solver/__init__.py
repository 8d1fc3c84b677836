"""Learning-rate schedules and optimizer construction."""

from .build import (
    build_lr_scheduler,
    build_optimizer,
    get_default_optimizer_params,
    maybe_add_gradient_clipping,
)
from .lr_scheduler import LRMultiplier, LRScheduler, WarmupParamScheduler

__all__ = [
    "LRMultiplier",
    "LRScheduler",
    "WarmupParamScheduler",
    "build_lr_scheduler",
    "build_optimizer",
    "get_default_optimizer_params",
    "maybe_add_gradient_clipping",
]
