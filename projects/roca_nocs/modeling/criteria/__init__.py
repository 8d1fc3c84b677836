"""Losses of set-prediction detectors: matching of predictions and targets, and what it trains."""

from roca_nocs.modeling.criteria.align_detr import AlignDETRCriterion
from roca_nocs.modeling.criteria.clip_loss import ClipCriterion
from roca_nocs.modeling.criteria.matcher import MixedMatcher

__all__ = ["AlignDETRCriterion", "ClipCriterion", "MixedMatcher"]
