"""Whole models, registered in detectron2's META_ARCH registry."""

from roca_nocs.modeling.meta_arch.align_detr import AlignDETR
from roca_nocs.modeling.meta_arch.roca import ROCA

__all__ = ["ROCA", "AlignDETR"]
