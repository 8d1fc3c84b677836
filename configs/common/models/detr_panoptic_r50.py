"""DETR R50 for panoptic segmentation of COCO, as published; for inference."""

from detectron2.config import LazyCall as L

from roca_nocs.modeling.backbone.raster_resnet import build_raster_resnet
from roca_nocs.modeling.meta_arch.detr_panoptic import DetrPanoptic

model = L(DetrPanoptic)(
    backbone=L(build_raster_resnet)(depth=50),
    num_classes=250,  # largest category id plus one
    num_things=91,
    num_queries=100,
    hidden_dim=256,
    nheads=8,
    enc_layers=6,
    dec_layers=6,
    dim_feedforward=2048,
    dropout=0.1,
    pixel_mean=[123.675, 116.28, 103.53],
    pixel_std=[58.395, 57.12, 57.375],
    input_format="RGB",
    score_threshold=0.85,
)
