"""Assignment of predictions to targets: k predictions for each target, image by image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from detectron2.utils.events import get_event_storage, has_event_storage
from scipy.optimize import linear_sum_assignment
from torch import nn

from roca_nocs.geometry.boxes import cxcywh_to_xyxy, elementwise_giou
from roca_nocs.modeling.criteria.target_checks import check_targets

Targets = Sequence[Mapping[str, torch.Tensor]]

_COST_CLASS_TYPES = ("focal_loss_cost", "ce_cost")


class Predictions(NamedTuple):
    """One supervised output of a detector for a batch of B images.

    Attributes:
        name: what errors call it, such as ``aux_outputs[1]``.
        logits: (B, Q, C) floating point.
        boxes: (B, Q, 4) cxcywh in [0, 1].
        k: predictions for each target.
        class_agnostic: all targets have label 0 here.
    """

    name: str
    logits: torch.Tensor
    boxes: torch.Tensor
    k: int
    class_agnostic: bool = False


class Matches(NamedTuple):
    """P matched pairs, (P,) int64 arrays on the host, sorted by the columns in the order output,
    image, target, query."""

    output: np.ndarray
    image: np.ndarray
    target: np.ndarray
    query: np.ndarray


class MixedMatcher(nn.Module):
    """Minimum-cost assignment of k queries to each target.

    The cost of a query with probability p of the target's class is
    cost_class * class cost + cost_bbox * L1 distance of cxcywh - cost_giou * GIoU, the class cost
    alpha (1 - p)^gamma (-log(p + 1e-8)) - (1 - alpha) p^gamma (-log(1 - p + 1e-8)), or -p of the
    softmax with ``cost_class_type="ce_cost"``.

    An image with n targets and Q queries uses k = max(1, min(k, floor(Q / (2 n)))); with n > Q all
    queries are matched. Images do not influence each other: costs exist within an image only.
    """

    def __init__(
        self,
        cost_class: float = 2.0,
        cost_bbox: float = 5.0,
        cost_giou: float = 2.0,
        cost_class_type: str = "focal_loss_cost",
        alpha: float = 0.25,
        gamma: float = 2.0,
    ) -> None:
        super().__init__()
        if cost_class_type not in _COST_CLASS_TYPES:
            raise ValueError(
                f"cost_class_type must be one of {_COST_CLASS_TYPES}, got {cost_class_type!r}"
            )
        self.cost_class = cost_class
        self.cost_bbox = cost_bbox
        self.cost_giou = cost_giou
        self.cost_class_type = cost_class_type
        self.alpha = alpha
        self.gamma = gamma

    @torch.no_grad()
    def forward(self, outputs: Sequence[Predictions], targets: Targets) -> Matches:
        """Match every output with the targets; all that the host needs reaches it in one copy.

        Args:
            outputs: the supervised outputs; the number of queries may differ between them.
            targets: per image ``labels`` (n,) int64 and ``boxes`` (n, 4) cxcywh in [0, 1].

        Returns:
            The pairs; images without targets have none.

        Raises:
            FloatingPointError: the cost of an output is NaN or infinite.
            ValueError: a label beyond the outputs' classes, or a box that is none.
        """
        counts = np.array([len(target["labels"]) for target in targets], dtype=np.int64)
        total = int(counts.sum())
        if total == 0 or not outputs:
            return Matches(*np.zeros((4, 0), dtype=np.int64))
        device = outputs[0].logits.device
        images = torch.from_numpy(np.repeat(np.arange(len(counts)), counts)).to(device)
        labels = torch.cat([target["labels"] for target in targets])
        boxes = torch.cat([target["boxes"] for target in targets]).float()
        num_classes = min(output.logits.shape[-1] for output in outputs)
        # Whether a label is a class is known on the host, after they have been used.
        usable = labels.clamp(0, num_classes - 1)
        with torch.autocast(device.type, enabled=False):
            costs = [self.costs(output, images, usable, boxes).flatten() for output in outputs]
            on_host = torch.cat([*costs, labels.float(), boxes.flatten()]).cpu().numpy()
        sizes = [*(total * output.logits.shape[1] for output in outputs), total]
        *costs_on_host, known_labels, known_boxes = np.split(on_host, np.cumsum(sizes))
        check_targets(counts, known_labels, known_boxes.reshape(total, 4), num_classes)
        pairs = []
        for number, flat in enumerate(costs_on_host):
            of_images = np.split(flat.reshape(total, -1), np.cumsum(counts)[:-1])
            for image, cost in enumerate(of_images):
                check_finite(cost, outputs[number].name, image)
                pairs.append(_assign(cost, outputs[number].k, number, image))
        return Matches(*np.concatenate(pairs, axis=1))

    def costs(
        self,
        output: Predictions,
        images: torch.Tensor,
        labels: torch.Tensor,
        boxes: torch.Tensor,
    ) -> torch.Tensor:
        """Costs of the N targets of a batch with the queries of their own images.

        Args:
            output: predictions of B images.
            images: (N,) int64 image of each target.
            labels: (N,) int64.
            boxes: (N, 4) float32 cxcywh in [0, 1].

        Returns:
            (N, Q) float32.
        """
        if output.class_agnostic:
            labels = torch.zeros_like(labels)
        if self.cost_class_type == "ce_cost":
            class_cost = -output.logits.float().softmax(dim=-1)[images, :, labels]
        else:
            p = output.logits[images, :, labels].float().sigmoid()
            positive = self.alpha * (1 - p).pow(self.gamma) * -(p + 1e-8).log()
            negative = (1 - self.alpha) * p.pow(self.gamma) * -(1 - p + 1e-8).log()
            class_cost = positive - negative
        predicted, wanted = output.boxes.float()[images], boxes[:, None]
        distance = torch.cdist(predicted, wanted, p=1).squeeze(dim=-1)
        giou = elementwise_giou(cxcywh_to_xyxy(predicted), cxcywh_to_xyxy(wanted))
        return self.cost_class * class_cost + self.cost_bbox * distance - self.cost_giou * giou


def _assign(cost: np.ndarray, k: int, output: int, image: int) -> np.ndarray:
    """(4, P) pairs of one output and image from its (n, Q) costs, sorted by target and query."""
    num_targets, num_queries = cost.shape
    if num_targets == 0:
        return np.zeros((4, 0), dtype=np.int64)
    k = max(1, min(k, num_queries // (2 * num_targets)))
    rows, queries = linear_sum_assignment(np.tile(cost, (k, 1)))
    matched = rows % num_targets
    order = np.lexsort((queries, matched))
    where = np.full_like(rows, output), np.full_like(rows, image)
    return np.stack([*where, matched[order], queries[order]]).astype(np.int64, copy=False)


def check_finite(cost: np.ndarray, name: str, image: int) -> None:
    """Raise FloatingPointError for costs that are not finite.

    Args:
        cost: any shape.
        name: of the output.
        image: of the batch.
    """
    if np.isfinite(cost).all():
        return
    when = f" at iteration {get_event_storage().iter}" if has_event_storage() else ""
    raise FloatingPointError(
        f"matching costs of {name!r} for image {image} of the batch{when} are NaN or infinite: its "
        "pred_logits or pred_boxes have diverged, or a target box is not finite; lower the "
        "learning rate, clip gradients or check the annotations"
    )
