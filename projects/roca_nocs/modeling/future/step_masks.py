"""Masks of the queries of the present and of future steps."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from roca_nocs.modeling.future.rigid_rollout import move_rigidly
from roca_nocs.modeling.future.rollout import Step
from roca_nocs.modeling.transformer.future_detector import FutureDetector

RowMasks = Callable[[torch.Tensor], torch.Tensor]
"""Gives float32 mask logits (n, h, w) of n rows."""


def masks_of_steps(
    detector: FutureDetector, steps: Sequence[Step], clip: torch.Tensor
) -> list[RowMasks]:
    """What gives the masks of each step; what all rows share is computed once, here.

    Args:
        detector: with a mask head.
        steps: the present and the future.
        clip: (N,) int64, of all rows.
    """
    readers: list[RowMasks] = []
    for step in steps:
        if step.encoded is not None:
            readers.append(_decoded(detector, step, clip))
        else:
            readers.append(moved_masks(readers[0], steps[0], step))
    return readers


def moved_masks(present_masks: RowMasks, present: Step, step: Step) -> RowMasks:
    """What gives the masks of a step that are those of the present, moved."""
    assert step.motion is not None
    centres, motion = present.boxes[-1, :, :2].detach(), step.motion
    return lambda rows: move_rigidly(present_masks(rows), centres[rows], motion[rows])


def _decoded(detector: FutureDetector, step: Step, clip: torch.Tensor) -> RowMasks:
    assert step.encoded is not None
    read = detector.masks(step.encoded)
    return lambda rows: read(step.hs[-1, rows], clip[rows], step.boxes[-1, rows]).float()
