"""ROCA on a ResNet-50 feature pyramid, with the hyper-parameters of the published training.

`published_indexing`, `squeeze_padding` and `border_compat` reproduce properties of the published
code that its weights were trained with; models trained here leave the first two off.
"""

from detectron2.config import LazyCall as L

from roca_nocs.modeling.dense_heads.depth_head import DepthHead
from roca_nocs.modeling.meta_arch import ROCA
from roca_nocs.modeling.roi_heads.alignment_head import AlignmentHead
from roca_nocs.modeling.roi_heads.retrieval_modes import build_retrieval_head
from roca_nocs.modeling.roi_heads.roca_heads import ROCAHeads
from roca_nocs.modeling.roi_heads.weighted_predictor import WeightedFastRCNNOutputLayers

from .mask_rcnn_fpn import model

model._target_ = ROCA

_heads = model.roi_heads
_heads._target_ = ROCAHeads
_heads.num_classes = 9
_heads.batch_size_per_image = 128
_heads.score_threshold = 0.5
_heads.mask_threshold = 0.7
_heads.box_predictor._target_ = WeightedFastRCNNOutputLayers
_heads.box_predictor.published_indexing = False
_heads.mask_pooler.output_size = 16
_heads.mask_head.num_classes = 10  # one more than the classes: the last is never read
_heads.depth_head = L(DepthHead)(
    in_features="${..box_in_features}",
    in_channels="${...backbone.out_channels}",
    level_channels=32,
    hidden_channels=128,
    squeeze_padding=False,
)
_heads.alignment_head = L(AlignmentHead)(
    num_classes="${..num_classes}",
    in_channels=128,  # levels of the depth head times their channels
    grid_size=32,  # twice the size of the mask pooler
    shape_pixel_sizes=[512, 512],
    shape_code_sizes=[512, 512],
    scale_sizes=[256, 256],
    translation_sizes=[256],
    noc_sizes=[256, 256],
    confidence_sizes=[256],
    sampling_ratio=0,
    noc_weights=True,
    end_to_end=True,
    symmetry_aware=False,
    retrieval_head=L(build_retrieval_head)(
        mode="resnet_resnet+image+comp", shape_code_size=512, wild=False
    ),
)
