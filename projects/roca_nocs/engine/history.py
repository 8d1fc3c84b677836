"""One row per epoch with what was measured: training means and evaluation results."""

from __future__ import annotations

import csv
import io
import json
import logging
import math
import operator
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from detectron2.engine import HookBase, hooks
from detectron2.utils import comm
from detectron2.utils.events import EventWriter, get_event_storage

from .atomic_file import replace_file
from .history_plot import plot_history

__all__ = ["HistoryLogger", "HistoryWriter"]

logger = logging.getLogger(__name__)

Row = dict[str, Any]
Evaluations = dict[int, Row]
"""Iteration, counted from 1 -> results of the evaluation behind it, None where not finite."""

FIXED_COLUMNS = ("epoch", "iteration", "wall_time_min", "lr")
NUM_NAN = "num_nan"
"""Column of either group: how many values were not finite. They are left out of means."""

# Scalars that are not smoothed are results of an evaluation, but for these.
_NO_RESULTS = ("lr", "eta_seconds")


class HistoryLogger(HookBase):
    """Averages the scalars of each epoch, and lets a `HistoryWriter` write the rows.

    An epoch is a fixed number of iterations; the last one may be shorter. Scalars with a smoothing
    hint belong to the training: their mean over the epoch is that over all samples, for batches
    have the same size. Scalars of several processes count together. What is put without the hint,
    other than the learning rate, is a result of an evaluation. Each evaluation is written at once
    to ``evaluations.jsonl``, with its own iteration; the row of its epoch has the latest results.

    Register it on all processes, before the `CheckpointHook`: the sums of an unfinished epoch and
    the evaluations so far are saved, so a resumed training goes on with them, and its rows are
    those of a training that never stopped. (Sums are the main process's own: of what only other
    processes recorded, the iterations of that epoch before the interruption are missing.)
    """

    def __init__(
        self,
        output_dir: str | Path,
        *,
        period: int,
        metric: str | None = None,
        maximize: bool = True,
    ) -> None:
        """
        Args:
            output_dir: folder of ``history.csv``, ``history.jsonl``, ``history.png``,
                ``evaluations.jsonl`` and ``best.json``.
            period: iterations of an epoch, for example images of the dataset over the batch size.
            metric: evaluation result, for example ``bbox/AP50``, whose best value goes into
                ``best.json`` and whose curve is always in the picture.
            maximize: whether larger is better.

        Raises:
            ValueError: ``period`` is below 1.
        """
        if period < 1:
            raise ValueError(f"period is {period}; an epoch has at least one iteration.")
        self._period = period
        self._files = HistoryFiles(Path(output_dir), metric, maximize)
        self._sums: dict[str, list[float]] = {}  # name -> sum of finite values, number, not finite
        self._finished: Row | None = None
        self.evaluations: Evaluations = {}  # filled by the writer
        self._minutes_before = 0.0
        self._started = time.monotonic()

    def before_train(self) -> None:
        """Take up the rows of the run that is resumed, and start to write."""
        self._started = time.monotonic()
        if not comm.is_main_process():
            return
        writer = HistoryWriter(self, self._files, self.trainer.start_iter)
        # Registered last, it writes when all others have stored their results, and in every
        # iteration, for evaluations keep to periods of their own.
        self.trainer.register_hooks([hooks.PeriodicWriter([writer], period=1)])

    def after_step(self) -> None:
        """Add up the scalars of this iteration; close the epoch behind its last one."""
        storage, iteration = self.trainer.storage, self.trainer.iter
        hints = storage.smoothing_hints()
        for name, (value, when) in storage.latest().items():
            if when == iteration and hints[name]:
                sums = self._sums.setdefault(name, [0.0, 0, 0])
                finite = math.isfinite(value)
                sums[0] += value if finite else 0.0
                sums[1 if finite else 2] += 1
        done = iteration + 1
        if done % self._period and done != self.trainer.max_iter:
            return
        gathered = comm.gather(self._sums)
        self._sums = {}
        if comm.is_main_process():
            rate = storage.latest().get("lr", (None, 0))[0]
            self._finished = {
                "epoch": -(-done // self._period),
                "iteration": done,
                "wall_time_min": self._minutes(),
                "lr": rate,
                "train": _means(gathered),
                "val": {},
            }

    def take_finished(self) -> Row | None:
        """The row of the epoch that ended last, once."""
        row, self._finished = self._finished, None
        return row

    def state_dict(self) -> dict[str, Any]:
        """The unfinished epoch, the row that is not yet written, evaluations, and the time."""
        return {
            "sums": {name: list(sums) for name, sums in self._sums.items()},
            "finished": self._finished,
            "evaluations": list(self.evaluations.items()),
            "minutes": self._minutes(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on behind `state`."""
        self._minutes_before = state["minutes"]
        # The sums count all processes of the interrupted run once.
        if comm.is_main_process():
            self._sums = {name: list(sums) for name, sums in state["sums"].items()}
            self._finished = state["finished"]
            self.evaluations = dict(state.get("evaluations", ()))  # older checkpoints have none

    def _minutes(self) -> float:
        return self._minutes_before + (time.monotonic() - self._started) / 60


def _means(gathered: Sequence[Mapping[str, Sequence[float]]]) -> dict[str, float | None]:
    """Means over processes and iterations of their [sum, number, not finite] by name."""
    totals: dict[str, list[float]] = {}
    for sums in gathered:
        for name, values in sums.items():
            totals[name] = [a + b for a, b in zip(totals.get(name, (0, 0, 0)), values, strict=True)]
    means = {name: total / count if count else None for name, (total, count, _) in totals.items()}
    return means | {NUM_NAN: sum(bad for _, _, bad in totals.values())}


class HistoryWriter(EventWriter):
    """Adds evaluation results to the rows of a `HistoryLogger` and writes them."""

    def __init__(self, source: HistoryLogger, files: HistoryFiles, start_iter: int) -> None:
        """
        Args:
            source: makes the rows.
            files: where they go.
            start_iter: first iteration of this run; rows behind it stem from what is done again.
        """
        self._source = source
        self._files = files
        self._rows = files.read("history.jsonl", start_iter)
        self._add(source.take_finished())
        # An evaluation may have been behind the checkpoint, and is not done again.
        for line in files.read("evaluations.jsonl", start_iter):
            source.evaluations.setdefault(line["iteration"], line["results"])
        self._seen = -1

    def write(self) -> None:
        """Write the epoch and the evaluation that have ended since the last call."""
        row = self._source.take_finished()
        self._add(row)
        storage = get_event_storage()
        hints = storage.smoothing_hints()
        latest = {
            name: (value, when)
            for name, (value, when) in storage.latest().items()
            if not hints[name] and name not in _NO_RESULTS and when > self._seen
        }
        if latest:
            self._seen = max(when for _, when in latest.values())
            results = {
                n: value if math.isfinite(value) else None for n, (value, _) in latest.items()
            }
            # The evaluation at the end of a training counts one iteration more.
            iteration = min(self._seen + 1, self._source.trainer.max_iter)
            num_nan = sum(value is None for value in results.values())
            self._source.evaluations[iteration] = results | {NUM_NAN: num_nan}
        if row is not None or latest:
            self._files.write(self._rows, self._source.evaluations)

    def _add(self, row: Row | None) -> None:
        # The run that is resumed may have been stopped before or after it wrote this row.
        if row is not None and all(row["iteration"] != r["iteration"] for r in self._rows):
            self._rows.append(row)


class HistoryFiles:
    """The files of a history; each is replaced in one step."""

    def __init__(self, folder: Path, metric: str | None, maximize: bool) -> None:
        self._folder = folder
        self._metric = metric
        self._better = operator.gt if maximize else operator.lt

    def read(self, name: str, max_iteration: int) -> list[Row]:
        """The lines of a file, each with its ``iteration``, up to this one."""
        path = self._folder / name
        if max_iteration == 0 or not path.exists():
            return []
        rows: list[Row] = []
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
            try:
                row = json.loads(line)
                iteration = row["iteration"]
            except (ValueError, KeyError, TypeError):
                logger.warning("%s: line %d is damaged; the rest is left out.", path, number)
                break
            if iteration > max_iteration:
                break
            rows.append(row)
        return rows

    def write(self, rows: Sequence[Row], evaluations: Evaluations) -> None:
        """Replace all files; rows get the latest results of their epochs in ``val``."""
        evaluations = dict(sorted(evaluations.items()))
        start = 0
        for row in rows:
            own = {i: values for i, values in evaluations.items() if start < i <= row["iteration"]}
            for iteration, values in own.items():
                row["val"] |= values | {"iteration": iteration}
            start = row["iteration"]
        self._folder.mkdir(parents=True, exist_ok=True)
        lines = [{"iteration": i, "results": values} for i, values in evaluations.items()]
        self._replace("evaluations.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
        self._replace("history.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
        self._replace("history.csv", csv_text(rows))
        if (best := self._best(evaluations)) is not None:
            self._replace("best.json", json.dumps(best, indent=2) + "\n")
        picture = plot_history(rows, evaluations, self._metric)
        if picture is not None:
            with replace_file(self._folder / "history.png") as file:
                file.write(picture)

    def _replace(self, name: str, text: str) -> None:
        with replace_file(self._folder / name) as file:
            file.write(text.encode("utf-8"))

    def _best(self, evaluations: Evaluations) -> Row | None:
        best: Row | None = None
        for iteration, results in evaluations.items():
            value = results.get(self._metric)
            if value is not None and (best is None or self._better(value, best["value"])):
                best = {"metric": self._metric, "value": value, "iteration": iteration}
        return best


def csv_text(rows: Sequence[Row]) -> str:
    """Rows as a table: fixed columns first, then sorted ``train/...`` and ``val/...``.

    Numbers keep their full precision; what a row lacks is empty.
    """
    flat = [
        {name: row[name] for name in FIXED_COLUMNS}
        | {f"{group}/{name}": v for group in ("train", "val") for name, v in row[group].items()}
        for row in rows
    ]
    measured = sorted({name for row in flat for name in row} - set(FIXED_COLUMNS))
    text = io.StringIO()
    table = csv.DictWriter(text, [*FIXED_COLUMNS, *measured], restval="", lineterminator="\n")
    table.writeheader()
    table.writerows(flat)
    return text.getvalue()
