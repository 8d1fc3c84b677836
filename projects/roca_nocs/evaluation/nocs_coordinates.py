"""Error of predicted NOCS maps where they and the annotation show the same object."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from detectron2.structures import Instances

from roca_nocs.data.maps import read_map

from .nocs_metrics import SymmetryRule, coordinate_distances


def coordinate_errors(
    instances: Instances, record: Mapping[str, Any], rule: SymmetryRule
) -> dict[str, np.ndarray]:
    """Mean distance of the coordinates, for the best detection of each annotated object.

    A detection belongs to the object of its class that covers most of its box; of those of one
    object the one with the highest score counts.

    Args:
        instances: ``pred_boxes``, ``scores``, ``pred_classes``, ``pred_nocs`` (N, 3, S, S) in
            [0, 1] on a grid of equal cells over each box, optionally ``pred_masks`` (N, H, W).
        record: with NOCS maps.
        rule: symmetries of the classes.

    Returns:
        ``categories`` (K,) int64 and ``errors`` (K,) float64 in units of the model's diagonal, for
        the K objects that are found and share a pixel with their detection.
    """
    annotations = [each for each in record["annotations"] if not each.get("iscrowd", 0)]
    pred = instances.pred_nocs.detach().double().cpu()
    count, size = len(pred), pred.shape[-1]
    if not count or not annotations:
        return {"categories": np.zeros(0, np.int64), "errors": np.zeros(0)}
    rows, columns = _cell_pixels(instances.pred_boxes.tensor.detach().double().cpu(), size, record)
    ids = torch.from_numpy(read_map(record, "instance"))[rows, columns].long()

    # Row of the annotation shown by each cell; the last one stands for none.
    numbers = torch.full((256,), len(annotations), dtype=torch.int64)
    numbers[torch.tensor([each["alignment_id"] for each in annotations])] = torch.arange(
        len(annotations)
    )
    shown = numbers[ids]
    covered = torch.zeros(count, len(annotations) + 1, dtype=torch.int64)
    covered.scatter_add_(1, shown.flatten(1), torch.ones_like(shown.flatten(1)))
    classes = torch.tensor([each["category_id"] for each in annotations])
    same = instances.pred_classes.cpu()[:, None] == classes
    cells, owner = torch.where(same, covered[:, :-1], 0).max(dim=1)

    # The best detection of each object: the first one in the order of scores.
    order = torch.argsort(instances.scores.detach().cpu(), descending=True, stable=True)
    order = order[cells[order] > 0].numpy()
    _, first = np.unique(owner.numpy()[order], return_index=True)
    best = torch.from_numpy(order[first])

    common = shown[best] == owner[best][:, None, None]
    if instances.has("pred_masks"):
        masks = instances.pred_masks.cpu()[best]
        common &= masks[torch.arange(len(best))[:, None, None], rows[best], columns[best]]
    nocs = torch.from_numpy(read_map(record, "nocs")).double()[rows[best], columns[best]] + 0.5
    visible = np.array([each.get("handle_visible", True) for each in annotations], bool)
    kinds = rule.of_objects(classes.numpy(), visible)[owner[best].numpy()]
    errors = coordinate_distances(
        pred[best], nocs.permute(0, 3, 1, 2), common, torch.from_numpy(kinds), rule.symmetries
    )
    found = ~errors.isnan()
    return {
        "categories": classes[owner[best]][found].numpy(),
        "errors": errors[found].numpy(),
    }


def _cell_pixels(
    boxes: torch.Tensor, size: int, record: Mapping[str, Any]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows and columns (N, S, S) of the pixels at the centres of the cells of boxes (N, 4)."""
    steps = (torch.arange(size, dtype=boxes.dtype) + 0.5) / size
    x = boxes[:, :1] + (boxes[:, 2:3] - boxes[:, :1]) * steps
    y = boxes[:, 1:2] + (boxes[:, 3:] - boxes[:, 1:2]) * steps
    columns = x.floor().long().clamp(0, record["width"] - 1)
    rows = y.floor().long().clamp(0, record["height"] - 1)
    shape = (len(boxes), size, size)
    return rows[:, :, None].expand(shape), columns[:, None, :].expand(shape)
