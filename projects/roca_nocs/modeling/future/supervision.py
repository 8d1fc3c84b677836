"""Training of decoded frames and steps: identities, matched masks, flow and semantics."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F

from roca_nocs.modeling.criteria.clip_loss import ClipCriterion, LossSums
from roca_nocs.modeling.criteria.clip_matching import NONE, FrameTargets, updated_identity
from roca_nocs.modeling.criteria.mask_loss import dice_cost, upsample
from roca_nocs.modeling.future.clip_batch import ClipTargets
from roca_nocs.modeling.future.flow import resize_flow, warp_by_flow
from roca_nocs.modeling.future.rollout import Step
from roca_nocs.modeling.future.step_masks import RowMasks, masks_of_steps
from roca_nocs.modeling.tracking.track_state import NEW, PaddedLayout, TrackState
from roca_nocs.modeling.transformer.deformable_transformer import InitialQueries
from roca_nocs.modeling.transformer.encoded import Encoded
from roca_nocs.modeling.transformer.future_detector import FutureDetector

_Masks = tuple[torch.Tensor, torch.Tensor]


class Supervision:
    """Losses of one batch, collected while its frames and steps are decoded.

    Attributes:
        sums: the losses so far.
    """

    def __init__(
        self, criterion: ClipCriterion, detector: FutureDetector, valid: torch.Tensor | None
    ) -> None:
        """
        Args:
            criterion: with the matcher.
            detector: with the mask and semantic heads.
            valid: (B, H, W) bool, cells that count; None for all.
        """
        self.criterion = criterion
        self.detector = detector
        self.valid = valid
        self.sums = LossSums()

    def frame(
        self,
        suffix: str,
        state: TrackState,
        step: Step,
        targets: FrameTargets,
        *,
        number: int = 0,
        births: bool = True,
        extra_cost: torch.Tensor | None = None,
    ) -> tuple[TrackState, torch.Tensor]:
        """Match the rows of a frame, add its class and box losses, and give identities.

        Args:
            suffix: of the losses.
            state: rows before the frame.
            step: what the decoder made of them.
            targets: of the frame.
            number: future step, 0 up to the present.
            births: match targets that no row has.
            extra_cost: (N, M) of the last layer.

        Returns:
            rows with the identities and IoUs of the frame, and the target (N,) int64 of each, -1
            for none.
        """
        assigned = self.criterion.matcher(
            state.ids, state.clip, step.logits, step.boxes, targets, extra_cost, births
        )
        matched = torch.from_numpy(assigned[-1]).to(state.ids.device)
        disappeared = (state.ids >= 0).cpu().numpy() & (assigned[-1] == NONE)
        self.sums.count += len(targets) + int(np.count_nonzero(disappeared))
        self.criterion.frame(self.sums, suffix, step.logits, step.boxes, assigned, targets, number)
        ids, iou = updated_identity(state.ids, state.iou, step.boxes[-1], matched, targets)
        return state.replace(ids=ids, iou=iou), matched

    def steps(
        self,
        state: TrackState,
        steps: Sequence[Step],
        targets: ClipTargets,
        *,
        births: bool,
    ) -> None:
        """Add the losses of the present and of all future steps.

        Rows are assigned at the present and keep their object; an object that is first seen later
        is assigned at that step to a row without one, if ``births``.

        Args:
            state: rows of the present before its matching.
            steps: the present and the future.
            targets: of the clips.
            births: match objects that appear in the future.
        """
        masks_of: list[RowMasks] = []
        if targets.future[0].masks is not None:
            masks_of = masks_of_steps(self.detector, steps, state.clip)
        valid_of = self._valid(targets)
        extra = None
        if masks_of and len(steps) > 1 and self.criterion.match_future_masks:
            extra = self._mask_costs(state, steps, targets, masks_of, valid_of)
        before: _Masks | None = None
        of_present = torch.full_like(state.ids, NONE)
        for number, (step, wanted) in enumerate(zip(steps, targets.future, strict=True)):
            suffix = f"_f{number}" if number else ""
            state, matched = self.frame(
                suffix,
                state,
                step,
                wanted,
                number=number,
                births=births or number == 0,
                extra_cost=extra if number == 0 else None,
            )
            of_present = matched if number == 0 else of_present
            if step.motion is not None:
                self._motion(suffix, step.motion, of_present, targets, number)
            if masks_of:
                logits_of = masks_of[number]
                valid = valid_of[number]
                masks = self._masks(suffix, state, wanted, matched, number, logits_of, valid)
                if before is not None and step.flow is not None:
                    self._consistency(suffix, state, step.flow, before, masks, number)
                    label = targets.flow[number - 1]
                    flow = resize_flow(step.flow, _size(label))
                    self.criterion.flow(self.sums, suffix, flow, label, valid, number)
                before = masks
            if targets.semantic is not None and step.encoded is not None:
                labels = targets.semantic[:, number]
                self._semantic(suffix, step.encoded, labels, number, valid_of[number])

    def _valid(self, targets: ClipTargets) -> list[torch.Tensor | None]:
        """(B, H, W) bool of each step, cells that count; None for all."""
        if targets.covered is None:
            return [self.valid] * len(targets.future)
        known = targets.covered
        return list((known if self.valid is None else known & self.valid[:, None]).unbind(dim=1))

    def proposals(self, initial: InitialQueries, targets: FrameTargets) -> None:
        """Add the losses ``_enc`` of a two-stage encoder, for which all objects have class 0.

        Args:
            initial: the queries of the images or of the present, and their proposals, if any.
            targets: of the same.
        """
        logits, boxes = initial.proposal_logits, initial.proposal_boxes
        if logits is None or boxes is None:
            return
        clip = torch.arange(len(logits), device=logits.device).repeat_interleave(logits.shape[1])
        targets = replace(targets, labels=torch.zeros_like(targets.labels))
        rows = (logits.flatten(0, 1)[None], boxes.flatten(0, 1)[None])
        ids = torch.full_like(clip, NEW)
        assigned = self.criterion.matcher(ids, clip, *rows, targets)
        self.criterion.frame(self.sums, "_enc", *rows, assigned, targets)

    def _masks(
        self,
        suffix: str,
        state: TrackState,
        targets: FrameTargets,
        matched: torch.Tensor,
        number: int,
        logits_of: RowMasks,
        valid: torch.Tensor | None,
    ) -> _Masks:
        """Add mask losses; returns the rows (P,) with a target and their logits (P, h, w)."""
        assert targets.masks is not None
        rows = (matched >= 0).nonzero().squeeze(dim=1)
        logits = logits_of(rows)
        self.criterion.masks(
            self.sums,
            suffix,
            upsample(logits, _size(targets.masks)),
            targets.masks[matched[rows]],
            None if valid is None else valid[state.clip[rows]],
            number,
        )
        return rows, logits

    def _motion(
        self,
        suffix: str,
        motion: torch.Tensor,
        matched: torch.Tensor,
        targets: ClipTargets,
        number: int,
    ) -> None:
        """Add the loss of the motions (N, 3) of rows with a target (N,) at the present."""
        wanted = targets.motion
        assert wanted is not None
        rows = (matched >= 0).nonzero().squeeze(dim=1)
        found = matched[rows]
        motion = torch.cat([motion[rows, :2] * wanted.sides, motion[rows, 2:]], dim=1)
        moved, reach = wanted.moved[number - 1, found], wanted.reach[found]
        self.criterion.motion(self.sums, suffix, motion, moved, reach, number)

    def _consistency(
        self,
        suffix: str,
        state: TrackState,
        flow: torch.Tensor,
        before: _Masks,
        after: _Masks,
        number: int,
    ) -> None:
        """Add the consistency of the rows that have a target in both steps."""
        (old_rows, old_logits), (rows, logits) = before, after
        place = torch.full_like(state.ids, NONE)
        place[old_rows] = torch.arange(len(old_rows), device=place.device)
        both = (place[rows] >= 0).nonzero().squeeze(dim=1)
        old = old_logits[place[rows[both]]].sigmoid().detach()
        flow = resize_flow(flow, _size(logits))[state.clip[rows[both]]]
        warped = warp_by_flow(old[:, None], flow)[:, 0]
        self.criterion.consistency(self.sums, suffix, logits[both], warped, number)

    def _semantic(
        self,
        suffix: str,
        encoded: Encoded,
        labels: torch.Tensor,
        number: int,
        valid: torch.Tensor | None,
    ) -> None:
        logits = self.detector.semantic(encoded).float()
        logits = F.interpolate(logits, size=_size(labels), mode="bilinear", align_corners=False)
        self.criterion.semantic(self.sums, suffix, logits, labels, valid, number)

    @torch.no_grad()
    def _mask_costs(
        self,
        state: TrackState,
        steps: Sequence[Step],
        targets: ClipTargets,
        masks_of: Sequence[RowMasks],
        valid_of: Sequence[torch.Tensor | None],
    ) -> torch.Tensor | None:
        """(N, M) discounted dice costs of the rows and targets that are still to be assigned.

        They are computed at the resolution of the masks, for the pairs of a clip; those of
        different clips and of tracks stay zero. Steps at which a target is absent cost nothing.
        """
        present = targets.future[0]
        held = _same(present, state.ids, state.clip).any(dim=1)
        free = (~held).nonzero().squeeze(dim=1)
        # A clip whose targets all have a row needs no masks of other rows.
        asked = (state.ids == NEW) & torch.isin(state.clip, present.clip[free])
        rows = asked.nonzero().squeeze(dim=1)
        if len(rows) == 0:
            return None
        assert steps[0].encoded is not None
        num_clips = len(steps[0].encoded.images)
        layout = PaddedLayout.of(state.clip[rows], num_clips)
        row, column = (state.clip[rows][:, None] == present.clip[free]).nonzero().unbind(dim=1)
        column = free[column]
        total = torch.zeros(len(state), len(present), device=state.ids.device)
        for number, wanted in enumerate(targets.future):
            assert wanted.masks is not None
            if len(wanted) == 0:
                continue
            logits = masks_of[number](rows)
            size = _size(logits)
            valid = valid_of[number]
            usable = None if valid is None else F.adaptive_avg_pool2d(valid.float(), size)
            places = PaddedLayout.of(wanted.clip, num_clips)
            masks = places.pad(F.adaptive_avg_pool2d(wanted.masks.float(), size))
            cost = dice_cost(layout.pad(logits), masks, usable)
            same = _same(present, wanted.ids, wanted.clip)
            there, found = same.any(dim=1), same.int().argmax(dim=1)
            of_pairs = cost[layout.clip[row], layout.slot[row], places.slot[found[column]]]
            of_pairs = of_pairs * there[column] * self.criterion.mask_cost_discount**number
            total[rows[row], column] += of_pairs
        return total


def _same(targets: FrameTargets, ids: torch.Tensor, clip: torch.Tensor) -> torch.Tensor:
    """(M, N) bool, which of N rows with these identities and clips show the M targets."""
    return (targets.ids[:, None] == ids) & (targets.clip[:, None] == clip)


def _size(maps: torch.Tensor) -> tuple[int, int]:
    return maps.shape[-2], maps.shape[-1]
