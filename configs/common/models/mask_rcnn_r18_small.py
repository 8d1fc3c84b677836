"""Mask R-CNN for images of about 160x120 pixels, trained from scratch on a CPU in minutes."""

from .mask_rcnn_fpn import model

# From scratch the normalisation must learn: frozen statistics would be those of no data.
model.backbone.bottom_up.stem.norm = "BN"
model.backbone.bottom_up.stages.depth = 18
del model.backbone.bottom_up.stages.stride_in_1x1  # an argument of the bottleneck block
model.backbone.bottom_up.freeze_at = 0
model.backbone.out_channels = 64
model.backbone.norm = "BN"

_proposals = model.proposal_generator
_proposals.anchor_generator.sizes = [[12], [24], [48], [80], [128]]
_proposals.batch_size_per_image = 128
_proposals.pre_nms_topk = (300, 200)
_proposals.post_nms_topk = (200, 100)

_heads = model.roi_heads
_heads.batch_size_per_image = 48
_heads.box_pooler.sampling_ratio = 2  # the adaptive default costs most of the time
_heads.box_head.fc_dims = [256, 256]
_heads.box_predictor.test_topk_per_image = 30
_heads.mask_head.conv_dims = [64, 64, 64, 64]  # the last is that of the deconvolution

model.pixel_mean = [110.0, 110.0, 110.0]
model.pixel_std = [58.0, 58.0, 58.0]
