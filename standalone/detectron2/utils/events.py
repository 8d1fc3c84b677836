"""Scalars, images and histograms recorded during training, and the writers that publish them."""

import datetime
import json
import logging
import os
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import numpy as np
import torch
from detectron2.utils.file_io import PathManager
from fvcore.common.history_buffer import HistoryBuffer

__all__ = [
    "CommonMetricPrinter",
    "EventStorage",
    "EventWriter",
    "JSONWriter",
    "TensorboardXWriter",
    "get_event_storage",
    "has_event_storage",
]

_STORAGE_STACK: list["EventStorage"] = []


def get_event_storage() -> "EventStorage":
    """The storage of the innermost ``with EventStorage(...)`` block."""
    assert _STORAGE_STACK, (
        "get_event_storage() has to be called inside a 'with EventStorage(...)' context!"
    )
    return _STORAGE_STACK[-1]


def has_event_storage() -> bool:
    """Whether the caller runs inside a ``with EventStorage(...)`` block."""
    return bool(_STORAGE_STACK)


def _to_float(name: str, value: Any) -> float:
    if isinstance(value, np.ndarray | torch.Tensor):
        size = value.size if isinstance(value, np.ndarray) else value.numel()
        if size != 1:
            raise ValueError(
                f"Scalar {name} must hold one number, got shape {tuple(value.shape)}; reduce it."
            )
        value = value.item()
    return float(value)


class EventStorage:
    """What was recorded so far, by name and iteration. Use as a context manager."""

    def __init__(self, start_iter: int = 0) -> None:
        self._iter = start_iter
        self._prefix = ""
        self._history: dict[str, HistoryBuffer] = {}
        self._smoothing_hints: dict[str, bool] = {}
        self._latest_scalars: dict[str, tuple[float, int]] = {}
        self._vis_data: list[tuple[str, Any, int]] = []
        self._histograms: list[dict[str, Any]] = []

    def __enter__(self) -> "EventStorage":
        _STORAGE_STACK.append(self)
        return self

    def __exit__(self, *exc_info: object) -> None:
        assert _STORAGE_STACK[-1] is self, "EventStorage blocks were left in the wrong order"
        _STORAGE_STACK.pop()

    @property
    def iter(self) -> int:
        """The iteration that new records belong to."""
        return self._iter

    @iter.setter
    def iter(self, value: int) -> None:
        self._iter = int(value)

    def step(self) -> None:
        """Go to the next iteration."""
        self._iter += 1

    @contextmanager
    def name_scope(self, name: str) -> Iterator[None]:
        """Prefix the names of scalars put inside the block by ``name/``."""
        outer = self._prefix
        self._prefix = name.rstrip("/") + "/"
        try:
            yield
        finally:
            self._prefix = outer

    def put_scalar(
        self, name: str, value: Any, smoothing_hint: bool = True, cur_iter: int | None = None
    ) -> None:
        """Record one number.

        Args:
            name: prefixed by the current name scope.
            value: a number, or an array or tensor that holds exactly one.
            smoothing_hint: whether writers should show a median instead of the last value. Must
                be the same each time a name is used.
            cur_iter: the iteration it belongs to, by default the current one.
        """
        name = self._prefix + name
        assert self._smoothing_hints.setdefault(name, smoothing_hint) == smoothing_hint, (
            f"Scalar {name} was put with a different smoothing_hint!"
        )
        value = _to_float(name, value)
        iteration = self._iter if cur_iter is None else cur_iter
        self._history.setdefault(name, HistoryBuffer()).update(value, iteration)
        self._latest_scalars[name] = (value, iteration)

    def put_scalars(
        self, *, smoothing_hint: bool = True, cur_iter: int | None = None, **scalars: Any
    ) -> None:
        """Record several numbers, each under the name of its keyword."""
        for name, value in scalars.items():
            self.put_scalar(name, value, smoothing_hint=smoothing_hint, cur_iter=cur_iter)

    def put_image(self, img_name: str, img_tensor: Any) -> None:
        """Keep an RGB image ``(3, H, W)``, uint8 or float in [0, 1], for the tensorboard writer."""
        self._vis_data.append((img_name, img_tensor, self._iter))

    def put_histogram(self, hist_name: str, hist_tensor: torch.Tensor, bins: int = 1000) -> None:
        """Keep the histogram of a non-empty tensor of any shape for the tensorboard writer."""
        values = hist_tensor.detach().float().flatten()
        low, high = values.min().item(), values.max().item()
        edges = torch.linspace(low, high, steps=bins + 1, dtype=torch.float32)
        self._histograms.append(
            {
                "tag": hist_name,
                "min": low,
                "max": high,
                "num": len(values),
                "sum": values.sum().item(),
                "sum_squares": values.square().sum().item(),
                "bucket_limits": edges[1:].tolist(),
                "bucket_counts": torch.histc(values, bins=bins).tolist(),
                "global_step": self._iter,
            }
        )

    def clear_images(self) -> None:
        """Forget the images; the writer that published them calls this."""
        self._vis_data = []

    def clear_histograms(self) -> None:
        """Forget the histograms; the writer that published them calls this."""
        self._histograms = []

    def history(self, name: str) -> HistoryBuffer:
        """All values of a scalar.

        Raises:
            KeyError: nothing was put under this name.
        """
        if name not in self._history:
            raise KeyError(f"No history metric available for {name}!")
        return self._history[name]

    def histories(self) -> dict[str, HistoryBuffer]:
        """All scalars by name."""
        return self._history

    def smoothing_hints(self) -> dict[str, bool]:
        """The hint each scalar was put with."""
        return self._smoothing_hints

    def latest(self) -> dict[str, tuple[float, int]]:
        """The last value of each scalar and the iteration it belongs to."""
        return self._latest_scalars

    def latest_with_smoothing_hint(self, window_size: int = 20) -> dict[str, tuple[float, int]]:
        """Like :meth:`latest`, with the median of the window for scalars hinted as noisy.

        Args:
            window_size: in iterations; see :meth:`count_samples`.
        """
        return {
            name: (
                self.median(name, window_size) if self._smoothing_hints[name] else value,
                iteration,
            )
            for name, (value, iteration) in self._latest_scalars.items()
        }

    def count_samples(self, name: str, window_size: int = 20) -> int:
        """How many values of a scalar belong to the ``window_size`` iterations up to its last."""
        values = self._history[name].values()
        oldest = values[-1][1] - window_size
        count = 0
        while count < len(values) and values[-1 - count][1] > oldest:
            count += 1
        return count

    def median(self, name: str, window_size: int = 20) -> float:
        """Median of a scalar over the window of :meth:`count_samples`."""
        return self.history(name).median(self.count_samples(name, window_size))


class EventWriter:
    """Takes events from the current storage and publishes them."""

    def write(self) -> None:
        """Publish what is new."""
        raise NotImplementedError

    def close(self) -> None:
        """Release files. Nothing may be written afterwards."""


class JSONWriter(EventWriter):
    """Appends scalars to a file, one JSON object with sorted keys per iteration and line."""

    def __init__(self, json_file: str, window_size: int = 20) -> None:
        """
        Args:
            json_file: made if missing, else appended to.
            window_size: in iterations, for scalars hinted as noisy.
        """
        self._file = PathManager.open(json_file, "a")
        self._window_size = window_size
        self._last_write = -1

    def write(self) -> None:
        by_iteration: dict[int, dict[str, float]] = defaultdict(dict)
        scalars = get_event_storage().latest_with_smoothing_hint(self._window_size)
        for name, (value, iteration) in scalars.items():
            if iteration > self._last_write:
                by_iteration[iteration][name] = value
        for iteration in sorted(by_iteration):
            record = {**by_iteration[iteration], "iteration": iteration}
            self._file.write(json.dumps(record, sort_keys=True) + "\n")
            self._last_write = iteration
        self._file.flush()
        if hasattr(self._file, "fileno"):  # remote files have none
            os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()


class TensorboardXWriter(EventWriter):
    """Writes scalars, images and histograms for tensorboard. No file before the first record."""

    def __init__(self, log_dir: str, window_size: int = 20, **kwargs: Any) -> None:
        """
        Args:
            log_dir: folder of the event files.
            window_size: in iterations, for scalars hinted as noisy.
            kwargs: for ``torch.utils.tensorboard.SummaryWriter``.
        """
        self._window_size = window_size
        self._writer_args = {"log_dir": log_dir, **kwargs}
        self._last_write = -1

    @cached_property
    def _writer(self) -> Any:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise ImportError(
                "TensorboardXWriter needs tensorboard: pip install tensorboard, or leave this "
                "writer out."
            ) from error
        return SummaryWriter(**self._writer_args)

    def write(self) -> None:
        storage = get_event_storage()
        newest = self._last_write
        scalars = storage.latest_with_smoothing_hint(self._window_size)
        for name, (value, iteration) in scalars.items():
            if iteration > self._last_write:
                self._writer.add_scalar(name, value, iteration)
                newest = max(newest, iteration)
        self._last_write = newest
        for name, image, iteration in storage._vis_data:
            self._writer.add_image(name, image, iteration)
        storage.clear_images()
        for histogram in storage._histograms:
            self._writer.add_histogram_raw(**histogram)
        storage.clear_histograms()

    def close(self) -> None:
        if "_writer" in self.__dict__:
            self._writer.close()


class CommonMetricPrinter(EventWriter):
    """Logs one line: ETA, iteration, losses, ``[metric]`` scalars, times, lr, GPU memory.

    Losses are all scalars with ``loss`` in the name. Losses and metrics are shown as medians.
    """

    def __init__(self, max_iter: int | None = None, window_size: int = 20) -> None:
        """
        Args:
            max_iter: last iteration of the training, for the ETA; without it none is shown.
            window_size: in iterations, for the medians.
        """
        self.logger = logging.getLogger("detectron2.utils.events")
        self._max_iter = max_iter
        self._window_size = window_size
        self._last_write: tuple[int, float] | None = None

    def _eta(self, storage: EventStorage) -> str | None:
        """Remaining time as text, from the scalar ``time`` or else from the clock."""
        if self._max_iter is None:
            return None
        remaining = self._max_iter - storage.iter - 1
        if "time" in storage.histories():
            seconds = storage.history("time").median(1000) * remaining
            storage.put_scalar("eta_seconds", seconds, smoothing_hint=False)
            return str(datetime.timedelta(seconds=int(seconds)))
        previous, self._last_write = self._last_write, (storage.iter, time.perf_counter())
        if previous is None or previous[0] == storage.iter:
            return None
        per_iteration = (self._last_write[1] - previous[1]) / (storage.iter - previous[0])
        return str(datetime.timedelta(seconds=int(per_iteration * remaining)))

    def _times(self, storage: EventStorage) -> list[str]:
        parts = []
        if "time" in storage.histories():
            history = storage.history("time")
            parts += [f"time: {history.global_avg():.4f}", f"last_time: {history.latest():.4f}"]
        if "data_time" in storage.histories():
            history = storage.history("data_time")
            window = storage.count_samples("data_time", self._window_size)
            parts += [
                f"data_time: {history.avg(window):.4f}",
                f"last_data_time: {history.latest():.4f}",
            ]
        return parts

    def write(self) -> None:
        storage = get_event_storage()
        if storage.iter == self._max_iter:
            return  # training is over: nothing about its progress is left to say
        eta = self._eta(storage)
        parts = [f"eta: {eta}"] if eta else []
        parts.append(f"iter: {storage.iter}")
        for mark in ("loss", "[metric]"):
            parts += [
                f"{name}: {storage.median(name, self._window_size):.4g}"
                for name in storage.histories()
                if mark in name
            ]
        parts += self._times(storage)
        rate = f"{storage.history('lr').latest():.5g}" if "lr" in storage.histories() else "N/A"
        parts.append(f"lr: {rate}")
        if torch.cuda.is_available():
            parts.append(f"max_mem: {torch.cuda.max_memory_allocated() / 2**20:.0f}M")
        self.logger.info(" " + "  ".join(parts))
