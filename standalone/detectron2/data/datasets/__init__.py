"""Data sets in COCO's format; importing this registers the splits of COCO itself."""

from . import builtin as _builtin  # noqa: F401  (registration)
from .coco import (
    convert_to_coco_dict,
    convert_to_coco_json,
    load_coco_json,
    register_coco_instances,
)

__all__ = [
    "convert_to_coco_dict",
    "convert_to_coco_json",
    "load_coco_json",
    "register_coco_instances",
]
