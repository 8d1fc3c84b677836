"""Boxes and areas of the instances in an id map (compiled operator and PyTorch formulation)."""

from __future__ import annotations

import torch

from roca_nocs.layers._compiled import COMPILED_DEVICES, HAS_COMPILED_OPS


def instance_boxes(ids: torch.Tensor, num_instances: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Tight boxes and pixel counts of all instances, in one pass over the map.

    Args:
        ids: (H, W) integer tensor; pixel values 1..num_instances are instances, every other value
            is ignored.
        num_instances: N.

    Returns:
        boxes: (N, 4) float32, XYXY in pixels, right and bottom edges exclusive; zeros for an id
            that does not occur.
        areas: (N,) int64, visible pixels.

    Raises:
        ValueError: ``ids`` is not two-dimensional or ``num_instances`` is negative.
    """
    if ids.device.type in COMPILED_DEVICES:
        return torch.ops.roca_nocs.instance_boxes(ids, num_instances)
    return instance_boxes_reference(ids, num_instances)


def instance_boxes_reference(
    ids: torch.Tensor, num_instances: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """The same in plain PyTorch: the oracle of the tests and the path without a compiler."""
    if ids.dim() != 2:
        raise ValueError(f"ids must have shape (H, W), got {tuple(ids.shape)}")
    if num_instances < 0:
        raise ValueError(f"num_instances must not be negative, got {num_instances}")
    rows, columns = ((ids >= 1) & (ids <= num_instances)).nonzero(as_tuple=True)
    index = ids[rows, columns].long() - 1
    areas = torch.bincount(index, minlength=num_instances)
    boxes = torch.zeros(num_instances, 4, device=ids.device)
    for column, values, reduce in (
        (0, columns, "amin"),
        (1, rows, "amin"),
        (2, columns + 1, "amax"),
        (3, rows + 1, "amax"),
    ):
        edge = values.to(boxes.dtype)
        boxes[:, column] = boxes[:, column].scatter_reduce(
            0, index, edge, reduce, include_self=False
        )
    return boxes, areas


if HAS_COMPILED_OPS:

    @torch.library.register_fake("roca_nocs::instance_boxes")
    def _(ids: torch.Tensor, num_instances: int) -> tuple[torch.Tensor, torch.Tensor]:
        boxes = ids.new_empty((num_instances, 4), dtype=torch.float32)
        return boxes, ids.new_empty((num_instances,), dtype=torch.int64)
