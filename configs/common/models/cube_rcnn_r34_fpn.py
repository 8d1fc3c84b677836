"""Cube R-CNN (Brazil et al., CVPR 2023) on a ResNet-34 as published, for its checkpoints.

Five levels of strides 4 to 64; images of torchvision's statistics, but blue first.
"""

from detectron2.config import LazyCall as L
from detectron2.modeling import ResNet
from detectron2.modeling.backbone.resnet import BasicStem

from roca_nocs.modeling.backbone.pooled_resnet import PooledResNet

from .mono3d_fpn import model

model.backbone.bottom_up = L(PooledResNet)(
    stem=L(BasicStem)(in_channels=3, out_channels=64, norm="BN"),
    stages=L(ResNet.make_default_stages)(depth=34, norm="${..stem.norm}"),
    out_features=["res2", "res3", "res4", "res5"],
    freeze_at=0,
)
model.backbone.in_features = ["res2", "res3", "res4", "res5", "res6"]

_proposals = model.proposal_generator
_proposals.in_features = ["p2", "p3", "p4", "p5", "p6"]
_proposals.anchor_generator.sizes = [[32], [64], [128], [256], [512]]
_proposals.anchor_generator.strides = [4, 8, 16, 32, 64]
_proposals.head.num_anchors = 3
_proposals.anchor_matcher.thresholds = [0.05, 0.05]
_proposals.positive_fraction = 1.0
_proposals.post_nms_topk = (1000, 1000)
_proposals.smooth_l1_beta = 0.0
_proposals.objectness = "iou"

_heads = model.roi_heads
_heads.num_classes = 38
_heads.box_in_features = ["p2", "p3", "p4", "p5", "p6"]
_heads.box_pooler.scales = (1 / 4, 1 / 8, 1 / 16, 1 / 32, 1 / 64)
_heads.box_predictor.smooth_l1_beta = 0.0
_heads.box_predictor.test_score_thresh = 0.01
_heads.cube_head.pose_type = "6d"
_heads.cube_head.uncertainty = True
_heads.z_type = "direct"
_heads.cube_loss.mode = "disentangled"

model.pixel_mean = [103.53, 116.28, 123.675]
model.pixel_std = [57.375, 57.12, 58.395]
model.input_format = "BGR"
