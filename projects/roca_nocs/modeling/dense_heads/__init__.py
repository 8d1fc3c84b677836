"""Heads that predict a map for the whole image."""

from roca_nocs.modeling.dense_heads.depth_head import DepthHead

__all__ = ["DepthHead"]
