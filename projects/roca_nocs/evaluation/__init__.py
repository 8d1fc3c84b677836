"""Metrics and the evaluators that apply them to datasets.

``matching``, ``alignment``, ``frame_metrics``, ``nocs_metrics``, ``nocs_precision``, ``kitti_ap``
and ``omni3d_ap`` work on arrays; the evaluators collect model outputs and look up the ground truth.
"""

from .alignment_evaluator import AlignmentEvaluator
from .frame_evaluator import RocaFrameEvaluator
from .kitti_evaluator import KittiEvaluator
from .nocs_evaluator import NocsEvaluator
from .omni3d_evaluator import Omni3DEvaluator

__all__ = [
    "AlignmentEvaluator",
    "KittiEvaluator",
    "NocsEvaluator",
    "Omni3DEvaluator",
    "RocaFrameEvaluator",
]
