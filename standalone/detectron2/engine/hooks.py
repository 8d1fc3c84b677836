"""Common hooks: timing, writing, checkpoints, learning rate, evaluation."""

import datetime
import logging
import math
import operator
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from detectron2.evaluation.testing import flatten_results_dict
from detectron2.solver.lr_scheduler import LRMultiplier
from detectron2.solver.lr_scheduler import LRScheduler as _TorchScheduler
from detectron2.utils import comm
from detectron2.utils.events import EventWriter
from fvcore.common.checkpoint import Checkpointer
from fvcore.common.checkpoint import PeriodicCheckpointer as _PeriodicCheckpointer
from fvcore.common.param_scheduler import ParamScheduler

from .profiling_hooks import TorchMemoryStats, TorchProfiler
from .trainer_base import HookBase, TrainerBase

__all__ = [
    "BestCheckpointer",
    "CallbackHook",
    "EvalHook",
    "IterationTimer",
    "LRScheduler",
    "PeriodicCheckpointer",
    "PeriodicWriter",
    "TorchMemoryStats",
    "TorchProfiler",
]

TrainerCallback = Callable[[TrainerBase], Any]


class CallbackHook(HookBase):
    """Calls the given functions with the trainer."""

    def __init__(
        self,
        *,
        before_train: TrainerCallback | None = None,
        after_train: TrainerCallback | None = None,
        before_step: TrainerCallback | None = None,
        after_step: TrainerCallback | None = None,
    ) -> None:
        self._before_train = before_train
        self._after_train = after_train
        self._before_step = before_step
        self._after_step = after_step

    def before_train(self) -> None:
        self._call(self._before_train)

    def after_train(self) -> None:
        self._call(self._after_train)

    def before_step(self) -> None:
        self._call(self._before_step)

    def after_step(self) -> None:
        self._call(self._after_step)

    def _call(self, callback: TrainerCallback | None) -> None:
        if callback is not None:
            callback(self.trainer)


class IterationTimer(HookBase):
    """Stores the seconds of each iteration as ``time`` and logs a summary at the end.

    Put it first among the hooks: the time between its ``before_step`` and ``after_step`` then is
    that of the step alone, and the rest counts as time spent on hooks.
    """

    def __init__(self, warmup_iter: int = 3) -> None:
        """
        Args:
            warmup_iter: timing starts with the iteration of this number, counted from 1, since
                the first ones are slow.
        """
        self._warmup_iter = warmup_iter

    def before_train(self) -> None:
        self._train_start = self._step_start = time.perf_counter()
        self._num_timed = 0
        self._step_seconds = 0.0

    def before_step(self) -> None:
        self._step_start = time.perf_counter()

    def after_step(self) -> None:
        now = time.perf_counter()
        if self.trainer.iter - self.trainer.start_iter + 1 < self._warmup_iter:
            self._train_start = now
            return
        seconds = now - self._step_start
        self._num_timed += 1
        self._step_seconds += seconds
        self.trainer.storage.put_scalars(time=seconds)

    def after_train(self) -> None:
        logger = logging.getLogger(__name__)
        total = time.perf_counter() - self._train_start
        if self._num_timed:
            logger.info(
                "Overall training speed: %d iterations in %s (%.4f s / it)",
                self._num_timed,
                _format_seconds(self._step_seconds),
                self._step_seconds / self._num_timed,
            )
        logger.info(
            "Total training time: %s (%s on hooks)",
            _format_seconds(total),
            _format_seconds(total - self._step_seconds),
        )


def _format_seconds(seconds: float) -> str:
    return str(datetime.timedelta(seconds=int(seconds)))


class PeriodicWriter(HookBase):
    """Lets writers write each ``period`` iterations, after the last one, and at the end.

    Register it last, so that what other hooks store is written too. The period does not
    influence over how many values a writer smooths.
    """

    def __init__(self, writers: Sequence[EventWriter], period: int = 20) -> None:
        """
        Raises:
            TypeError: an entry of ``writers`` is not an ``EventWriter``.
        """
        for writer in writers:
            if not isinstance(writer, EventWriter):
                raise TypeError(f"Writers must be EventWriter objects, got {writer!r}.")
        self._writers = list(writers)
        self._period = period

    def after_step(self) -> None:
        done = self.trainer.iter + 1
        if done % self._period == 0 or done == self.trainer.max_iter:
            for writer in self._writers:
                writer.write()

    def after_train(self) -> None:
        for writer in self._writers:
            writer.write()  # what the last evaluation stored
            writer.close()


class PeriodicCheckpointer(_PeriodicCheckpointer, HookBase):
    """fvcore's periodic checkpointer as a hook: each ``period`` iterations and after the last one.

    It saves only what its checkpointer knows. Register it after hooks with a state.
    """

    def before_train(self) -> None:
        self.max_iter = self.trainer.max_iter

    def after_step(self) -> None:
        self.step(self.trainer.iter)


def _is_due(trainer: TrainerBase, period: int) -> bool:
    """Whether a periodic evaluation follows this iteration; the last one is left to the end."""
    done = trainer.iter + 1
    return period > 0 and done % period == 0 and done != trainer.max_iter


def _has_finished(trainer: TrainerBase) -> bool:
    """In ``after_train``: whether training came to its end without an exception."""
    return trainer.iter >= trainer.max_iter


class EvalHook(HookBase):
    """Runs an evaluation periodically and after a training that has succeeded.

    All processes must have this hook or none. Let the evaluation function return None in
    processes that have nothing to report.
    """

    def __init__(
        self,
        eval_period: int,
        eval_function: Callable[[], Mapping[str, Any] | None],
        eval_after_train: bool = True,
    ) -> None:
        """
        Args:
            eval_period: iterations between evaluations; 0 evaluates only at the end.
            eval_function: returns numbers by name, or nested dictionaries of them; inner names are
                stored as ``outer/inner``.
            eval_after_train: evaluate after the last iteration.
        """
        self._period = eval_period
        self._eval_function = eval_function
        self._eval_after_train = eval_after_train

    def after_step(self) -> None:
        if _is_due(self.trainer, self._period):
            self._evaluate()

    def after_train(self) -> None:
        if self._eval_after_train and _has_finished(self.trainer):
            self._evaluate()

    def _evaluate(self) -> None:
        results = self._eval_function()
        if results:
            if not isinstance(results, Mapping):
                raise TypeError(f"Eval function must return a dict. Got {results!r} instead.")
            self.trainer.storage.put_scalars(**_to_floats(results), smoothing_hint=False)
        # Processes take different times to evaluate; let them start the next step together.
        comm.synchronize()


def _to_floats(results: Mapping[str, Any]) -> dict[str, float]:
    numbers = {}
    for name, value in flatten_results_dict(results).items():
        try:
            numbers[name] = float(value)
        except (TypeError, ValueError) as error:
            raise ValueError(
                "[EvalHook] eval_function should return a nested dict of float. "
                f"Got '{name}: {value}' instead."
            ) from error
    return numbers


class BestCheckpointer(HookBase):
    """Saves the model each time that a metric is better than ever before in this run.

    Register it after the hook that stores the metric, with the same period.
    """

    def __init__(
        self,
        eval_period: int,
        checkpointer: Checkpointer,
        val_metric: str,
        mode: str = "max",
        file_prefix: str = "model_best",
    ) -> None:
        """
        Args:
            eval_period: period of the evaluation.
            checkpointer: saves the model.
            val_metric: name in the event storage, e.g. ``"bbox/AP50"``.
            mode: ``"max"`` if larger values are better, else ``"min"``.
            file_prefix: file name without suffix; the file is overwritten.

        Raises:
            ValueError: unknown ``mode``.
        """
        if mode not in ("max", "min"):
            raise ValueError(f"mode of BestCheckpointer must be 'max' or 'min', got {mode!r}.")
        self._period = eval_period
        self._checkpointer = checkpointer
        self._val_metric = val_metric
        self._is_better = operator.gt if mode == "max" else operator.lt
        self._file_prefix = file_prefix
        self.best_metric: float | None = None
        self.best_iter: int | None = None

    def after_step(self) -> None:
        if _is_due(self.trainer, self._period):
            self._save_if_best()

    def after_train(self) -> None:
        if _has_finished(self.trainer):
            self._save_if_best()

    def _save_if_best(self) -> None:
        logger = logging.getLogger(__name__)
        latest = self.trainer.storage.latest().get(self._val_metric)
        if latest is None:
            logger.warning(
                "Given val metric %s does not seem to be computed/stored. "
                "Will not be checkpointing based on it.",
                self._val_metric,
            )
            return
        value, iteration = latest
        best = "none"
        if self.best_metric is not None:
            best = f"{self.best_metric:.5f} @ iteration {self.best_iter}"
        improved = self.best_metric is None or self._is_better(value, self.best_metric)
        if not math.isfinite(value) or not improved:
            logger.info("Not saving: %s is %.5f, best so far: %s.", self._val_metric, value, best)
            return
        self._checkpointer.save(self._file_prefix, iteration=iteration)
        logger.info("Saved best model: %s is %.5f, before: %s.", self._val_metric, value, best)
        self.best_metric, self.best_iter = value, iteration


class LRScheduler(HookBase):
    """Logs the learning rate as ``lr`` and steps the scheduler after each iteration."""

    def __init__(
        self,
        optimizer: torch.optim.Optimizer | None = None,
        scheduler: _TorchScheduler | ParamScheduler | None = None,
    ) -> None:
        """
        Args:
            optimizer: None takes the trainer's.
            scheduler: None takes the trainer's. A ``ParamScheduler`` multiplies the
                optimizer's learning rates over the ``max_iter`` iterations of the trainer.
        """
        self._optimizer = optimizer
        self._scheduler = scheduler

    @property
    def scheduler(self) -> _TorchScheduler | ParamScheduler:
        """The scheduler given to this hook, or else the trainer's."""
        return self.trainer.scheduler if self._scheduler is None else self._scheduler

    def before_train(self) -> None:
        if self._optimizer is None:
            self._optimizer = self.trainer.optimizer
        if isinstance(self.scheduler, ParamScheduler):
            self._scheduler = LRMultiplier(
                self._optimizer,
                self.scheduler,
                self.trainer.max_iter,
                last_iter=self.trainer.iter - 1,
            )
        self._logged_group = self.get_best_param_group_id(self._optimizer)

    @staticmethod
    def get_best_param_group_id(optimizer: torch.optim.Optimizer) -> int:
        """Index of the group whose learning rate stands for all.

        That is the largest one, or, if all hold a single parameter, one with the most
        common learning rate; the first of several.
        """
        groups = optimizer.param_groups
        sizes = [len(group["params"]) for group in groups]
        if max(sizes) > 1:
            return sizes.index(max(sizes))
        rates = [group["lr"] for group in groups]
        return rates.index(Counter(rates).most_common(1)[0][0])

    def after_step(self) -> None:
        rate = self._optimizer.param_groups[self._logged_group]["lr"]
        self.trainer.storage.put_scalar("lr", rate, smoothing_hint=False)
        self.scheduler.step()

    def state_dict(self) -> dict[str, Any]:
        """The torch scheduler's state. A ``ParamScheduler`` has none before training starts."""
        return self.scheduler.state_dict() if isinstance(self.scheduler, _TorchScheduler) else {}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Restore a torch scheduler; a ``ParamScheduler`` only depends on the iteration."""
        if isinstance(self.scheduler, _TorchScheduler):
            logging.getLogger(__name__).info("Loading scheduler from state_dict ...")
            self.scheduler.load_state_dict(state_dict)
