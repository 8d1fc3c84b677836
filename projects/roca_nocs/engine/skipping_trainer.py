"""Training that leaves out steps with an outlying loss, as Cube R-CNN does.

In a config, ``trainer = LazyCall(SkippingTrainer)(tolerance=4.0)``. A 3D box that projects to far
outside the image, or a depth that is read at the wrong order of magnitude, has losses a thousand
times as large as usual; one such step can undo an epoch.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.distributed as dist
from detectron2.utils import comm
from detectron2.utils.events import get_event_storage
from torch import nn

from .trainer import Trainer

__all__ = ["SkippingTrainer"]

_MOMENTUM = 0.02


class SkippingTrainer(Trainer):
    """A `Trainer` whose optimizer does not run where the loss is an outlier or not finite.

    A step is left out, on all processes, if the loss exceeds a multiple of its running mean, or if
    it or a gradient is not finite. The event storage counts such steps as ``num_skipped_steps``.
    """

    def __init__(
        self, *args: Any, tolerance: float = 4.0, max_skipped: int = 100, **kwargs: Any
    ) -> None:
        """
        Args:
            args, kwargs: of `Trainer`.
            tolerance: multiple of the running mean, above 1.
            max_skipped: steps in a row after which the training has diverged.

        Raises:
            ValueError: a tolerance of 1 or less.
        """
        super().__init__(*args, **kwargs)
        if tolerance <= 1:
            raise ValueError(f"tolerance must be above 1, got {tolerance}")
        self.tolerance = tolerance
        self.max_skipped = max_skipped
        self.mean_loss: float | None = None
        self.num_skipped = 0
        self._in_a_row = 0

    def _finish_step(self, losses: dict[str, torch.Tensor]) -> None:
        loss, finite = self._loss_of_all(losses)
        usual = self.mean_loss is None or loss <= self.tolerance * self.mean_loss
        if finite:
            # Bounded, so that the mean cannot be lifted by an outlier, but follows a lasting rise.
            seen = loss if self.mean_loss is None else min(loss, self.tolerance * self.mean_loss)
            mean = seen if self.mean_loss is None else self.mean_loss
            self.mean_loss = mean + _MOMENTUM * (seen - mean)
        if finite and usual:
            self._in_a_row = 0
            super()._finish_step(losses)
        else:
            self.num_skipped += 1
            self._in_a_row += 1
            if self._in_a_row > self.max_skipped:
                raise FloatingPointError(
                    f"Training diverged at iteration {self.iter}: the loss was not finite or above "
                    f"{self.tolerance:g} times its mean of {self.mean_loss} in the last "
                    f"{self._in_a_row} steps, which were all left out. Try a lower learning rate "
                    "or a longer warm-up."
                )
        get_event_storage().put_scalar("num_skipped_steps", self.num_skipped)

    def _loss_of_all(self, losses: dict[str, torch.Tensor]) -> tuple[float, bool]:
        """Mean of the loss over the processes, and whether all of it, and of gradients, is finite.

        With float16 the loss scale takes care of gradients.
        """
        total = torch.stack([*losses.values()]).sum()
        finite = total.isfinite()
        if not self.grad_scaler.is_enabled():
            norm = nn.utils.clip_grad_norm_(self.model.parameters(), math.inf)
            finite = finite & norm.isfinite()
        values = torch.stack([total.nan_to_num(), (~finite).float()])
        if comm.get_world_size() > 1:
            dist.all_reduce(values)
        loss, num_broken = values.tolist()
        return loss / comm.get_world_size(), num_broken == 0

    def _write_metrics(self, loss_dict: dict[str, torch.Tensor], *args: Any, **kwargs: Any) -> None:
        # The loss of a step that was left out says nothing of the model.
        if self._in_a_row == 0:
            super()._write_metrics(loss_dict, *args, **kwargs)

    def state_dict(self) -> dict[str, Any]:
        """As of `Trainer`, with the running mean and the number of steps that were left out."""
        return super().state_dict() | {
            "mean_loss": self.mean_loss,
            "num_skipped": self.num_skipped,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue behind `state_dict`."""
        super().load_state_dict(state_dict)
        self.mean_loss = state_dict["mean_loss"]
        self.num_skipped = state_dict["num_skipped"]
