"""A few numbers out of ``results.json``, for tables of several models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["DEFAULT_ROWS", "SummaryRow", "find_metric", "known_rows", "summary_table"]

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


DETECTION_ROWS = (
    SummaryRow("box AP50, %", ("frame_box/AP50", "bbox/AP50")),
    SummaryRow("mask AP50, %", ("frame_mask/AP50", "segm/AP50")),
)

ROCA_ROWS = (
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


def _nocs_rows(label: str, task: str, metric: str) -> tuple[SummaryRow, ...]:
    """A metric of the NOCS evaluator, in its first mode, and what the trivial predictors reach."""
    return (
        SummaryRow(label, (f"{task}/{metric}",)),
        *(
            SummaryRow(f"- {name}", (f"trivial_predictors/{key}-{task}_{metric}",))
            for name, key in (
                ("identity rotation", "identity_rotation"),
                ("mean pose of the class", "mean_pose_per_class"),
            )
        ),
    )


NOCS_ROWS = (
    *_nocs_rows("3D box AP at IoU 0.25 (aabb), %", "iou3d_aabb", "IoU25"),
    *_nocs_rows("3D box AP at IoU 0.5 (aabb), %", "iou3d_aabb", "IoU50"),
    *_nocs_rows("pose AP of all objects, 5 degrees and 5 cm, %", "pose_detection", "5deg_5cm"),
    *_nocs_rows("pose AP of all objects, 10 degrees and 5 cm, %", "pose_detection", "10deg_5cm"),
    SummaryRow("pose AP of found objects, 10 degrees and 5 cm (aabb), %", ("pose_aabb/10deg_5cm",)),
    SummaryRow("error of model coordinates, % of the diagonal", ("nocs_coordinates/mean",)),
    SummaryRow("detections without a pose", ("pose_failures/failed",)),
)


def _mono3d_rows(
    label: str, keys: Sequence[str], trivial: Sequence[str]
) -> tuple[SummaryRow, SummaryRow]:
    """A metric of monocular 3D boxes and what the mean box of the class reaches."""
    return (
        SummaryRow(label, tuple(keys)),
        SummaryRow(
            "- mean box of the class",
            tuple(
                f"{each.partition('/')[0]}/class_mean_box-{each.partition('/')[2]}"
                for each in trivial
            ),
        ),
    )


def _mono3d_error(label: str, metric: str) -> tuple[SummaryRow, SummaryRow]:
    return _mono3d_rows(
        label,
        [f"{benchmark}_errors/{metric}" for benchmark in ("kitti", "omni3d")],
        [f"{benchmark}_trivial_predictors/{metric}" for benchmark in ("kitti", "omni3d")],
    )


MONO3D_ROWS = (
    *(
        row
        for label, metric in (
            ("KITTI 2D AP R40, moderate, mean of classes, %", "2d"),
            ("KITTI orientation (AOS) R40, moderate, %", "aos"),
            ("KITTI 3D AP R40, moderate, strict, %", "3d_strict"),
            ("KITTI 3D AP R40, moderate, loose, %", "3d_loose"),
            ("KITTI bird's-eye AP R40, moderate, loose, %", "bev_loose"),
        )
        for row in _mono3d_rows(
            label,
            [f"kitti_{metric}_R40/moderate"],
            [f"kitti_trivial_predictors/{metric}_R40_moderate"],
        )
    ),
    *(
        row
        for label, metric in (
            ("Omni3D AP3D, IoU 0.05 to 0.5, %", "AP"),
            ("Omni3D AP3D at IoU 0.25, %", "AP25"),
            ("Omni3D AP3D at IoU 0.5, %", "AP50"),
        )
        for row in _mono3d_rows(
            label, [f"omni3d_3d/{metric}"], [f"omni3d_trivial_predictors/3d_{metric}"]
        )
    ),
    SummaryRow("Omni3D AP2D, IoU 0.5 to 0.95, %", ("omni3d_2d/AP",)),
    *_mono3d_error("heading error of found objects, median, degrees", "rotation"),
    *_mono3d_error("depth error of found objects, median, %", "depth"),
    *_mono3d_error("error of their dimensions, median, %", "dimensions"),
)


def _bev_rows(label: str, metric: str) -> tuple[SummaryRow, ...]:
    """A metric of the present and the future, and what needs no model but the true present."""
    return (
        SummaryRow(label, (f"bev/{metric}",)),
        *(
            SummaryRow(f"- {name}", (f"bev_baselines/{key}-{metric}",))
            for name, key in (
                ("nobody moves", "static"),
                ("constant velocity", "constant_velocity"),
            )
        ),
    )


BEV_ROWS = (
    *_bev_rows("BEV IoU, whole raster, %", "IoU_long"),
    *_bev_rows("BEV IoU, central 30 m, %", "IoU_short"),
    *_bev_rows("BEV VPQ, whole raster, %", "VPQ_long"),
    *_bev_rows("BEV VPQ, central 30 m, %", "VPQ_short"),
    SummaryRow("id switches", ("bev/id_switches",)),
    SummaryRow("agents found that appear in the future, %", ("bev/birth_recall",)),
)

DEFAULT_ROWS = (*DETECTION_ROWS, *ROCA_ROWS, *NOCS_ROWS, *MONO3D_ROWS, *BEV_ROWS)
"""What detectors, ROCA, NOCS, monocular 3D boxes and FutureDETR report; a dash begins what a
trivial predictor reaches on the same detections, in bird's-eye view from the annotated present.
"""


def find_metric(results: Results, key: str) -> float | None:
    """Value of ``<task>/<metric>``; ``None`` if it is missing or not defined (null)."""
    task, _, metric = key.rpartition("/")
    metrics = results.get(task)
    return metrics.get(metric) if isinstance(metrics, Mapping) else None


def known_rows(columns: Sequence[Results], rows: Sequence[SummaryRow]) -> list[SummaryRow]:
    """The rows that any of the results has a metric for, be it not defined (null)."""

    def is_known(key: str) -> bool:
        task, _, metric = key.rpartition("/")
        return any(metric in (results.get(task) or {}) for results in columns)

    return [row for row in rows if any(map(is_known, row.keys))]


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
