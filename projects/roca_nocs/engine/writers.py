"""Where training metrics go: console, JSON, TensorBoard, and Weights & Biases if wanted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from detectron2.engine import default_writers
from detectron2.utils.events import EventWriter, get_event_storage

from .atomic_file import replace_file

__all__ = ["WandbWriter", "build_writers", "drop_rows_from"]


class WandbWriter(EventWriter):
    """Sends the scalars to Weights & Biases.

    A resumed training continues the run whose id is in ``wandb_id.txt`` of the output folder.
    """

    def __init__(
        self, output_dir: str, *, project: str, name: str | None = None, window_size: int = 20
    ) -> None:
        """
        Args:
            output_dir: also the folder of W&B's local files.
            project: name of the project.
            name: of the run; `None` lets W&B invent one.
            window_size: of the median smoothing.
        """
        try:
            import wandb
        except ImportError as error:
            raise ImportError(
                "train.wandb.enabled needs wandb: pip install 'roca_nocs[log]'"
            ) from error
        self._window_size = window_size
        self._last_written = -1
        id_file = Path(output_dir) / "wandb_id.txt"
        run_id = id_file.read_text().strip() if id_file.exists() else None
        self._run = wandb.init(
            project=project, name=name, dir=output_dir, id=run_id, resume="allow"
        )
        id_file.write_text(self._run.id)

    def write(self) -> None:
        """Send what is new since the last call."""
        storage = get_event_storage()
        latest = storage.latest_with_smoothing_hint(self._window_size)
        by_iteration: dict[int, dict[str, float]] = {}
        for name, (value, iteration) in latest.items():
            if iteration > self._last_written:
                by_iteration.setdefault(iteration, {})[name] = value
        for iteration in sorted(by_iteration):
            self._run.log(by_iteration[iteration], step=iteration)
            self._last_written = iteration

    def close(self) -> None:
        """Finish the run."""
        self._run.finish()


def build_writers(
    output_dir: str, max_iter: int, start_iter: int, wandb: dict[str, Any] | None = None
) -> list[EventWriter]:
    """detectron2's console, JSON and TensorBoard writers, and W&B if `wandb` has its arguments.

    Args:
        output_dir: folder of ``metrics.json`` and of the TensorBoard files.
        max_iter: length of the training, for the estimate of the remaining time.
        start_iter: rows of ``metrics.json`` from here on stem from what is done again: dropped.
        wandb: keyword arguments of `WandbWriter`.
    """
    drop_rows_from(Path(output_dir) / "metrics.json", start_iter)
    writers = default_writers(output_dir, max_iter)
    if wandb is not None:
        writers.append(WandbWriter(output_dir, **wandb))
    return writers


def drop_rows_from(metrics: str | Path, iteration: int) -> None:
    """Keep the complete rows of a JSON lines file that lie before `iteration`."""
    metrics = Path(metrics)
    if not metrics.exists():
        return
    rows = metrics.read_text().splitlines(keepends=True)
    kept = [row for row in rows if _row_iteration(row) < iteration]
    if kept != rows:
        with replace_file(metrics) as file:
            file.write("".join(kept).encode())


def _row_iteration(row: str) -> float:
    """Iteration of a row; infinite for one that a kill cut off."""
    try:
        return json.loads(row)["iteration"]
    except (ValueError, KeyError):
        return float("inf")
