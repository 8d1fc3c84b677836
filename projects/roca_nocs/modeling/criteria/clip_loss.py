"""The losses of a clip: classes, boxes and masks of every frame, flow, consistency, semantics."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from roca_nocs.geometry.boxes import cxcywh_to_xyxy, elementwise_giou
from roca_nocs.modeling.criteria.average_count import average_count
from roca_nocs.modeling.criteria.clip_matching import (
    AREA_EPSILON,
    ClipMatcher,
    FrameTargets,
)
from roca_nocs.modeling.criteria.ia_bce import focal_loss
from roca_nocs.modeling.criteria.mask_loss import mask_losses
from roca_nocs.modeling.criteria.matcher import MixedMatcher

IGNORED_FLOW = 255.0
# Motions are as good as exact when they are wrong by less, in cells.
_CLOSE = 0.4
# Cells that are neither in a mask nor in the one it should be like say nothing about motion.
_VISIBLE = 0.1


class ClipCriterion(nn.Module):
    """Weighted losses of clips, as :class:`LossSums` collects them frame by frame.

    Class losses are sigmoid focal losses over all queries and classes; a query without target, or
    whose target has disappeared, is background in every class. Boxes have L1 and GIoU losses, masks
    focal and dice losses, on matched queries. All of these are sums over a clip, divided by the
    number of its targets and disappeared tracks.

    Flow, motion, consistency and semantics are means over all steps together: of the cells with a
    flow, of the matched queries, of the hardest cells of every frame. Each step's loss is its share
    of that mean, so that the sum of the steps' losses is the mean.

    Losses of future step f weigh discount^f, without a change of what they are divided by.

    Sources: MOTR (Zeng et al., ECCV 2022), Deformable DETR (ICLR 2021), FIERY (Hu et al., ICCV
    2021) for the discount.
    """

    def __init__(
        self,
        *,
        matcher: MixedMatcher,
        weight_class: float = 2.0,
        weight_bbox: float = 5.0,
        weight_giou: float = 2.0,
        weight_mask: float = 10.0,
        weight_dice: float = 1.0,
        weight_flow: float = 0.1,
        weight_motion: float = 1.0,
        weight_consistency: float = 0.5,
        weight_semantic: float = 1.0,
        semantic_class_weights: tuple[float, ...] = (1.0, 2.0),
        semantic_hardest: float = 0.25,
        future_discount: float = 0.95,
        match_future_masks: bool = True,
        mask_cost_discount: float = 0.9,
        alpha: float = 0.25,
        gamma: float = 2.0,
    ) -> None:
        """
        Args:
            matcher: costs of classes and boxes.
            weight_class, weight_bbox, weight_giou: of the losses of every decoder layer.
            weight_mask, weight_dice: of the mask losses of the last layer.
            weight_flow: of the backward flow of the cells of agents.
            weight_motion: of the rigid motion of agents.
            weight_consistency: of masks that follow the flow.
            weight_semantic: of the semantic map.
            semantic_class_weights: of its classes, background first.
            semantic_hardest: share of the cells of a frame that count, those with most loss.
            future_discount: factor per future step.
            match_future_masks: the masks of all steps take part in the assignment at the present.
            mask_cost_discount: factor per step of their costs.
            alpha, gamma: of the focal loss of classes.
        """
        super().__init__()
        self.matcher = ClipMatcher(matcher)
        self.frame_weights = {"class": weight_class, "bbox": weight_bbox, "giou": weight_giou}
        self.weight_mask = weight_mask
        self.weight_dice = weight_dice
        self.weight_flow = weight_flow
        self.weight_motion = weight_motion
        self.weight_consistency = weight_consistency
        self.weight_semantic = weight_semantic
        self.semantic_class_weights = tuple(semantic_class_weights)
        self.semantic_hardest = semantic_hardest
        self.future_discount = future_discount
        self.match_future_masks = match_future_masks
        self.mask_cost_discount = mask_cost_discount
        self.alpha = alpha
        self.gamma = gamma

    def frame(
        self,
        sums: LossSums,
        suffix: str,
        logits: torch.Tensor,
        boxes: torch.Tensor,
        assigned: np.ndarray,
        targets: FrameTargets,
        step: int = 0,
    ) -> None:
        """Add class and box losses of all decoder layers.

        Args:
            sums: collects them.
            suffix: of the losses of the last layer; others have ``_aux{l}`` besides.
            logits: (L, N, K).
            boxes: (L, N, 4) cxcywh in [0, 1].
            assigned: (L, N) target of each row, -1 for none.
            targets: of the frame.
            step: future step, 0 up to the present.
        """
        layer, row = np.nonzero(assigned >= 0)
        matched = np.stack([layer, row, assigned[layer, row]])
        where = torch.from_numpy(matched).to(logits.device)
        layers, rows, found = where.unbind()
        entries = (layers, rows, targets.labels[found])
        per_row = focal_loss(logits.float(), entries, self.alpha, self.gamma)

        predicted, wanted = boxes[layers, rows].float(), targets.boxes[found]
        giou = elementwise_giou(cxcywh_to_xyxy(predicted), cxcywh_to_xyxy(wanted), eps=AREA_EPSILON)
        nothing = per_row.new_zeros(len(logits))
        totals = {
            "class": per_row.sum(dim=1),
            "bbox": nothing.index_add(0, layers, (predicted - wanted).abs().sum(dim=-1)),
            "giou": nothing.index_add(0, layers, 1 - giou),
        }
        factor = self.future_discount**step
        for name, values in totals.items():
            scaled = values * (self.frame_weights[name] * factor)
            for number, value in enumerate(scaled):
                aux = "" if number == len(logits) - 1 else f"_aux{number}"
                sums.add(f"loss_{name}{suffix}{aux}", value)

    def masks(
        self,
        sums: LossSums,
        suffix: str,
        logits: torch.Tensor,
        targets: torch.Tensor,
        valid: torch.Tensor | None = None,
        step: int = 0,
    ) -> None:
        """Add the mask losses of P matched rows.

        Args:
            sums, suffix, step: as in :meth:`frame`.
            logits: (P, H, W) float32 on the grid of the targets.
            targets: (P, H, W) bool.
            valid: (P, H, W) bool, cells that count; None for all.
        """
        focal, dice = mask_losses(logits, targets, valid)
        factor = self.future_discount**step
        sums.add(f"loss_mask{suffix}", focal.sum() * (self.weight_mask * factor))
        sums.add(f"loss_dice{suffix}", dice.sum() * (self.weight_dice * factor))

    def flow(
        self,
        sums: LossSums,
        suffix: str,
        flow: torch.Tensor,
        label: torch.Tensor,
        valid: torch.Tensor | None,
        step: int,
    ) -> None:
        """Add the loss of a flow, to be averaged over the cells of all steps that have a label.

        Args:
            sums, suffix, step: as in :meth:`frame`.
            flow: (B, 2, H, W) float32 in cells of the label.
            label: (B, 2, H, W) in cells, 255 where there is none.
            valid: (B, H, W) bool, cells that count; None for all.
        """
        known = (label != IGNORED_FLOW).all(dim=1)
        if valid is not None:
            known = known & valid
        wanted = torch.where(known[:, None], label, 0.0)
        loss = F.smooth_l1_loss(flow, wanted, reduction="none").sum(dim=1) * known
        factor = self.weight_flow * self.future_discount**step
        sums.add_to_mean("loss_flow", suffix, loss.sum() * factor, known.sum())

    def motion(
        self,
        sums: LossSums,
        suffix: str,
        motion: torch.Tensor,
        wanted: torch.Tensor,
        reach: torch.Tensor,
        step: int,
    ) -> None:
        """Add the loss of rigid motions since the present, to be averaged over the known ones.

        Args:
            sums, suffix, step: as in :meth:`frame`.
            motion: (P, 3) float32 displacement in cells and turn in radians.
            wanted: (P, 3) the same, NaN where it is not known.
            reach: (P,) what a turn moves by its angle, cells.
        """
        known = wanted.isfinite().all(dim=1)
        error = torch.where(known[:, None], motion - wanted, 0.0)
        error = torch.cat([error[:, :2], error[:, 2:] * reach[:, None]], dim=1)
        loss = F.smooth_l1_loss(error, torch.zeros_like(error), beta=_CLOSE, reduction="sum")
        factor = self.weight_motion * self.future_discount**step
        sums.add_to_mean("loss_motion", suffix, loss * factor, known.sum())

    def consistency(
        self, sums: LossSums, suffix: str, logits: torch.Tensor, warped: torch.Tensor, step: int
    ) -> None:
        """Add 1 - soft IoU of masks and of those of the step before, moved by the flow.

        Only cells count where one of them exceeds 0.1. The loss is the mean over the rows of all
        steps.

        Args:
            sums, suffix, step: as in :meth:`frame`.
            logits: (P, h, w) float32.
            warped: (P, h, w) probabilities; the flow has a gradient, the masks before have none.
        """
        p, before = logits.flatten(1).sigmoid(), warped.flatten(1)
        seen = ((p > _VISIBLE) | (before > _VISIBLE)).to(p.dtype)
        both = (p * before * seen).sum(dim=1)
        either = ((p + before - p * before) * seen).sum(dim=1)
        # Masks that are nowhere agree.
        loss = torch.where(either > 0, 1 - both / either.clamp(min=_VISIBLE), 0.0)
        factor = self.weight_consistency * self.future_discount**step
        sums.add_to_mean("loss_consistency", suffix, loss.sum() * factor, len(loss))

    def semantic(
        self,
        sums: LossSums,
        suffix: str,
        logits: torch.Tensor,
        labels: torch.Tensor,
        valid: torch.Tensor | None,
        step: int,
    ) -> None:
        """Add the weighted cross-entropy of the hardest cells of every frame, to be averaged.

        Args:
            sums, suffix, step: as in :meth:`frame`.
            logits: (B, classes, H, W) on the grid of the labels.
            labels: (B, H, W) int64.
            valid: (B, H, W) bool, cells that count; None for all.

        Raises:
            ValueError: the number of class weights differs from that of the classes.
        """
        if len(self.semantic_class_weights) != logits.shape[1]:
            raise ValueError(
                f"semantic_class_weights has {len(self.semantic_class_weights)} numbers for "
                f"{logits.shape[1]} semantic classes"
            )
        weights = logits.new_tensor(self.semantic_class_weights, dtype=torch.float32)
        loss = F.cross_entropy(logits.float(), labels, weights, reduction="none")
        if valid is not None:
            loss = loss * valid
        loss = loss.flatten(1)
        hardest = max(int(loss.shape[1] * self.semantic_hardest), 1)
        total = loss.topk(hardest, dim=1).values.sum()
        factor = self.weight_semantic * self.future_discount**step
        sums.add_to_mean("loss_semantic", suffix, total * factor, len(loss) * hardest)


class LossSums:
    """Losses of a batch of clips, collected frame by frame.

    Attributes:
        count: targets and disappeared tracks so far.
    """

    def __init__(self) -> None:
        self.count = 0
        self._sums: dict[str, torch.Tensor] = {}
        self._parts: dict[str, dict[str, torch.Tensor]] = {}
        self._counts: dict[str, int | torch.Tensor] = {}

    def add(self, name: str, value: torch.Tensor) -> None:
        """A sum over targets, to be divided by their number."""
        self._sums[name] = value

    def add_to_mean(
        self, name: str, suffix: str, value: torch.Tensor, count: int | torch.Tensor
    ) -> None:
        """A sum over ``count`` things, to be divided by their number at all steps.

        Args:
            name: of the loss.
            suffix: of the step.
            value: () sum, discounted.
            count: of the things, an int or a () tensor.
        """
        self._parts.setdefault(name, {})[suffix] = value
        self._counts[name] = self._counts.get(name, 0) + count

    def losses(self, device: torch.device) -> dict[str, torch.Tensor]:
        """All losses by name, sums divided by their number, at least 1."""
        count = average_count(self.count, device)
        losses = {name: value / count for name, value in self._sums.items()}
        for name, parts in self._parts.items():
            count = average_count(int(self._counts[name]), device)
            losses |= {f"{name}{suffix}": value / count for suffix, value in parts.items()}
        return losses
