"""Trainers for one model, one optimizer and one data loader."""

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from detectron2.utils import comm
from detectron2.utils.events import get_event_storage
from torch import nn
from torch.nn.parallel import DataParallel, DistributedDataParallel

from .trainer_base import HookBase, TrainerBase

__all__ = ["AMPTrainer", "HookBase", "SimpleTrainer", "TrainerBase"]


class SimpleTrainer(TrainerBase):
    """One model, one loss, one optimizer, one data loader; data-parallel if the model is wrapped.

    The model is put into training mode. It returns a dictionary of scalar losses, which are
    summed, or one loss.
    """

    def __init__(
        self,
        model: nn.Module,
        data_loader: Iterable[Any],
        optimizer: torch.optim.Optimizer,
        gather_metric_period: int = 1,
        zero_grad_before_forward: bool = False,
        async_write_metrics: bool = False,
    ) -> None:
        """
        Args:
            model: called with one item of ``data_loader``.
            data_loader: its iterator is made at the first iteration and must not end.
            optimizer: over the model's parameters.
            gather_metric_period: losses are gathered from all processes and stored each so many
                iterations.
            zero_grad_before_forward: reset the gradients before instead of after the forward pass.
            async_write_metrics: store the losses after the update instead of before it. Reading
                their values waits for the GPU; this way the update is queued already. A
                non-finite loss is then reported when it has reached the parameters.
        """
        super().__init__()
        model.train()
        self.model = model
        self.data_loader = data_loader
        self.optimizer = optimizer
        self.gather_metric_period = gather_metric_period
        self.zero_grad_before_forward = zero_grad_before_forward
        self.async_write_metrics = async_write_metrics
        self._data_loader_iter_obj: Iterator[Any] | None = None

    @property
    def _data_loader_iter(self) -> Iterator[Any]:
        if self._data_loader_iter_obj is None:
            self._data_loader_iter_obj = iter(self.data_loader)
        return self._data_loader_iter_obj

    def reset_data_loader(self, data_loader_builder: Callable[[], Iterable[Any]]) -> None:
        """Go on with a new data loader; the old one is released before the new one is built."""
        self.data_loader = self._data_loader_iter_obj = None
        self.data_loader = data_loader_builder()

    def run_step(self) -> None:
        """Forward, backward, store the losses, update."""
        assert self.model.training, f"[{type(self).__name__}] model was changed to eval mode!"
        start = time.perf_counter()
        data = next(self._data_loader_iter)
        data_time = time.perf_counter() - start

        if self.zero_grad_before_forward:
            self.optimizer.zero_grad()
        with self._forward_context():
            loss_dict = _as_loss_dict(self.model(data))
            total_loss = sum(loss_dict.values())
        if not self.zero_grad_before_forward:
            self.optimizer.zero_grad()
        self._backward(total_loss)
        self.after_backward()
        if not self.async_write_metrics:
            self._write_metrics(loss_dict, data_time)
        self._update()
        if self.async_write_metrics:
            self._write_metrics(loss_dict, data_time)

    def _forward_context(self) -> contextlib.AbstractContextManager[Any]:
        return contextlib.nullcontext()

    def _backward(self, total_loss: torch.Tensor) -> None:
        total_loss.backward()

    def _update(self) -> None:
        self.optimizer.step()

    def _write_metrics(
        self,
        loss_dict: Mapping[str, torch.Tensor],
        data_time: float,
        prefix: str = "",
        iter: int | None = None,
    ) -> None:
        """Store the losses, averaged over all processes, on the main process.

        Args:
            loss_dict: scalar tensors by name.
            data_time: seconds this process waited for data. The maximum over the processes is
                stored, since the slowest one holds up the others.
            prefix: prepended to the name ``total_loss``.
            iter: iteration that the values belong to; the current one by default.

        Raises:
            FloatingPointError: the sum of the losses is infinite or NaN.
        """
        iteration = self.iter if iter is None else iter
        if (iteration + 1) % self.gather_metric_period != 0:
            return
        storage = get_event_storage()
        storage.put_scalar("rank_data_time", data_time, cur_iter=iteration)
        losses = {name: loss.detach().item() for name, loss in loss_dict.items()}
        gathered = comm.gather((losses, data_time))
        if not gathered:  # not the main process
            return

        by_name: dict[str, list[float]] = {}
        for process_losses, _ in gathered:
            for name, value in process_losses.items():
                by_name.setdefault(name, []).append(value)
        means = {name: float(np.mean(values)) for name, values in by_name.items()}
        total_loss = sum(means.values())
        if not np.isfinite(total_loss):
            raise FloatingPointError(
                f"Loss became infinite or NaN at iteration={iteration}!\nloss_dict = {means}"
            )
        slowest = max(process_time for _, process_time in gathered)
        storage.put_scalar("data_time", slowest, cur_iter=iteration)
        storage.put_scalar(f"{prefix}total_loss", total_loss, cur_iter=iteration)
        if len(means) > 1:
            storage.put_scalars(cur_iter=iteration, **means)

    def state_dict(self) -> dict[str, Any]:
        """Adds ``optimizer``."""
        return {**super().state_dict(), "optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Restore the optimizer too."""
        super().load_state_dict(state_dict)
        self.optimizer.load_state_dict(state_dict["optimizer"])


def _as_loss_dict(output: Any) -> dict[str, torch.Tensor]:
    if isinstance(output, torch.Tensor):
        return {"total_loss": output}
    if not isinstance(output, Mapping) or not output:
        raise TypeError(
            "In training a model must return a loss or a non-empty dictionary of losses, "
            f"got {output!r}."
        )
    return dict(output)


class AMPTrainer(SimpleTrainer):
    """A simple trainer in mixed precision with a gradient scaler. Needs CUDA."""

    def __init__(
        self,
        model: nn.Module,
        data_loader: Iterable[Any],
        optimizer: torch.optim.Optimizer,
        gather_metric_period: int = 1,
        zero_grad_before_forward: bool = False,
        grad_scaler: torch.amp.GradScaler | None = None,
        precision: torch.dtype = torch.float16,
        log_grad_scaler: bool = False,
        async_write_metrics: bool = False,
    ) -> None:
        """
        Args:
            model, data_loader, optimizer, gather_metric_period, zero_grad_before_forward,
                async_write_metrics: see :class:`SimpleTrainer`.
            grad_scaler: None makes one with torch's defaults.
            precision: dtype of the operations that autocast lowers.
            log_grad_scaler: store the current scale as ``[metric]grad_scaler``.
        """
        several_devices = isinstance(model, DataParallel) or (
            isinstance(model, DistributedDataParallel) and len(model.device_ids or ()) > 1
        )
        if several_devices:
            raise ValueError(
                "AMPTrainer does not support single-process multi-device training! Wrap the model "
                "in DistributedDataParallel with one device per process."
            )
        super().__init__(
            model,
            data_loader,
            optimizer,
            gather_metric_period,
            zero_grad_before_forward,
            async_write_metrics,
        )
        if grad_scaler is None:
            grad_scaler = torch.amp.GradScaler("cuda", enabled=torch.cuda.is_available())
        self.grad_scaler = grad_scaler
        self.precision = precision
        self.log_grad_scaler = log_grad_scaler

    def run_step(self) -> None:
        """As in :class:`SimpleTrainer`, with autocast and a scaled backward pass."""
        assert torch.cuda.is_available(), "[AMPTrainer] CUDA is required for AMP training!"
        super().run_step()

    def _forward_context(self) -> contextlib.AbstractContextManager[Any]:
        return torch.autocast("cuda", dtype=self.precision)

    def _backward(self, total_loss: torch.Tensor) -> None:
        self.grad_scaler.scale(total_loss).backward()
        if self.log_grad_scaler:
            scale = self.grad_scaler.get_scale()
            get_event_storage().put_scalar("[metric]grad_scaler", scale)

    def _update(self) -> None:
        self.grad_scaler.step(self.optimizer)
        self.grad_scaler.update()

    def state_dict(self) -> dict[str, Any]:
        """Adds ``grad_scaler``."""
        return {**super().state_dict(), "grad_scaler": self.grad_scaler.state_dict()}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Restore the gradient scaler too."""
        super().load_state_dict(state_dict)
        self.grad_scaler.load_state_dict(state_dict["grad_scaler"])
