"""The images of COCO that NOCS adds to its training: boxes and masks without coordinates."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..coco_json import DatasetError, coco_records, read_coco
from .nocs import CLASSES

COCO_NAMES = {"bottle": "bottle", "bowl": "bowl", "cup": "mug", "laptop": "laptop"}
"""COCO's categories and the classes they stand for."""


def load_nocs_coco(root: str | os.PathLike[str], split: str) -> list[dict[str, Any]]:
    """The images of COCO 2017 with bottles, bowls, cups (as mugs) or laptops.

    Args:
        root: folder with ``annotations/instances_<split>2017.json`` and ``<split>2017/``.
        split: ``"train"`` or ``"val"``.

    Returns:
        Records in COCO's format (``coco_records``) with the class ids of NOCS and without crowds.

    Raises:
        DatasetError: names the file, the record and the field; a category is missing.
    """
    root = Path(root)
    coco = read_coco(root / "annotations" / f"instances_{split}2017.json")
    names = list(coco.categories.values())
    if missing := sorted(set(COCO_NAMES) - set(names)):
        raise DatasetError(f"{coco.path}: there are no categories {', '.join(missing)}.")
    wanted = {identifier for identifier, name in coco.categories.items() if name in COCO_NAMES}
    annotations = {
        image_id: [
            each
            for each in of_image
            if each["category_id"] in wanted and not each.get("iscrowd", 0)
        ]
        for image_id, of_image in coco.annotations.items()
    }
    images = tuple(image for image in coco.images if annotations.get(image["id"]))
    records = coco_records(
        replace(coco, images=images, annotations=annotations), root / f"{split}2017"
    )
    for annotation in (each for record in records for each in record["annotations"]):
        annotation["category_id"] = CLASSES.index(COCO_NAMES[names[annotation["category_id"]]])
    return records
