"""Users' own data in COCO format: registered by name, checked when loaded."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog

from ..coco_json import DatasetError, coco_records, read_coco


def load_coco_format(
    json_file: str | os.PathLike[str],
    image_root: str | os.PathLike[str],
    dataset_name: str | None = None,
    extra_annotation_keys: Sequence[str] = (),
) -> list[dict[str, Any]]:
    """Read a COCO-format file into detectron2 records, checking every record and image file.

    Args:
        json_file: the annotations.
        image_root: folder that the file names are relative to.
        dataset_name: registered name whose metadata gets ``thing_classes`` and
            ``thing_dataset_id_to_contiguous_id``.
        extra_annotation_keys: further fields of the annotations to keep.

    Returns:
        See :func:`roca_nocs.data.coco_json.coco_records`.

    Raises:
        DatasetError: names the file, the record and the field, or the image file.
    """
    if not os.path.isdir(image_root):
        name = f"Dataset '{dataset_name}': " if dataset_name else ""
        raise DatasetError(f"{name}the image folder {image_root} does not exist.")
    coco = read_coco(json_file)
    records = coco_records(coco, image_root, extra_annotation_keys)
    if dataset_name is not None:
        metadata = MetadataCatalog.get(dataset_name)
        classes = list(coco.categories.values())
        registered = metadata.get("thing_classes", classes)
        if list(registered) != classes:
            raise DatasetError(
                f"{coco.path}: the categories {classes} differ from the thing_classes "
                f"{list(registered)} that '{dataset_name}' was registered with."
            )
        metadata.set(
            thing_classes=registered,
            thing_dataset_id_to_contiguous_id={
                identifier: index for index, identifier in enumerate(coco.categories)
            },
        )
    return records


def register_coco_format(
    name: str,
    metadata: Mapping[str, Any],
    json_file: str | os.PathLike[str],
    image_root: str | os.PathLike[str],
) -> None:
    """Register a dataset in COCO format under a name; no file is opened before it is loaded.

    Args:
        name: the new name.
        metadata: fields for detectron2's ``MetadataCatalog``, e.g. ``{"thing_classes": [...]}``.
        json_file: the annotations.
        image_root: folder that the file names are relative to.
    """
    json_file, image_root = os.fspath(json_file), os.fspath(image_root)
    DatasetCatalog.register(name, partial(load_coco_format, json_file, image_root, name))
    MetadataCatalog.get(name).set(
        json_file=json_file, image_root=image_root, evaluator_type="coco", **metadata
    )
