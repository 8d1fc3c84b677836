"""A single-frame network of FutureDETR that a test can afford."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from roca_nocs.modeling.backbone.raster_resnet import build_raster_resnet
from roca_nocs.modeling.transformer.future_detector import FutureDetector


def build_detector(in_channels: int = 3, stem_stride: int = 2, **changes: Any) -> FutureDetector:
    """ResNet-18 with random statistics, two encoder and two decoder layers, eight queries."""
    torch.manual_seed(0)
    backbone = build_raster_resnet(
        18, in_channels=in_channels, stem_stride=stem_stride, norm="BN", freeze_at=0
    )
    arguments: dict[str, Any] = {
        "num_classes": 3,
        "num_queries": 8,
        "hidden_dim": 32,
        "nheads": 4,
        "enc_layers": 2,
        "dec_layers": 2,
        "dim_feedforward": 48,
        "dropout": 0.0,
        "enc_n_points": 2,
        "dec_n_points": 2,
        "gn_groups": "auto",
        "num_semantic_classes": 2,
        **changes,
    }
    return FutureDetector(backbone=backbone, **arguments)


def randomise_heads(detector: FutureDetector) -> FutureDetector:
    """Heads that differ between queries; new ones predict the same for all."""
    for head in detector.bbox_embed:
        nn.init.normal_(head.layers[-1].weight, std=0.3)
    return detector
