"""NOCS with 32 bins on a ResNet-50 feature pyramid, with the sizes of the published head.

`nocs_head.num_bins=1` regresses. `nocs_loss.rotations` are the symmetries of the data's classes, by
`roca_nocs.data.class_symmetries`. Published rules that differ from ours, for comparison with the
official program: `nocs_head.bin_rule="nocs"`, `target_resample="nocs"`, `alignment_rule="nocs"`;
docs/nocs.md lists all options.
"""

from detectron2.config import LazyCall as L
from detectron2.modeling.poolers import ROIPooler

from roca_nocs.modeling.criteria.nocs_loss import NocsLoss
from roca_nocs.modeling.meta_arch import NocsRCNN
from roca_nocs.modeling.roi_heads.nocs_head import NocsHead
from roca_nocs.modeling.roi_heads.nocs_heads import NocsROIHeads

from .mask_rcnn_fpn import model

model._target_ = NocsRCNN
model.alignment_rule = "corrected"
model.size_quantile = 1.0

_heads = model.roi_heads
_heads._target_ = NocsROIHeads
_heads.num_classes = 6
_heads.nocs_in_features = "${.box_in_features}"
_heads.nocs_pooler = L(ROIPooler)(
    output_size=14,
    scales="${..box_pooler.scales}",
    sampling_ratio="${..box_pooler.sampling_ratio}",
    pooler_type="ROIAlignV2",
)
_heads.nocs_head = L(NocsHead)(
    in_channels="${...backbone.out_channels}",
    num_classes="${..num_classes}",
    num_bins=32,
    conv_dims=[256, 256, 256, 256, 256],  # the last is that of the transposed convolution
    norm="BN",
    bin_rule="centre",
)
_heads.nocs_loss = L(NocsLoss)(
    rotations=None,
    distance="smooth_l1",  # of a head that regresses
    bin_rule="${..nocs_head.bin_rule}",
    normalization="per_roi",
)
_heads.target_resample = "normalized"
