"""Whole models, registered in detectron2's META_ARCH registry."""

from roca_nocs.modeling.meta_arch.align_detr import AlignDETR
from roca_nocs.modeling.meta_arch.detr_panoptic import DetrPanoptic
from roca_nocs.modeling.meta_arch.future_detr import FutureDETR
from roca_nocs.modeling.meta_arch.mono3d_rcnn import Mono3DRCNN
from roca_nocs.modeling.meta_arch.multiview_nocs import MultiViewNocsRCNN
from roca_nocs.modeling.meta_arch.nocs_rcnn import NocsRCNN
from roca_nocs.modeling.meta_arch.roca import ROCA

__all__ = [
    "ROCA",
    "AlignDETR",
    "DetrPanoptic",
    "FutureDETR",
    "Mono3DRCNN",
    "MultiViewNocsRCNN",
    "NocsRCNN",
]
