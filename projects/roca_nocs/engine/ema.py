"""Exponential moving average of the weights."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

__all__ = ["build_average", "restart_average"]


def build_average(model: nn.Module, decay: float) -> AveragedModel:
    """An average of all parameters and buffers of `model`, starting at their present values.

    Each `update_parameters` does ``average <- decay * average + (1 - decay) * value``, the first
    one included (torch's own first update copies the values). Shared tensors are averaged once.

    Args:
        model: may be wrapped for DDP.
        decay: in [0, 1).
    """
    if not 0 <= decay < 1:
        raise ValueError(f"decay must be in [0, 1), got {decay}")
    if isinstance(model, DistributedDataParallel):
        model = model.module
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True)
    average.requires_grad_(False)
    average.n_averaged.fill_(1)
    return average


@torch.no_grad()
def restart_average(average: AveragedModel, model: nn.Module) -> None:
    """Set the average to the present weights, for example after loading pretrained ones."""
    if isinstance(model, DistributedDataParallel):
        model = model.module
    average.module.load_state_dict(model.state_dict())
