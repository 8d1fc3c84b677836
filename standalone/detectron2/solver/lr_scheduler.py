"""Learning-rate schedules written as fvcore parameter schedulers over relative time.

``where`` is the fraction of training that is done, in ``[0, 1)``. torch calls an iteration an
"epoch"; every ``last_epoch`` below counts iterations.
"""

from typing import Any

from fvcore.common.param_scheduler import (
    CompositeParamScheduler,
    ConstantParamScheduler,
    LinearParamScheduler,
    ParamScheduler,
)
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

__all__ = ["LRMultiplier", "LRScheduler", "WarmupParamScheduler"]


class WarmupParamScheduler(CompositeParamScheduler):
    """A schedule that is preceded by a warm-up phase.

    The warm-up starts at ``warmup_factor * scheduler(0)``. A linear one ends at the value that
    the schedule has when it takes over, so that there is no jump.
    """

    def __init__(
        self,
        scheduler: ParamScheduler,
        warmup_factor: float,
        warmup_length: float,
        warmup_method: str = "linear",
        rescale_interval: bool = False,
    ) -> None:
        """
        Args:
            scheduler: the schedule to follow after the warm-up.
            warmup_factor: first value relative to ``scheduler(0)``, e.g. 0.001.
            warmup_length: share of the training that warms up, in ``[0, 1]``; 0 means none.
            warmup_method: ``"linear"`` or ``"constant"``.
            rescale_interval: False lets the schedule run on absolute time, so that its first part
                is hidden by the warm-up; True squeezes all of it into the time that is left.

        Raises:
            ValueError: unknown ``warmup_method``.
        """
        first_value = scheduler(0.0)
        start_value = warmup_factor * first_value
        if warmup_method == "linear":
            end_value = first_value if rescale_interval else scheduler(warmup_length)
            warmup: ParamScheduler = LinearParamScheduler(start_value, end_value)
        elif warmup_method == "constant":
            warmup = ConstantParamScheduler(start_value)
        else:
            raise ValueError(
                f"Unknown warmup method: {warmup_method!r}; use 'linear' or 'constant'."
            )
        super().__init__(
            schedulers=[warmup, scheduler],
            lengths=[warmup_length, 1 - warmup_length],
            interval_scaling=["rescaled", "rescaled" if rescale_interval else "fixed"],
        )


class LRMultiplier(LRScheduler):
    """Sets each group's learning rate to its base value times a common multiplier.

    The multiplier is a function of ``iteration / max_iter``: resuming a run with another
    ``max_iter`` therefore changes every later learning rate.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        multiplier: ParamScheduler,
        max_iter: int,
        last_iter: int = -1,
    ) -> None:
        """
        Args:
            optimizer: its groups' learning rates at construction are the base values.
            multiplier: maps the fraction of training that is done to the factor.
            max_iter: number of iterations of the whole training.
            last_iter: last finished iteration; -1 starts a new run. Anything else needs the
                ``initial_lr`` of each group, which a restored optimizer state has.

        Raises:
            ValueError: ``multiplier`` is not an fvcore ``ParamScheduler``.
        """
        if not isinstance(multiplier, ParamScheduler):
            raise ValueError(
                "LRMultiplier(multiplier=) must be an instance of fvcore ParamScheduler. "
                f"Got {multiplier!r} instead."
            )
        # Both are read by get_lr, which the base class calls during construction.
        self._multiplier = multiplier
        self._max_iter = max_iter
        super().__init__(optimizer, last_epoch=last_iter)

    def state_dict(self) -> dict[str, Any]:
        """What has to be stored; the multiplier itself is a stateless function of time."""
        return {"base_lrs": self.base_lrs, "last_epoch": self.last_epoch}

    def get_lr(self) -> list[float]:
        """Learning rate of each parameter group at iteration ``last_epoch``."""
        factor = self._multiplier(self.last_epoch / self._max_iter)
        return [base_lr * factor for base_lr in self.base_lrs]
