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
# Objects are about 40 pixels wide, ten cells of the finest level: one sample per bin sees them all.
_heads.box_pooler.sampling_ratio = 1
_heads.mask_pooler.sampling_ratio = 1
_heads.box_pooler.output_size = 6
_heads.box_head.fc_dims = [112, 128]
_heads.box_predictor.test_topk_per_image = 30
_heads.mask_pooler.output_size = 12
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
_align.dropout = 0.0
# From zero it takes hundreds of iterations to reach these, which a short schedule does not have.
_align.initial_scales = [1.92, 2.65, 0.71, 1.87, 1.54, 1.25, 1.04, 2.36, 1.72]
_heads.depth_head.initial_depth = 3.0
_align.sampling_ratio = 1
# Three-dimensional convolutions cost a CPU more than all the rest, and in a few thousand iterations
# no learned embedding tells the models of a class apart, nor are the coordinates good enough
# (docs/results.md). The outline is, and needs no training of its own.
_align.retrieval_head.mode = "silhouette"
_align.retrieval_head.shape_code_size = 160
