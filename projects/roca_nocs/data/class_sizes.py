"""Usual sizes of the objects of each class: what poses without depth are scaled by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from detectron2.data import MetadataCatalog, get_detection_dataset_dicts

from roca_nocs.data.coco_json import DatasetError
from roca_nocs.data.datasets.nocs_models import real_model_size


def mean_sizes(names: str | Sequence[str]) -> torch.Tensor:
    """Means of the metric sides of the objects' boxes over training sets.

    The size of an object is that of its pose; without a pose, as in REAL's training images, that of
    its model where the model is metric.

    Args:
        names: one registered dataset or several with the same classes, in the NOCS layout.

    Returns:
        (C, 3) float32, metres, along the axes of the models.

    Raises:
        DatasetError: the datasets differ in their classes, a class has no object whose size is
            known, or the file of a model is missing or damaged.
    """
    names = [names] if isinstance(names, str) else list(names)
    classes = MetadataCatalog.get(names[0]).thing_classes
    sums = torch.zeros(len(classes), 4, dtype=torch.float64)
    for name in names:
        metadata = MetadataCatalog.get(name)
        if list(metadata.thing_classes) != list(classes):
            raise DatasetError(f"{names[0]} and {name} have different classes.")
        for record in get_detection_dataset_dicts(name, filter_empty=False):
            for each in record["annotations"]:
                size = _size(each, metadata)
                if size is not None:
                    sums[each["category_id"]] += torch.cat([size, size.new_ones(1)])
    if missing := [classes[row] for row in (sums[:, 3] == 0).nonzero()[:, 0].tolist()]:
        raise DatasetError(
            f"{names}: no object of {', '.join(missing)} has a pose or a metric model, from which "
            "its size would be known."
        )
    return (sums[:, :3] / sums[:, 3:]).float()


def _size(annotation: Mapping[str, Any], metadata: Any) -> torch.Tensor | None:
    """(3,) float64, metres."""
    if "s" in annotation:
        diagonal = torch.tensor(annotation["s"], dtype=torch.float64)
        return diagonal * torch.tensor(annotation["extents"], dtype=torch.float64)
    model = annotation.get("model")
    if model is None or model["catid_cad"] or not metadata.get("model_root"):
        return None  # of COCO, or of CAMERA, whose models have a diagonal of 1
    size = real_model_size(Path(metadata.model_root), metadata.model_split, model["id_cad"])
    return torch.from_numpy(size)
