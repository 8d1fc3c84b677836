"""Rows of several images in tensors of a fixed size, with masks that tell which rows count."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

import torch

GT_FIELDS = {
    "bbox2d": (4,),
    "bbox3d": (6,),
    "rotation": (3, 3),
    "rotation_y": (1,),
    "alpha": (1,),
    "category": (1,),
    "has3d": (1,),
}
"""Fields of padded ground truth and the shape of a row. ``bbox2d``: XYXY pixels. ``bbox3d``: u, v
of the projected centre in pixels, its projective depth, and width, height, length, metres.
``category``: int64, -1 in padded rows. ``has3d``: bool, whether the fields in 3D mean anything."""

_PADDING = {"category": -1}

logger = logging.getLogger(__name__)


def pad_rows(
    rows: Sequence[torch.Tensor], size: int, fill: float = 0
) -> tuple[torch.Tensor, torch.Tensor]:
    """Stack one tensor of every image, filled up or cut off to the same number of rows.

    Args:
        rows: B tensors (n_i, ...), alike but for n_i; at least one.
        size: K.
        fill: value of padded rows.

    Returns:
        padded: (B, K, ...).
        valid: (B, K, 1) bool.
    """
    first = rows[0]
    padded = first.new_full((len(rows), size, *first.shape[1:]), fill)
    for target, each in zip(padded, rows, strict=True):
        target[: len(each)] = each[:size]
    counts = torch.tensor([len(each) for each in rows], device=first.device)
    valid = torch.arange(size, device=first.device) < counts[:, None]
    return padded, valid[..., None]


def pad_ground_truth(
    images: Sequence[Mapping[str, torch.Tensor]], size: int | None = None
) -> dict[str, torch.Tensor]:
    """Ground truth of a batch in tensors of a fixed size.

    Args:
        images: for each image ``GT_FIELDS`` (n_i, ...); other keys are left out.
        size: n; an image with more objects keeps those whose 2D boxes are largest, and a warning is
            logged. None: as many as the fullest image has.

    Returns:
        ``GT_FIELDS`` (B, n, ...) and ``valid`` (B, n, 1) bool.

    Raises:
        KeyError: a field is missing.
        ValueError: a field has another shape.
    """
    for index, image in enumerate(images):
        _check_fields(image, index)
    counts = [len(image["category"]) for image in images]
    if size is None:
        size = max(1, *counts)
    images = [
        _largest(image, size, index) if count > size else image
        for index, (image, count) in enumerate(zip(images, counts, strict=True))
    ]
    padded: dict[str, torch.Tensor] = {}
    for name in GT_FIELDS:
        padded[name], padded["valid"] = pad_rows(
            [image[name] for image in images], size, _PADDING.get(name, 0)
        )
    return padded


def pad_proposals(
    boxes: Sequence[torch.Tensor], logits: Sequence[torch.Tensor], size: int
) -> dict[str, torch.Tensor]:
    """The best proposals of each image in tensors of a fixed size.

    Args:
        boxes: B tensors (P_i, 4), XYXY pixels.
        logits: B tensors (P_i,), objectness.
        size: number of proposals handed to the head; images with more keep the best.

    Returns:
        ``rpn_bbox2d`` (B, size, 4), ``rpn_object_logit`` (B, size, 1) and ``rpn_valid``
        (B, size, 1) bool, by falling objectness; equal logits keep their order.
    """
    orders = [each.argsort(descending=True, stable=True)[:size] for each in logits]
    padded, valid = pad_rows([b[order] for b, order in zip(boxes, orders, strict=True)], size)
    objectness, _ = pad_rows(
        [s[order, None] for s, order in zip(logits, orders, strict=True)], size
    )
    return {"rpn_bbox2d": padded, "rpn_object_logit": objectness, "rpn_valid": valid}


def _check_fields(image: Mapping[str, torch.Tensor], index: int) -> None:
    for name, shape in GT_FIELDS.items():
        if name not in image:
            raise KeyError(f"ground truth of image {index} lacks {name!r}; it has {sorted(image)}")
        expected = (len(image["category"]), *shape)
        if tuple(image[name].shape) != expected:
            raise ValueError(
                f"ground truth {name!r} of image {index} has shape {tuple(image[name].shape)}, "
                f"expected {expected}"
            )


def _largest(image: Mapping[str, torch.Tensor], size: int, index: int) -> dict[str, torch.Tensor]:
    logger.warning(
        "image %d of the batch has %d objects; the %d with the largest 2D boxes are kept",
        *(index, len(image["bbox2d"]), size),
    )
    kept = largest_boxes(image["bbox2d"], size)
    return {name: image[name][kept] for name in GT_FIELDS}


def largest_boxes(boxes: torch.Tensor, size: int) -> torch.Tensor:
    """Rows of the ``size`` largest boxes of (N, 4) XYXY, ascending; all if there are no more."""
    x1, y1, x2, y2 = boxes.unbind(dim=1)
    areas = (x2 - x1) * (y2 - y1)
    return areas.argsort(descending=True, stable=True)[:size].sort().values
