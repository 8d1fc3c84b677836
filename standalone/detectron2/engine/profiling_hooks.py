"""Hooks that show where time and GPU memory go. Exported by ``detectron2.engine.hooks``."""

import logging
import os
from collections.abc import Callable, Iterable

import torch
from detectron2.utils import comm
from torch.profiler import ProfilerActivity, profile, tensorboard_trace_handler

from .trainer_base import HookBase, TrainerBase


class TorchProfiler(HookBase):
    """Profiles the iterations that a predicate selects, each into a trace of its own."""

    def __init__(
        self,
        enable_predicate: Callable[[TrainerBase], bool],
        output_dir: str,
        *,
        activities: Iterable[ProfilerActivity] | None = None,
        save_tensorboard: bool = True,
    ) -> None:
        """
        Args:
            enable_predicate: called before each step, e.g. ``lambda t: 10 < t.iter < 20``.
            output_dir: local directory for the traces.
            activities: what to record; None for all that is supported.
            save_tensorboard: write ``log/profiler-tensorboard-iter{n}/`` for TensorBoard's
                profiler plug-in; otherwise ``profiler-trace-iter{n}.json`` for Chrome.
        """
        self._enable_predicate = enable_predicate
        self._output_dir = output_dir
        self._activities = activities
        self._save_tensorboard = save_tensorboard
        self._profiler: profile | None = None

    def before_step(self) -> None:
        if not self._enable_predicate(self.trainer):
            return
        on_trace_ready = None
        if self._save_tensorboard:
            name = f"profiler-tensorboard-iter{self.trainer.iter}"
            on_trace_ready = tensorboard_trace_handler(
                os.path.join(self._output_dir, "log", name), f"worker{comm.get_rank()}"
            )
        self._profiler = profile(
            activities=self._activities,
            on_trace_ready=on_trace_ready,
            record_shapes=True,
            profile_memory=True,
            with_stack=True,
            with_flops=True,
        )
        self._profiler.start()

    def after_step(self) -> None:
        if self._profiler is None:
            return
        profiler, self._profiler = self._profiler, None
        profiler.stop()
        if not self._save_tensorboard:
            os.makedirs(self._output_dir, exist_ok=True)
            name = f"profiler-trace-iter{self.trainer.iter}.json"
            profiler.export_chrome_trace(os.path.join(self._output_dir, name))


class TorchMemoryStats(HookBase):
    """Logs the use of CUDA memory; does nothing without CUDA."""

    def __init__(self, period: int = 20, max_runs: int = 10) -> None:
        """
        Args:
            period: iterations between two logs.
            max_runs: number of logs; the last one is followed by torch's full summary.
        """
        self._period = period
        self._max_runs = max_runs
        self._runs = 0

    def after_step(self) -> None:
        done = self.trainer.iter + 1
        is_due = done % self._period == 0 or done == self.trainer.max_iter
        if not is_due or self._runs >= self._max_runs or not torch.cuda.is_available():
            return
        logger = logging.getLogger(__name__)
        logger.info(
            "iter: %d  max_reserved_mem: %dMB  reserved_mem: %dMB  max_allocated_mem: %dMB  "
            "allocated_mem: %dMB",
            self.trainer.iter,
            *(
                num_bytes / 2**20
                for num_bytes in (
                    torch.cuda.max_memory_reserved(),
                    torch.cuda.memory_reserved(),
                    torch.cuda.max_memory_allocated(),
                    torch.cuda.memory_allocated(),
                )
            ),
        )
        self._runs += 1
        if self._runs == self._max_runs:
            logger.info("\n%s", torch.cuda.memory_summary())
        torch.cuda.reset_peak_memory_stats()
