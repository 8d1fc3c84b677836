"""Symmetries of the classes of registered datasets, for configs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from detectron2.data import MetadataCatalog

from roca_nocs.geometry.symmetry import class_rotations


def class_symmetries(
    names: str | Sequence[str],
    symmetries: Mapping[str, Mapping[str, Any]] | None = None,
    samples: int = 6,
) -> torch.Tensor:
    """The rotations under which objects of each class look the same.

    Args:
        names: one dataset or several with the same classes; no file of theirs is read.
        symmetries: see ``geometry.symmetry.class_rotations``; ``None`` takes the entry
            ``symmetries`` of the datasets' metadata.
        samples: rotations that stand for a continuous symmetry.

    Returns:
        (C, K, 3, 3) float32.

    Raises:
        ValueError: the datasets differ in their classes or symmetries, have none in their metadata,
            or the symmetries are wrong; names the dataset.
    """
    names = [names] if isinstance(names, str) else list(names)
    tables = [_of_dataset(name, symmetries, samples) for name in names]
    classes = [list(MetadataCatalog.get(name).thing_classes) for name in names]
    for name, own, table in zip(names, classes, tables, strict=True):
        if own != classes[0] or not torch.equal(table, tables[0]):
            raise ValueError(
                f"datasets {names[0]} and {name} have different classes or symmetries: a model "
                "needs the same for all that it is trained on"
            )
    return tables[0]


def _of_dataset(
    name: str, symmetries: Mapping[str, Mapping[str, Any]] | None, samples: int
) -> torch.Tensor:
    metadata = MetadataCatalog.get(name)
    if symmetries is None:
        symmetries = metadata.get("symmetries")
    if symmetries is None:
        raise ValueError(
            f"dataset {name} has no 'symmetries' in its metadata: register it with them, or give "
            "class_symmetries the argument symmetries"
        )
    try:
        return class_rotations(metadata.thing_classes, symmetries, samples)
    except ValueError as error:
        raise ValueError(f"dataset {name}: {error}") from error
