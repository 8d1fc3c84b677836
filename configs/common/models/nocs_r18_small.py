"""NOCS for images of about 160x120 pixels, trained from scratch on a CPU in minutes."""

from .mask_rcnn_r18_small import model as _detector
from .nocs_fpn import model

# The detector is that of the small Mask R-CNN; what NOCS adds keeps its classes.
model.backbone = _detector.backbone
model.proposal_generator = _detector.proposal_generator
model.pixel_mean, model.pixel_std = _detector.pixel_mean, _detector.pixel_std
model.input_format = _detector.input_format
model.proposal_generator.anchor_generator.sizes = [[8], [16], [32], [64], [128]]

_heads = model.roi_heads
_heads.batch_size_per_image = 40
_heads.positive_fraction = 0.5  # masks and coordinates learn from the foreground only
_heads.box_pooler.sampling_ratio = 2
_heads.box_head.fc_dims = [128, 128]
_heads.box_predictor.test_topk_per_image = 30
_heads.mask_pooler.output_size = 12  # objects are about 30 pixels wide
_heads.mask_head.conv_dims = [64, 64, 64]
_heads.nocs_pooler.output_size = 12
_heads.nocs_head.conv_dims = [64, 64, 64]
