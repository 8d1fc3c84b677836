"""Metrics and the evaluators that apply them to datasets.

``matching``, ``alignment`` and ``frame_metrics`` work on arrays; the evaluators collect model
outputs and look up the ground truth.
"""

from .alignment_evaluator import AlignmentEvaluator
from .frame_evaluator import RocaFrameEvaluator

__all__ = ["AlignmentEvaluator", "RocaFrameEvaluator"]
