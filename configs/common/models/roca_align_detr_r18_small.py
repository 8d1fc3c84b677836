"""ROCA whose boxes come from AlignDETR instead of an R-CNN, on one backbone.

AlignDETR's neck reads the pyramid from stride 8 on, the heads of masks, depth and poses read all
of it.
"""

from roca_nocs.modeling.proposal_generator import AlignDETRProposals
from roca_nocs.modeling.roi_heads.roca_region_heads import ROCARegionHeads

from .align_detr_r18_small import model as _proposals
from .roca_r18_small import model

model.backbone.top_block = None  # what it adds is read by a region proposal network only

for _name in ("backbone", "pixel_mean", "pixel_std", "input_format"):
    del _proposals[_name]
_proposals._target_ = AlignDETRProposals
_proposals.neck.in_features = ["p3", "p4", "p5"]
_proposals.neck.in_channels = ["${....backbone.out_channels}"] * 3
_proposals.num_classes = "${..roi_heads.num_classes}"
_proposals.select_box_nums_for_evaluation = 30
model.proposal_generator = _proposals

_heads = model.roi_heads
_heads._target_ = ROCARegionHeads
_heads.mask_in_features = _heads.box_in_features
_heads.mask_pooler.scales = _heads.box_pooler.scales
_heads.mask_pooler.sampling_ratio = _heads.box_pooler.sampling_ratio
_heads.depth_head.in_features = "${..mask_in_features}"
for _name in ("box_in_features", "box_pooler", "box_head", "box_predictor"):
    del _heads[_name]
# As many foreground regions as with a box branch, which needs background too.
_heads.batch_size_per_image = 32
_heads.positive_fraction = 1.0
