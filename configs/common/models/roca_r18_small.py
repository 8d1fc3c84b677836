"""ROCA for images of about 160x120 pixels, trained from scratch on a CPU."""

from .mask_rcnn_r18_small import model as _detector
from .roca_fpn import model

# The detector is that of the small Mask R-CNN; what ROCA adds keeps its classes.
model.backbone = _detector.backbone
model.proposal_generator = _detector.proposal_generator
model.pixel_mean, model.pixel_std = _detector.pixel_mean, _detector.pixel_std
model.input_format = _detector.input_format

_heads = model.roi_heads
_heads.batch_size_per_image = 64
_heads.positive_fraction = 0.5  # masks and poses learn from the foreground only
_heads.box_pooler.sampling_ratio = 2
_heads.box_head.fc_dims = [120, 128]
_heads.box_predictor.test_topk_per_image = 30
_heads.mask_pooler.output_size = 12  # objects are about 40 pixels wide
_heads.mask_head.conv_dims = [64, 64, 64]
_heads.score_threshold = 0.05  # average precision needs the weak detections too
_heads.mask_threshold = 0.5  # small masks lose too many pixels at the published 0.7

_heads.depth_head.level_channels = 16
_heads.depth_head.hidden_channels = 48
_align = _heads.alignment_head
_align.in_channels = 64
_align.grid_size = 24
_align.shape_pixel_sizes = [128, 160]
_align.shape_code_sizes = [160, 160]
_align.scale_sizes = [128]
_align.translation_sizes = [128]
_align.noc_sizes = [128, 128]
_align.confidence_sizes = [128]
_align.class_embedding_size = 16
_align.dropout = 0.1
_align.sampling_ratio = 1
# Three-dimensional convolutions cost a CPU more than all the rest: the CAD model whose surface is
# nearest to the predicted coordinates needs no training.
_align.retrieval_head.mode = "nearest"
_align.retrieval_head.shape_code_size = 160
