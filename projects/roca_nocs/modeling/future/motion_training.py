"""Training of a rigid rollout on annotated objects, without a detector."""

from __future__ import annotations

import torch

from roca_nocs.modeling.criteria.clip_matching import FrameTargets
from roca_nocs.modeling.future.clip_batch import ClipTargets
from roca_nocs.modeling.future.rigid_rollout import RigidRollout
from roca_nocs.modeling.future.rollout import Step
from roca_nocs.modeling.future.supervision import Supervision
from roca_nocs.modeling.tracking.track_state import TrackState

# Of an object that is there; the negative of one that is not.
_EXISTS = 2.0


def train_motion(
    supervision: Supervision, rollout: RigidRollout, images: torch.Tensor, targets: ClipTargets
) -> None:
    """Add the losses of objects that start from their annotations.

    The present has the losses of a perfect detector, which no parameter changes. Masks are not
    moved: they follow the motion, which the annotations give exactly.

    Args:
        supervision: collects the losses.
        rollout: to be trained.
        images: (B, channels, H, W), the rasters of the clips.
        targets: of the clips, with motions.
    """
    wanted = targets.future[0]
    present = _annotated(wanted, rollout.of_query.in_features, supervision.detector.num_classes)
    moved = rollout.move(present, images, wanted.clip, len(targets.future) - 1)
    state = _identified(wanted, present)
    supervision.steps(state, [present, *moved], targets, births=False)


def _annotated(targets: FrameTargets, channels: int, num_classes: int) -> Step:
    count = len(targets)
    logits = targets.boxes.new_full((1, count, num_classes), -_EXISTS)
    logits[0, torch.arange(count, device=logits.device), targets.labels] = _EXISTS
    return Step(
        encoded=None,
        hs=targets.boxes.new_zeros(1, count, channels),
        logits=logits,
        boxes=targets.boxes[None],
    )


def _identified(targets: FrameTargets, present: Step) -> TrackState:
    """Rows that have the identities of their objects, so that nothing is left to be matched."""
    none = present.hs[0, :, :0]
    return TrackState(
        clip=targets.clip,
        query=none,
        reference=none,
        ids=targets.ids,
        iou=torch.ones_like(targets.boxes[:, 0]),
        score=torch.ones_like(targets.boxes[:, 0]),
        disappear_time=torch.zeros_like(targets.ids),
        embedding=present.hs[0],
        boxes=targets.boxes,
        logits=present.logits[0],
    )
