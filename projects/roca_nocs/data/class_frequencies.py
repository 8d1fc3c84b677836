"""How often each class occurs in a training set: what class weights are computed from."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from detectron2.data import MetadataCatalog

from roca_nocs.data.datasets.scan2cad import image_repeat_factors, scan2cad_records
from roca_nocs.data.statistics import Record, instances_per_class, objects

MODES = ("image", "cad", "none")


def class_frequencies(
    names: str | Sequence[str], mode: str = "image", *, center_filter: bool = False
) -> torch.Tensor:
    """Class frequencies of registered datasets in ROCA's layout, for configs.

    Args:
        names: one name or several with the same classes.
        mode: see :func:`count_classes`; ``"none"`` reads nothing.
        center_filter: as for the training records, see ``scan2cad_records``.

    Returns:
        (C,) float32.

    Raises:
        ValueError: an unknown mode.
    """
    first = names if isinstance(names, str) else names[0]
    num_classes = len(MetadataCatalog.get(first).thing_classes)
    records: list[Record] = []
    if mode != "none":
        records = scan2cad_records(names, center_filter=center_filter)
    return count_classes(records, num_classes, mode)


def count_classes(records: Sequence[Record], num_classes: int, mode: str) -> torch.Tensor:
    """Class frequencies of records (roca's ``class_freq_method``).

    Args:
        records: of ``load_scan2cad``.
        num_classes: C.
        mode: ``"image"`` counts annotations, those of repeated images as often as
            ``image_repeat_factors`` repeats them; ``"cad"`` counts placed objects, each once for
            all images of its scene; ``"none"`` gives all classes the same frequency.

    Returns:
        (C,) float32; ones in mode ``"none"``.

    Raises:
        ValueError: an unknown mode, or a category id outside 0 to C - 1.
    """
    if mode not in MODES:
        raise ValueError(f"mode of class frequencies is {mode!r}; expected one of {MODES}")
    counts = np.ones(num_classes)
    if mode == "image":
        counts = np.zeros(num_classes)
        for record, factor in zip(records, image_repeat_factors(records), strict=True):
            counts += factor * instances_per_class([record], num_classes)
    elif mode == "cad":
        placed = {
            (record["scene_id"], each["alignment_id"]): each
            for record in records
            for each in objects(record)
        }
        scenes = {"annotations": list(placed.values())}
        counts = instances_per_class([scenes], num_classes)
    return torch.as_tensor(counts, dtype=torch.float32)
