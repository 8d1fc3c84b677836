"""Keys of monocular 3D boxes for detectron2's configs of the old kind (``CfgNode``)."""

from __future__ import annotations

from detectron2.config import CfgNode

from roca_nocs.geometry.box3d_codec import VIRTUAL_FOCAL
from roca_nocs.modeling.criteria.mono3d_loss import BETA

__all__ = ["add_mono3d_config"]


def add_mono3d_config(cfg: CfgNode) -> None:
    """Add the keys that ``PaddedRPN`` and ``Mono3DROIHeads`` read, with their defaults.

    ``MODEL.LOSS_W`` has the weights of the losses; ``BOX3D`` is that of all corner losses too.
    ``MODEL.MAX_GROUND_TRUTHS`` of 0 keeps all objects of an image.
    ``ROI_CUBE_HEAD.BEV_NMS_THRESH`` of 1 leaves duplicates in the bird's-eye view alone.
    """
    cfg.MODEL.LOSS_W = CfgNode(
        {
            "BOX2D": 1.0,
            "OBJECT": 1.0,
            "ROI_BOX2D": 1.0,
            "BOX3D": 1.0,
            "YAW_RES": 1.0,
            "YAW_CLS": 1.0,
            "CATEGORY": 1.0,
        }
    )
    cfg.MODEL.MAX_GROUND_TRUTHS = 0
    cfg.MODEL.RPN.OBJECTNESS = "bce"
    cfg.MODEL.RPN.SMOOTH_L1_BETA = BETA
    cfg.MODEL.ROI_BOX_HEAD.SMOOTH_L1_BETA = BETA
    cfg.MODEL.ROI_CUBE_HEAD = CfgNode(
        {
            "POOLER_TYPE": "ROIAlignV2",
            "POOLER_RESOLUTION": 7,
            "POOLER_SAMPLING_RATIO": 0,
            "NUM_FC": 2,
            "FC_DIM": 1024,
            "POSE_TYPE": "yaw_bins",
            "YAW_BINS": 12,
            "YAW_RESIDUAL": "half_width",
            "YAW_BINS_PERIOD": "2pi",
            "Z_TYPE": "log",
            "DIMS_FUNC": "exp",
            "VIRTUAL_FOCAL": VIRTUAL_FOCAL,
            "CLUSTER_BINS": 1,
            "USE_CONFIDENCE": False,
            "LOSS_MODE": "huber",
            "SMOOTH_L1_BETA": BETA,
            "ORDERED_CORNERS": False,
            "INVERSE_Z_WEIGHT": False,
            "BEV_NMS_THRESH": 1.0,
        }
    )
