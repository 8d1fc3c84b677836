"""Metrics and the evaluators that apply them to datasets.

``matching``, ``alignment``, ``frame_metrics``, ``nocs_metrics`` and ``nocs_precision`` work on
arrays; the evaluators collect model outputs and look up the ground truth.
"""

from .alignment_evaluator import AlignmentEvaluator
from .frame_evaluator import RocaFrameEvaluator
from .nocs_evaluator import NocsEvaluator

__all__ = ["AlignmentEvaluator", "NocsEvaluator", "RocaFrameEvaluator"]
