"""The heads of DETR-like detectors as they start: rare classes, boxes where the queries are."""

from __future__ import annotations

import math

from torch import nn

from roca_nocs.layers.transformer import DetrMLP

__all__ = ["new_box_head", "new_class_head"]


def new_class_head(embed_dim: int, num_classes: int, prior: float = 0.01) -> nn.Linear:
    """(..., embed_dim) to (..., num_classes) logits, all of about the probability ``prior``."""
    head = nn.Linear(embed_dim, num_classes)
    nn.init.constant_(head.bias, -math.log((1 - prior) / prior))
    return head


def new_box_head(embed_dim: int) -> DetrMLP:
    """(..., embed_dim) to (..., 4) offsets of box logits, at first 0."""
    head = DetrMLP(embed_dim, embed_dim, 4, 3)
    nn.init.zeros_(head.layers[-1].weight)
    nn.init.zeros_(head.layers[-1].bias)
    return head
