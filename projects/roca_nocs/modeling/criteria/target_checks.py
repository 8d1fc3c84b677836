"""Targets that cannot be right are reported before they train a model, or crash a GPU."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

# Of the image's size: more than rounding, less than a mistake.
_TOLERANCE = 1e-3


def check_targets(
    counts: Sequence[int],
    labels: np.ndarray,
    boxes: np.ndarray,
    num_classes: int,
    file_names: Sequence[str | None] | None = None,
) -> None:
    """Check the N targets of a batch; they are on the host, so no device is waited for.

    Args:
        counts: targets of each image.
        labels: (N,) whole numbers.
        boxes: (N, 4) floating point, cxcywh relative to the image.
        num_classes: labels are less.
        file_names: of the images, where known.

    Raises:
        ValueError: a label beyond the classes; a box that is not finite, of negative size or beyond
            the image. It names the image and, where known, its file.
    """
    corners = np.concatenate([boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, :2] + boxes[:, 2:] / 2], 1)
    # Written so that NaN is wrong.
    inside = ((corners >= -_TOLERANCE) & (corners <= 1 + _TOLERANCE)).all(axis=1)
    good_box = inside & (boxes[:, 2:] >= 0).all(axis=1)
    good_label = (labels >= 0) & (labels < num_classes)
    wrong = np.flatnonzero(~(good_box & good_label))
    if len(wrong) == 0:
        return
    row = int(wrong[0])
    image = int(np.searchsorted(np.cumsum(counts), row, side="right"))
    name = file_names[image] if file_names is not None else None
    problem = (
        f"its box {boxes[row].tolist()} must be [cx, cy, width, height] within [0, 1] of the image"
        if good_label[row]
        else "labels count from 0"
    )
    raise ValueError(
        f"image {image} of the batch{f' ({name})' if name else ''} has a target of label "
        f"{int(labels[row])}, num_classes is {num_classes}: {problem} ({len(wrong)} of the "
        f"batch's {len(labels)} targets are wrong)"
    )
