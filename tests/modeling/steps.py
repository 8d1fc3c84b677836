"""One training step and one inference of a model, with what must hold for every model."""

from __future__ import annotations

from typing import Any

import torch
from detectron2.utils.events import EventStorage
from torch import nn


def train_step(
    model: nn.Module, inputs: list[dict[str, Any]], seed: int = 0
) -> tuple[dict[str, torch.Tensor], dict[str, float]]:
    """Losses, logged values and, in the parameters, gradients."""
    torch.manual_seed(seed)
    model.zero_grad()
    with EventStorage() as storage:
        losses = model.train()(inputs)
        sum(losses.values()).backward()
        logged = {name: value for name, (value, _) in storage.latest().items()}
    for name, loss in losses.items():
        assert loss.shape == () and loss.isfinite(), name
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
    return losses, logged


def infer(model: nn.Module, *inputs: dict[str, Any], **options: Any) -> list[Any]:
    with torch.no_grad():
        return model.eval().inference(list(inputs), **options)
