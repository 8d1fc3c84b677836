"""Monocular 3D boxes on a ResNet-50 feature pyramid of strides 4, 8 and 16.

No further level is pooled on top. `roi_heads.priors` are computed from a training set by
`roca_nocs.data.mono3d_priors` when a training starts; they become part of the checkpoint.

Loss weights are those of the parts: `proposal_generator.loss_weight` (`loss_rpn_loc`,
`loss_rpn_cls`), `roi_heads.box_predictor.loss_weight` (`loss_box_reg`, `loss_cls`),
`roi_heads.cube_loss.weights`.
"""

from detectron2.config import LazyCall as L
from detectron2.layers import ShapeSpec
from detectron2.modeling.poolers import ROIPooler

from roca_nocs.modeling.criteria.cube_loss import CubeLoss
from roca_nocs.modeling.meta_arch import Mono3DRCNN
from roca_nocs.modeling.proposal_generator import PaddedRPN
from roca_nocs.modeling.roi_heads.cube_head import CubeHead
from roca_nocs.modeling.roi_heads.mono3d_heads import Mono3DROIHeads

from .mask_rcnn_fpn import model

model._target_ = Mono3DRCNN
model.max_ground_truths = None
model.backbone.bottom_up.out_features = ["res2", "res3", "res4"]
model.backbone.top_block = None

_proposals = model.proposal_generator
_proposals._target_ = PaddedRPN
_proposals.in_features = ["p2", "p3", "p4"]
_proposals.anchor_generator.sizes = [[16, 32], [48, 96], [160, 320]]
_proposals.anchor_generator.strides = [4, 8, 16]
_proposals.head.num_anchors = 6
_proposals.post_nms_topk = (512, 256)
_proposals.smooth_l1_beta = 0.5
_proposals.objectness = "bce"

_heads = model.roi_heads
_heads._target_ = Mono3DROIHeads
for _name in ("mask_in_features", "mask_pooler", "mask_head"):
    del _heads[_name]
_heads.num_classes = 3
_heads.box_in_features = ["p2", "p3", "p4"]
_heads.box_pooler.scales = (1 / 4, 1 / 8, 1 / 16)
_heads.box_predictor.smooth_l1_beta = 0.5
_heads.cube_in_features = "${.box_in_features}"
_heads.cube_pooler = L(ROIPooler)(
    output_size=7,
    scales="${..box_pooler.scales}",
    sampling_ratio="${..box_pooler.sampling_ratio}",
    pooler_type="ROIAlignV2",
)
_heads.cube_head = L(CubeHead)(
    input_shape=L(ShapeSpec)(
        channels="${....backbone.out_channels}",
        height="${...cube_pooler.output_size}",
        width="${...cube_pooler.output_size}",
    ),
    num_classes="${..num_classes}",
    fc_dims=[1024, 1024],
    pose_type="yaw_bins",
    num_yaw_bins=12,
    uncertainty=False,
)
_heads.cube_loss = L(CubeLoss)(mode="huber", ordered_corners=False, weights={})
_heads.priors = None
_heads.z_type = "log"
_heads.dims_func = "exp"
