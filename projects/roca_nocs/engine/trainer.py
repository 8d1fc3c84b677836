"""The training step: mixed precision, gradient accumulation, clipping, and the check for NaN."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
import torch.distributed as dist
from detectron2.engine import SimpleTrainer
from detectron2.utils import comm
from detectron2.utils.events import get_event_storage
from torch import nn
from torch.nn.parallel import DistributedDataParallel

__all__ = ["Trainer"]


class Trainer(SimpleTrainer):
    """One optimizer step an iteration, on the next batch of the loader.

    The batch of a process is split into `accumulation_steps` equal parts that are run one after
    the other, so accumulation changes the memory needed and not the meaning of the batch size.

    A loss that is not finite, on any process, raises `FloatingPointError` on all of them before
    the optimizer runs, as do gradients that are not finite (with float16 those are expected now
    and then: the step is left out and the loss scale lowered, until that is below 1).
    """

    def __init__(
        self,
        model: nn.Module,
        data_loader: Iterable[Sequence[Any]],
        optimizer: torch.optim.Optimizer,
        *,
        autocast_dtype: torch.dtype | None = None,
        accumulation_steps: int = 1,
        clip_norm: float | None = None,
        clip_value: float | None = None,
        clip_norm_per_parameter: bool = False,
    ) -> None:
        """
        Args:
            model: list of samples -> dict of scalar losses; may be wrapped for DDP.
            data_loader: iterable of lists of samples. Its state is saved if it has `state_dict`.
            optimizer: over the model's parameters.
            autocast_dtype: `torch.float16` (with loss scaling) or `torch.bfloat16`; `None` trains
                in the precision of the parameters.
            accumulation_steps: number of parts; must divide the batch of a process.
            clip_norm: largest L2 norm of all gradients together.
            clip_value: largest absolute value of a gradient entry.
            clip_norm_per_parameter: `clip_norm` bounds each parameter's gradient by itself, as
                detectron2's own clipping does.
        """
        super().__init__(model, data_loader, optimizer)
        if autocast_dtype not in (None, torch.float16, torch.bfloat16):
            raise ValueError(
                f"autocast_dtype must be torch.float16 or torch.bfloat16, got {autocast_dtype}"
            )
        if accumulation_steps < 1:
            raise ValueError(f"accumulation_steps must be at least 1, got {accumulation_steps}")
        if clip_norm is not None and clip_value is not None:
            raise ValueError(
                f"clip by norm or by value, not both: clip_norm={clip_norm}, "
                f"clip_value={clip_value}"
            )
        self.autocast_dtype = autocast_dtype
        self.accumulation_steps = accumulation_steps
        self.clip_norm = clip_norm
        self.clip_value = clip_value
        self.clip_norm_per_parameter = clip_norm_per_parameter
        self.device = next(model.parameters()).device
        self.grad_scaler = torch.amp.GradScaler(
            self.device.type, enabled=autocast_dtype == torch.float16
        )
        self._batches: Iterator[Sequence[Any]] | None = None

    def run_step(self) -> None:
        """Train on one batch."""
        assert self.model.training, "[Trainer] model was changed to eval mode!"
        start = time.perf_counter()
        if self._batches is None:
            self._batches = iter(self.data_loader)
        batch = next(self._batches)
        data_time = time.perf_counter() - start

        self.optimizer.zero_grad()
        losses = self._forward_backward(batch)
        self.after_backward()
        self._finish_step(losses)
        self._write_metrics(losses, data_time)

    def _forward_backward(self, batch: Sequence[Any]) -> dict[str, torch.Tensor]:
        """Accumulate gradients over the parts; returns the losses of the batch, detached."""
        steps = self.accumulation_steps
        if len(batch) % steps:
            raise ValueError(
                f"accumulation_steps={steps} must divide the {len(batch)} images per process"
            )
        size = len(batch) // steps
        totals: dict[str, torch.Tensor] = {}
        for step in range(steps):
            # Whole batches are handed on as they are: they need not be lists.
            part = batch if steps == 1 else batch[step * size : (step + 1) * size]
            last = step == steps - 1
            with self._gradient_exchange(enabled=last):
                with torch.autocast(
                    self.device.type, self.autocast_dtype, enabled=self.autocast_dtype is not None
                ):
                    losses = self.model(part)
                if isinstance(losses, torch.Tensor):
                    losses = {"total_loss": losses}
                self.grad_scaler.scale(sum(losses.values()) / steps).backward()
            for name, loss in losses.items():
                totals[name] = totals.get(name, 0) + loss.detach().float() / steps
        return totals

    def _gradient_exchange(self, *, enabled: bool) -> contextlib.AbstractContextManager[None]:
        """DDP averages gradients over processes once, in the last of the parts."""
        if enabled or not isinstance(self.model, DistributedDataParallel):
            return contextlib.nullcontext()
        return self.model.no_sync()

    def _finish_step(self, losses: dict[str, torch.Tensor]) -> None:
        """Clip the gradients and run the optimizer, provided that everything is finite."""
        self.grad_scaler.unscale_(self.optimizer)
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        together = self.clip_norm is not None and not self.clip_norm_per_parameter
        max_norm = self.clip_norm if together else math.inf
        gradient_norm = nn.utils.clip_grad_norm_(parameters, max_norm)
        if self.clip_norm is not None and self.clip_norm_per_parameter:
            for parameter in parameters:
                nn.utils.clip_grad_norm_(parameter, self.clip_norm)
        # While the loss scale can still be lowered, infinite gradients only cost one step.
        scaled = self.grad_scaler.is_enabled() and self.grad_scaler.get_scale() >= 1
        self._check_finite(losses, gradient_norm, overflow_allowed=scaled)
        if self.clip_value is not None:
            nn.utils.clip_grad_value_(parameters, self.clip_value)
        self.grad_scaler.step(self.optimizer)
        self.grad_scaler.update()

        storage = get_event_storage()
        storage.put_scalar("grad_norm", gradient_norm.item())
        if self.grad_scaler.is_enabled():
            storage.put_scalar("loss_scale", self.grad_scaler.get_scale())

    def _check_finite(
        self,
        losses: dict[str, torch.Tensor],
        gradient_norm: torch.Tensor,
        *,
        overflow_allowed: bool,
    ) -> None:
        """Raise on every process if there is a reason to stop on one of them.

        Runs after the backward pass was started, so that a GPU has work while this waits for it;
        nothing but gradients and the statistics of normalisation layers has changed by then.
        """
        values = [] if overflow_allowed else [gradient_norm]
        stop = ~torch.isfinite(torch.stack([*losses.values(), *values])).all()
        stop = stop.float()
        if comm.get_world_size() > 1:
            dist.all_reduce(stop, dist.ReduceOp.MAX)
        if not stop:
            return
        values = {name: loss.item() for name, loss in losses.items()}
        raise FloatingPointError(
            _divergence_message(self.iter, comm.all_gather((values, gradient_norm.item())))
        )

    def state_dict(self) -> dict[str, Any]:
        """What detectron2's trainer saves (iteration, hooks, optimizer), scaler and loader."""
        state = super().state_dict()
        if self.grad_scaler.is_enabled():
            state["grad_scaler"] = self.grad_scaler.state_dict()
        if hasattr(self.data_loader, "state_dict"):
            state["data_loader"] = self.data_loader.state_dict()
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue behind `state_dict`; parts that it lacks keep their state."""
        super().load_state_dict(state_dict)
        if self.grad_scaler.is_enabled() and "grad_scaler" in state_dict:
            self.grad_scaler.load_state_dict(state_dict["grad_scaler"])
        if hasattr(self.data_loader, "load_state_dict") and "data_loader" in state_dict:
            self.data_loader.load_state_dict(state_dict["data_loader"])
            self._batches = None


def _divergence_message(iteration: int, reports: list[tuple[dict[str, float], float]]) -> str:
    """Name what is not finite, given (losses, gradient norm) of every rank."""
    causes = [
        f"{name} is {value} on rank {rank}"
        for rank, (losses, _) in enumerate(reports)
        for name, value in losses.items()
        if not math.isfinite(value)
    ]
    if not causes:  # the losses were fine
        causes = [
            f"the gradient norm is {norm} on rank {rank}"
            for rank, (_, norm) in enumerate(reports)
            if not math.isfinite(norm)
        ]
    return (
        f"Training diverged at iteration {iteration}: {', '.join(causes)}. The optimizer did not "
        f"run and nothing was saved. Losses by rank: {[losses for losses, _ in reports]}. Try a "
        "lower learning rate, a longer warm-up or gradient clipping."
    )
