"""FutureDETR for single images: Deformable DETR R50 with box refinement and DETR's mask head.

Image statistics, format and the place of the stride belong to torchvision's ImageNet weights
(`detectron2://ImageNetPretrained/torchvision/R-50.pkl`).
"""

from detectron2.config import LazyCall as L

from roca_nocs.modeling.backbone.raster_resnet import build_raster_resnet
from roca_nocs.modeling.criteria import MixedMatcher
from roca_nocs.modeling.criteria.clip_loss import ClipCriterion
from roca_nocs.modeling.meta_arch import FutureDETR
from roca_nocs.modeling.transformer.future_detector import FutureDetector

model = L(FutureDETR)(
    detector=L(FutureDetector)(
        backbone=L(build_raster_resnet)(
            depth=50,
            in_channels=3,
            stem_stride=4,
            dilation=False,
            norm="FrozenBN",
            freeze_at=2,
        ),
        num_classes=80,
        num_queries=300,
        hidden_dim=256,  # a multiple of 128
        nheads=8,
        enc_layers=6,
        dec_layers=6,
        dim_feedforward=1024,
        dropout=0.1,
        num_feature_levels=4,
        enc_n_points=4,
        dec_n_points=4,
        with_box_refine=True,
        two_stage=False,
        mask_type="conv",
        skip_mode="lateral",
        x_source="memory",
        mask_chunk=32,
    ),
    criterion=L(ClipCriterion)(
        matcher=L(MixedMatcher)(cost_class=2.0, cost_bbox=5.0, cost_giou=2.0),
        weight_class=2.0,
        weight_bbox=5.0,
        weight_giou=2.0,
        # Those of DETR. Agents in a raster cover so few cells that masks weigh ten times as much.
        weight_mask=1.0,
        weight_dice=1.0,
    ),
    pixel_mean=[123.675, 116.28, 103.53],
    pixel_std=[58.395, 57.12, 57.375],
    input_format="RGB",
    detections_per_image=100,
)
