"""Usual sizes of the objects of each class: what poses without depth are scaled by."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from detectron2.data import MetadataCatalog, get_detection_dataset_dicts

from roca_nocs.data.coco_json import DatasetError


def mean_sizes(names: str | Sequence[str]) -> torch.Tensor:
    """Means of the metric sides of the objects' boxes over training sets.

    Args:
        names: one registered dataset or several with the same classes, in the NOCS layout.

    Returns:
        (C, 3) float32, metres, along the axes of the models.

    Raises:
        DatasetError: a class has no object whose size is annotated.
    """
    first = names if isinstance(names, str) else names[0]
    classes = MetadataCatalog.get(first).thing_classes
    sums = torch.zeros(len(classes), 4, dtype=torch.float64)
    for record in get_detection_dataset_dicts(names, filter_empty=False):
        for each in record["annotations"]:
            if "s" in each:
                diagonal = torch.tensor(each["s"], dtype=torch.float64)
                size = diagonal * torch.tensor(each["extents"], dtype=torch.float64)
                sums[each["category_id"]] += torch.cat([size, size.new_ones(1)])
    if missing := [classes[row] for row in (sums[:, 3] == 0).nonzero()[:, 0].tolist()]:
        raise DatasetError(f"{names}: no object of {', '.join(missing)} has an annotated size.")
    return (sums[:, :3] / sums[:, 3:]).float()
