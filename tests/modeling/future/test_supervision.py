"""Masks in the assignment at the present: when they are asked for, and of which pairs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from modeling.tiny_future_detr import build_future_detr, make_clip
from roca_nocs.modeling.criteria.mask_loss import mask_losses
from roca_nocs.modeling.future.clip_batch import collate_clips, collate_targets
from roca_nocs.modeling.future.supervision import Supervision
from roca_nocs.modeling.meta_arch import FutureDETR
from roca_nocs.modeling.tracking.track_state import TrackState


def rows_with_masks(model: FutureDETR, inputs: list[dict[str, Any]]) -> list[int]:
    """How many masks each call of the mask head makes in one training step."""
    counts = []
    handle = model.detector.mask_head.register_forward_hook(
        lambda module, arguments, masks: counts.append(len(masks))
    )
    model.train()(inputs)
    handle.remove()
    return counts


def test_masks_without_a_future_are_those_of_matched_queries() -> None:
    """An image, or a clip without future steps, is matched by classes and boxes alone."""
    model = build_future_detr(num_future=0, num_frames=1)
    assert rows_with_masks(model, [make_clip(), make_clip([], seed=1)]) == [2]
    model = build_future_detr(num_future=1, num_frames=1)
    # All six queries of the clip with targets at two steps, then the matched ones.
    assert rows_with_masks(model, [make_clip(), make_clip([], seed=1)]) == [6, 6, 2, 2]
    model.criterion.match_future_masks = False
    assert rows_with_masks(model, [make_clip(), make_clip([], seed=1)]) == [2, 2]


@pytest.mark.parametrize("masked", [False, True])
def test_mask_costs_are_those_of_the_pairs_of_a_clip(masked: bool) -> None:
    """Discounted dice losses of free rows and free targets; nothing for all other pairs."""
    model = build_future_detr(num_frames=1)
    agents = [[(2, range(9)), (12, range(4)), (5, range(4, 9))], [], [(3, range(9))]]
    clips = [make_clip(each, seed=number) for number, each in enumerate(agents)]
    if masked:
        for clip in clips:
            clip["valid_mask"] = torch.ones(clip["clip"].shape[-2:], dtype=torch.bool)
            clip["valid_mask"][:, 30:] = False
    batch = collate_clips(clips, 1, model.device)
    targets = collate_targets(clips, 1, 2, model.device, masks=True, semantic=True, motion=False)
    seen: list[np.ndarray] = []
    states: list[TrackState] = []

    class Watched(Supervision):
        def frame(self, suffix: str, state: TrackState, *args: Any, **options: Any) -> Any:
            if options["extra_cost"] is not None:
                seen.append(options["extra_cost"].numpy())
                states.append(state)
            return super().frame(suffix, state, *args, **options)

    with torch.no_grad():
        encoded = model._encode(batch, batch.frames[0], batch.poses[:, 0], None)
        state, step, layout = model._decode(encoded, model.detector.initial_queries(encoded))
        # The third row of the first clip is the track of its target 2.
        ids = state.ids.clone()
        ids[2] = 2
        state = state.replace(ids=ids)
        steps = model._future(step, state, layout)
        supervision = Watched(model.criterion, model.detector, batch.valid)
        supervision.steps(state, steps, targets, births=True)
        (found,) = seen
        present = targets.future[0]
        assert found.shape == (len(state), 3)
        expected = np.zeros_like(found)
        for row in range(len(state)):
            for column in range(len(present)):
                if row == 2 or column == 1 or state.clip[row] != present.clip[column]:
                    continue
                for number, (each, wanted) in enumerate(zip(steps, targets.future, strict=True)):
                    same = (wanted.ids == present.ids[column]) & (
                        wanted.clip == present.clip[column]
                    )
                    if not same.any():
                        continue
                    logits = model.detector.masks(each.encoded)(
                        each.hs[-1, row][None], state.clip[row][None]
                    )
                    valid = None if batch.valid is None else batch.valid[state.clip[row]][None]
                    _, dice = mask_losses(logits, wanted.masks[same], valid)
                    expected[row, column] += 0.9**number * dice.item()
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert (found[:, 1] == 0).all() and (found[2] == 0).all()
