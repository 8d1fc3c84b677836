"""Hooks that differ from detectron2's: for checkpoints, evaluation, best weights, averages."""

from __future__ import annotations

import logging
import operator
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from detectron2.engine import HookBase, hooks
from detectron2.utils import comm
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel

from . import random_state
from .checkpoint import Checkpointer, find_damage

__all__ = ["BestCheckpointHook", "CheckpointHook", "EvaluationHook", "WeightAverageHook"]

logger = logging.getLogger(__name__)


class WeightAverageHook(HookBase):
    """Updates an average of the weights after each optimizer step; see `ema.build_average`."""

    def __init__(self, average: AveragedModel) -> None:
        self._average = average

    def after_step(self) -> None:
        """Move the average towards the current weights."""
        model = self.trainer.model
        if isinstance(model, DistributedDataParallel):
            model = model.module
        self._average.update_parameters(model)


class CheckpointHook(hooks.PeriodicCheckpointer):
    """Writes the full training state every `period` iterations and at the end of training.

    Register it on all processes, behind every hook that has a state: the random states of all
    processes are collected first, then the main process writes.
    """

    def before_train(self) -> None:
        """Count the files of the run that is resumed among those of which some are kept."""
        super().before_train()
        files = self.checkpointer.periodic_files()
        self.recent_checkpoints = [
            str(path) for iteration, path in files.items() if iteration < self.trainer.start_iter
        ]

    def after_step(self) -> None:
        """Save if it is time to."""
        iteration = self.trainer.iter
        if (iteration + 1) % self.period and iteration < self.max_iter - 1:
            return
        states = comm.gather(random_state.capture())
        if comm.is_main_process():
            self.step(iteration, random_states=states)


class EvaluationHook(hooks.EvalHook):
    """detectron2's `EvalHook`, except that a training that failed is never evaluated.

    detectron2's takes an exception in the last iteration for the regular end.
    """

    def after_train(self) -> None:
        """Evaluate once more behind the last iteration."""
        if self.trainer.iter >= self.trainer.max_iter:
            super().after_train()


class BestCheckpointHook(HookBase):
    """Keeps the weights of the best evaluation so far in ``model_best.pth``.

    The value is stored with the weights, so a resumed training goes on comparing with it. Register
    it on all processes, behind the `EvaluationHook`.
    """

    _FILE = "model_best"

    def __init__(
        self, checkpointer: Checkpointer, metric: str, *, maximize: bool, only: Sequence[str] = ()
    ) -> None:
        """
        Args:
            checkpointer: writes the file.
            metric: name of a scalar of the evaluation, for example ``bbox/AP50``.
            maximize: whether larger is better.
            only: names of checkpointables to save beside the model.
        """
        self._checkpointer = checkpointer
        self._metric = metric
        self._better = operator.gt if maximize else operator.lt
        self._only = only
        self._best: dict[str, Any] | None = None
        self._seen_iteration = -1

    def before_train(self) -> None:
        """On resume read the best value so far."""
        path = Path(self._checkpointer.save_dir) / f"{self._FILE}.pth"
        if self.trainer.start_iter == 0 or not path.exists():
            return
        if (damage := find_damage(path)) is not None:
            logger.warning("%s is ignored: %s", path, damage)
            return
        best = torch.load(path, map_location="cpu", weights_only=True, mmap=True)["best"]
        if best["metric"] == self._metric:
            self._best = best
            logger.info("Best %(metric)s so far: %(value)g at iteration %(iteration)d", best)

    def after_step(self) -> None:
        """Save if there is a new and better value."""
        # Only the main process has results.
        latest = self.trainer.storage.latest().get(self._metric)
        if latest is None or latest[1] == self._seen_iteration:
            return
        value, self._seen_iteration = latest
        # Written so that NaN, of an evaluation without any detection, is never the best.
        if not (self._better(value, self._best["value"]) if self._best else value == value):
            return
        self._best = {"metric": self._metric, "value": value, "iteration": self._seen_iteration}
        logger.info("Best %(metric)s so far: %(value)g at iteration %(iteration)d", self._best)
        self._checkpointer.save(
            self._FILE, only=self._only, iteration=self._seen_iteration, best=self._best
        )

    def after_train(self) -> None:
        """Take the evaluation at the end into account."""
        if self.trainer.iter < self.trainer.max_iter:  # an exception ended the training
            return
        self.after_step()
        known = sorted(name for name in self.trainer.storage.latest() if "/" in name)
        if self._seen_iteration < 0 and comm.is_main_process():
            logger.warning(
                "No evaluation gave %r, so there is no best checkpoint; there are: %s",
                *(self._metric, known),
            )
