"""Steps with outlying losses are left out, and nothing else changes."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence

import pytest
import torch
from torch import nn

from roca_nocs.engine import Trainer
from roca_nocs.engine.skipping_trainer import SkippingTrainer


class Square(nn.Module):
    """The loss of a batch of numbers is their mean times the square of the weight."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([1.0]))

    def forward(self, batch: Sequence[float]) -> dict[str, torch.Tensor]:
        return {"loss_square": (self.weight.square() * torch.tensor(batch)).mean()}


class Root(nn.Module):
    """A loss that is finite at 0, where its gradient is not."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([1.0]))

    def forward(self, batch: Sequence[float]) -> dict[str, torch.Tensor]:
        return {"loss_root": (self.weight * torch.tensor(batch)).sqrt().sum()}


def run(
    kind: type[Trainer], model: nn.Module, numbers: Sequence[float], **options: float
) -> Trainer:
    batches = [[number] for number in numbers]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    trainer = kind(model, batches, optimizer, **options)
    trainer.train(0, len(batches))
    return trainer


def test_outliers_are_left_out() -> None:
    usual, disturbed = Square(), Square()
    run(Trainer, usual, [1.0] * 6)
    trainer = run(SkippingTrainer, disturbed, [1.0, 1, 100, 1, math.nan, 1, math.inf, 1, 1])
    assert trainer.num_skipped == 3
    assert torch.equal(usual.weight, disturbed.weight)
    assert trainer.storage.latest()["num_skipped_steps"][0] == 3
    history = [value for value, _ in trainer.storage.history("total_loss").values()]
    assert len(history) == 6 and max(history) <= 1


def test_gradients_that_are_not_finite() -> None:
    model = Root()
    trainer = run(SkippingTrainer, model, [1.0, 0.0, 1.0])
    assert trainer.num_skipped == 1 and model.weight.isfinite()


def test_a_lasting_rise_is_followed() -> None:
    trainer = run(SkippingTrainer, Square(), [0.01] * 3 + [1.0] * 120)
    assert 0 < trainer.num_skipped < 100
    assert trainer.mean_loss is not None and trainer.mean_loss > 0.25


def test_divergence_stops() -> None:
    with pytest.raises(FloatingPointError, match=r"above 4 times its mean of 1.* last 6 steps"):
        run(SkippingTrainer, Square(), [1.0] + [math.nan] * 9, max_skipped=5)
    with pytest.raises(ValueError, match=r"above 1, got 1\.0"):
        run(SkippingTrainer, Square(), [1.0], tolerance=1.0)


def test_state() -> None:
    model = Square()
    trainer = run(SkippingTrainer, model, [1.0, 100.0, 1.0])
    state = copy.deepcopy(trainer.state_dict())
    resumed = SkippingTrainer(model, [[1.0]], torch.optim.SGD(model.parameters(), lr=0.01))
    resumed.load_state_dict(state)
    assert (resumed.mean_loss, resumed.num_skipped) == (trainer.mean_loss, 1)
