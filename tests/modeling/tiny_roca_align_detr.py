"""A ROCA on AlignDETR of a few thousand parameters for tests of whole models."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from detectron2.config import LazyConfig, instantiate
from omegaconf import DictConfig

from modeling import tiny_roca
from modeling.tiny_align_detr import set_sizes
from roca_nocs.modeling.meta_arch import ROCA
from roca_nocs.structures import CadDatabase

MODEL = Path(__file__).parents[2] / "configs/common/models/roca_align_detr_r18_small.py"


def narrow(model: DictConfig) -> None:
    """Give a model configuration of the rooms few channels and layers."""
    tiny_roca.narrow(model)
    model.proposal_generator.neck.num_groups = 4
    set_sizes(model.proposal_generator)


def build_roca_align_detr(
    *,
    cad_database: Callable[[], CadDatabase] | None = None,
    seed: int = 0,
    **heads: Any,
) -> ROCA:
    """The model of the rooms with few channels and queries.

    Args:
        cad_database: option of the model.
        seed: of the weights.
        heads: options of ``ROCARegionHeads``.
    """
    model = LazyConfig.load(str(MODEL)).model
    narrow(model)
    model.cad_database = cad_database
    model.proposal_generator.update(num_queries=12, dn_number=6)
    # Untrained scores are about 0.01.
    model.roi_heads.update({"score_threshold": 0.0, **heads})
    torch.manual_seed(seed)
    return instantiate(model)
