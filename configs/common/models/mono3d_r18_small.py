"""Monocular 3D boxes for images of a few hundred pixels, trained from scratch on a CPU."""

from .mask_rcnn_r18_small import model as _detector
from .mono3d_fpn import model

model.backbone.bottom_up = _detector.backbone.bottom_up
model.backbone.bottom_up.out_features = ["res2", "res3", "res4"]
model.backbone.out_channels = 64
model.backbone.norm = "BN"
model.pixel_mean, model.pixel_std = _detector.pixel_mean, _detector.pixel_std

_proposals = model.proposal_generator
_proposals.anchor_generator.sizes = [[8, 16], [24, 48], [72, 120]]
_proposals.batch_size_per_image = 128
_proposals.pre_nms_topk = (300, 200)
_proposals.post_nms_topk = (200, 100)

_heads = model.roi_heads
_heads.batch_size_per_image = 64
_heads.positive_fraction = 0.5  # 3D boxes learn from the foreground only
_heads.box_pooler.sampling_ratio = 2
_heads.box_head.fc_dims = [256, 256]
_heads.box_predictor.test_topk_per_image = 30
_heads.cube_head.fc_dims = [256, 256]
