"""Readers of the datasets. Importing this package registers the named ones; it opens no file."""

from .builtin import register_builtin
from .coco_format import load_coco_format, register_coco_format
from .habitat import load_habitat
from .nocs import load_nocs_camera, load_nocs_real
from .scan2cad import image_repeat_factors, load_scan2cad, scan2cad_records

__all__ = [
    "image_repeat_factors",
    "load_coco_format",
    "load_habitat",
    "load_nocs_camera",
    "load_nocs_real",
    "load_scan2cad",
    "register_builtin",
    "register_coco_format",
    "scan2cad_records",
]

register_builtin()
