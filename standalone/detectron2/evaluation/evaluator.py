"""Evaluators and the loop that feeds them."""

import datetime
import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from detectron2.utils.comm import get_world_size, is_main_process
from detectron2.utils.logger import log_every_n_seconds
from torch import nn

# Batches left out of the speed figures: caches and memory pools are still filling.
NUM_WARMUP_BATCHES = 5


class DatasetEvaluator:
    """Collects the outputs of a model and computes metrics of them."""

    def reset(self) -> None:
        """Prepare for a new round; called before the first batch."""

    def process(self, inputs: Any, outputs: Any) -> None:
        """Take one batch.

        Args:
            inputs: what the model was given, usually ``list[dict]``.
            outputs: what it returned, one element per input.
        """

    def evaluate(self) -> dict[str, Any] | None:
        """Compute the metrics after the last batch.

        Returns:
            ``{task: {metric: value}}``, or ``None`` for no results (e.g. not the main process).
        """


class DatasetEvaluators(DatasetEvaluator):
    """Several evaluators as one."""

    def __init__(self, evaluators: Sequence[DatasetEvaluator]) -> None:
        """
        Args:
            evaluators: called in this order; their results are merged.
        """
        super().__init__()
        self._evaluators = list(evaluators)

    def reset(self) -> None:
        """Reset all evaluators."""
        for evaluator in self._evaluators:
            evaluator.reset()

    def process(self, inputs: Any, outputs: Any) -> None:
        """Hand the batch to all evaluators."""
        for evaluator in self._evaluators:
            evaluator.process(inputs, outputs)

    def evaluate(self) -> dict[str, Any]:
        """Merge the results; two evaluators must not use the same key."""
        merged: dict[str, Any] = OrderedDict()
        for evaluator in self._evaluators:
            result = evaluator.evaluate()
            if not is_main_process() or result is None:
                continue
            for key, value in result.items():
                assert key not in merged, (
                    f"Different evaluators produce results with the same key {key}"
                )
                merged[key] = value
        return merged


@contextmanager
def inference_context(model: nn.Module) -> Iterator[None]:
    """Put the model into eval mode and restore its mode afterwards, also after an error."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


class _Stopwatch:
    """Times of the phases of one inference run, started anew after the warm-up."""

    def __init__(self, num_batches: int) -> None:
        self.num_batches = num_batches
        self.num_warmup = min(NUM_WARMUP_BATCHES, num_batches - 1)
        self.num_done = 0
        self.restart()

    def restart(self) -> None:
        """Forget what was measured."""
        self.num_timed = 0
        self.seconds = dict.fromkeys(("data", "inference", "eval"), 0.0)
        self.last = time.perf_counter()

    def lap(self, phase: str) -> None:
        """Add the time since the previous call to a phase."""
        now = time.perf_counter()
        self.seconds[phase] += now - self.last
        self.last = now

    def end_batch(self) -> str:
        """Count a batch and describe the speed so far in one line."""
        self.num_done += 1
        self.num_timed += 1
        mean = {name: value / self.num_timed for name, value in self.seconds.items()}
        total = sum(mean.values())
        remaining = datetime.timedelta(seconds=int(total * (self.num_batches - self.num_done)))
        phases = ", ".join(f"{name} {value:.4f}" for name, value in mean.items())
        if self.num_done == self.num_warmup:
            self.restart()
        return (
            f"Inference done {self.num_done}/{self.num_batches}. {total:.4f} s/iter ({phases}). "
            f"ETA={remaining}"
        )


def inference_on_dataset(
    model: Callable[[Any], Any],
    data_loader: Any,
    evaluator: DatasetEvaluator | Sequence[DatasetEvaluator] | None,
    callbacks: Mapping[str, Callable[[], Any]] | None = None,
) -> dict[str, Any]:
    """Run the model over a data set and evaluate what it returns.

    Args:
        model: called with each batch; a module runs in eval mode and gets its mode back.
        data_loader: iterable of batches with a length.
        evaluator: one, several or none (to measure the speed).
        callbacks: optional functions without arguments named ``on_start``,
            ``before_inference``, ``after_inference`` and ``on_end``.

    Returns:
        What the evaluator returns, ``{}`` instead of ``None``.
    """
    logger = logging.getLogger(__name__)
    num_batches = len(data_loader)
    callbacks = callbacks or {}
    if evaluator is None:
        evaluator = DatasetEvaluators([])
    elif not isinstance(evaluator, DatasetEvaluator) and isinstance(evaluator, Sequence):
        evaluator = DatasetEvaluators(evaluator)
    logger.info(f"Start inference on {num_batches} batches")
    evaluator.reset()

    with ExitStack() as stack:
        if isinstance(model, nn.Module):
            stack.enter_context(inference_context(model))
        stack.enter_context(torch.no_grad())
        _call(callbacks, "on_start")
        watch = _Stopwatch(num_batches)
        speed = "No batches."
        for inputs in data_loader:
            watch.lap("data")
            _call(callbacks, "before_inference")
            outputs = model(inputs)
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            _call(callbacks, "after_inference")
            watch.lap("inference")
            evaluator.process(inputs, outputs)
            watch.lap("eval")
            speed = watch.end_batch()
            log_every_n_seconds(logging.INFO, speed, n=5)
        _call(callbacks, "on_end")

    logger.info(f"{speed} Processes: {get_world_size()}")
    return evaluator.evaluate() or {}


def _call(callbacks: Mapping[str, Callable[[], Any]], name: str) -> None:
    """Call one of the optional callbacks."""
    if name in callbacks:
        callbacks[name]()
