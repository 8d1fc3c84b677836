"""The boxes of an image as lines of KITTI's result files."""

from __future__ import annotations

from collections.abc import Sequence

from roca_nocs.data.datasets.kitti_files import label_text, result_labels
from roca_nocs.visualization.image_result import ImageResult


def kitti_text(result: ImageResult, names: Sequence[str]) -> str:
    """The content of a result file; empty without objects.

    Args:
        result: with scores and 3D boxes that have a front.
        names: of the classes; a blank in one becomes ``_``, for blanks separate the columns.
    """
    boxes, rows = result.boxes3d, result.boxes3d.valid
    rotation_y, alpha = boxes.headings()
    labels = result_labels(
        types=[names[label].replace(" ", "_") for label in result.classes[rows]],
        boxes=result.boxes[rows],
        scores=result.scores[rows],
        centers=boxes.centers[rows],
        dimensions=boxes.extents[rows, ::-1],
        rotation_y=rotation_y[rows],
        alpha=alpha[rows],
    )
    return label_text(labels)
