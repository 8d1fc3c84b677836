"""An AlignDETR of a few thousand parameters for tests of whole models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from detectron2.config import LazyCall as L
from detectron2.config import LazyConfig, instantiate
from omegaconf import DictConfig

from modeling.tiny_roca import NUM_CLASSES, WIDTHS, narrow_stages
from roca_nocs.modeling.meta_arch import AlignDETR

MODEL = Path(__file__).parents[2] / "configs/common/models/align_detr_r18_small.py"


def narrow(model: DictConfig) -> None:
    """Give a model configuration of the rooms few channels and layers."""
    model.backbone.stem.out_channels = WIDTHS[0]
    model.backbone.stages = L(narrow_stages)()
    model.neck.in_channels = list(WIDTHS[1:])
    model.neck.num_groups = 4
    set_sizes(model)


def set_sizes(
    model: DictConfig,
    *,
    embed_dim: int = 16,
    num_heads: int = 4,
    num_points: int = 2,
    levels: int = 4,
    layers: int = 2,
) -> None:
    """Set what several parts of a model configuration depend on."""
    model.embed_dim = embed_dim
    model.position_embedding.num_pos_feats = embed_dim // 2
    model.transformer.num_feature_levels = levels
    for part in (model.transformer.encoder, model.transformer.decoder):
        part.update(num_heads=num_heads, num_points=num_points, feedforward_dim=32)
        part.num_layers = layers
    model.criterion.match_num = [2] * layers + [1]


def tiny_config(**options: Any) -> DictConfig:
    """The configuration with these options of ``AlignDETR``."""
    model = LazyConfig.load(str(MODEL)).model
    narrow(model)
    model.update({"num_classes": NUM_CLASSES, "num_queries": 12, "dn_number": 6, **options})
    return model


def build_align_detr(config: DictConfig | None = None, *, seed: int = 0) -> AlignDETR:
    """The model, with boxes and attention that are no longer those of the initialisation."""
    torch.manual_seed(seed)
    model = instantiate(tiny_config() if config is None else config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model
