"""Readers of the datasets. Importing this package registers the named ones; it opens no file."""

from .a2d2 import load_a2d2
from .bev_clips import load_bev_clips
from .builtin import register_builtin
from .coco_format import load_coco_format, register_coco_format
from .habitat import load_habitat
from .kitti import load_kitti
from .nocs import load_nocs_camera, load_nocs_real
from .omni3d import load_omni3d
from .scan2cad import image_repeat_factors, load_scan2cad, scan2cad_records

__all__ = [
    "image_repeat_factors",
    "load_a2d2",
    "load_bev_clips",
    "load_coco_format",
    "load_habitat",
    "load_kitti",
    "load_nocs_camera",
    "load_nocs_real",
    "load_omni3d",
    "load_scan2cad",
    "register_builtin",
    "register_coco_format",
    "scan2cad_records",
]

register_builtin()
