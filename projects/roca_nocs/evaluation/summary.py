"""A few numbers out of ``results.json``, for tables of several models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["DEFAULT_ROWS", "SummaryRow", "find_metric", "summary_table"]

Results = Mapping[str, Any]


@dataclass(frozen=True)
class SummaryRow:
    """A row of the table.

    Attributes:
        label: with the unit.
        keys: ``<task>/<metric>``, the preferred one first. All columns show the same key, since
            the metrics of two evaluators are not the same.
    """

    label: str
    keys: tuple[str, ...]


DEFAULT_ROWS = (
    SummaryRow("box AP50, %", ("frame_box/AP50", "bbox/AP50")),
    SummaryRow("mask AP50, %", ("frame_mask/AP50", "segm/AP50")),
    SummaryRow("depth error on objects, cm", ("depth/mean",)),
    SummaryRow("alignment accuracy, mean of instances, %", ("alignment/instance",)),
    SummaryRow("- identity rotation", ("trivial_predictors/identity_rotation-instance",)),
    SummaryRow("- mean pose of the class", ("trivial_predictors/mean_pose_per_class-instance",)),
    SummaryRow("- random CAD model", ("trivial_predictors/random_CAD-instance",)),
    SummaryRow("alignment accuracy, mean of classes, %", ("alignment/class",)),
    SummaryRow("alignment accuracy, visible instances, %", ("alignment_visible/instance",)),
    SummaryRow("- identity rotation", ("trivial_predictors/identity_rotation-visible_instance",)),
    SummaryRow(
        "- mean pose of the class", ("trivial_predictors/mean_pose_per_class-visible_instance",)
    ),
    SummaryRow("- random CAD model", ("trivial_predictors/random_CAD-visible_instance",)),
    SummaryRow("retrieval accuracy, %", ("detections/retrieval_accuracy",)),
    SummaryRow("- random CAD model", ("trivial_predictors/random_CAD-retrieval_accuracy",)),
    SummaryRow("rotation error, degrees", ("detections/rotation_error",)),
    SummaryRow("- identity rotation", ("trivial_predictors/identity_rotation-rotation_error",)),
    SummaryRow(
        "- mean pose of the class", ("trivial_predictors/mean_pose_per_class-rotation_error",)
    ),
)
"""What ROCA reports; a dash begins what a trivial predictor reaches on the same detections."""


def find_metric(results: Results, key: str) -> float | None:
    """Value of ``<task>/<metric>``; ``None`` if it is missing or not defined (null)."""
    task, _, metric = key.rpartition("/")
    metrics = results.get(task)
    return metrics.get(metric) if isinstance(metrics, Mapping) else None


def summary_table(
    columns: Sequence[Results], rows: Sequence[SummaryRow] = DEFAULT_ROWS
) -> list[list[str | float | None]]:
    """One list per row: its label, then a value per column, ``None`` where there is none.

    The key of a row is the first that all columns have, else the first that any has.
    """
    table: list[list[str | float | None]] = []
    for row in rows:
        candidates = [[find_metric(results, key) for results in columns] for key in row.keys]
        complete = [values for values in candidates if None not in values]
        partial = [values for values in candidates if any(v is not None for v in values)]
        table.append([row.label, *next(iter([*complete, *partial, candidates[0]]))])
    return table
