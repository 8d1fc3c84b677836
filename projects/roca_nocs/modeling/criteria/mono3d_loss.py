"""Losses of monocular 3D boxes; pure functions.

Rows are anchors or proposals, in any leading dimensions (...). A row that its mask leaves out
changes neither a value nor a gradient, whatever stands in it, and a loss over no rows is 0,
connected to the graph. Half precision is computed in float32.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch.nn import functional as F

from roca_nocs.geometry.cuboids import box_corners
from roca_nocs.geometry.projection import back_project_points

BETA = 0.5
"""Where the smooth L1 distance turns from d^2 / (2 beta) to |d| - beta / 2."""

LEAST_UNCERTAINTY = 0.01


class PosedBoxes(NamedTuple):
    """3D boxes as the image shows them.

    Attributes:
        center_2d: (..., 2), projected centre at the network's resolution, pixels.
        depth: (...), projective depth of the centre, metres.
        dimensions: (..., 3), width, height, length, metres.
        rotation: (..., 3, 3), box axes to the camera.
    """

    center_2d: torch.Tensor
    depth: torch.Tensor
    dimensions: torch.Tensor
    rotation: torch.Tensor


def anchor_box_loss(
    deltas: torch.Tensor,
    targets: torch.Tensor,
    labels: torch.Tensor,
    num_sampled: int,
    *,
    beta: float = BETA,
    iou: torch.Tensor | None = None,
) -> torch.Tensor:
    """Smooth L1 distance of the deltas of positive anchors, summed over the batch.

    Args:
        deltas, targets: (B, N, 4).
        labels: (B, N), 1 positive, 0 negative, -1 not drawn.
        num_sampled: anchors drawn in each image; the sum is divided by it and by B.
        beta: see ``BETA``.
        iou: (B, N) weights of the anchors, for objectness that predicts the IoU.
    """
    values = _smooth_l1(deltas, targets, (labels == 1)[..., None], beta).sum(dim=-1)
    if iou is not None:
        values = values * torch.where(labels == 1, iou, 0.0)
    return values.sum() / (num_sampled * len(labels))


def objectness_loss(
    logits: torch.Tensor,
    labels: torch.Tensor,
    num_sampled: int,
    *,
    iou: torch.Tensor | None = None,
) -> torch.Tensor:
    """Binary cross-entropy of the drawn anchors, summed over the batch.

    Args:
        logits: (B, N).
        labels, num_sampled: as of :func:`anchor_box_loss`.
        iou: (B, N), to be predicted instead of the label; it also weighs the anchors, so that
            those without overlap do not count (Cube R-CNN).
    """
    drawn = labels >= 0
    wanted = (labels == 1).to(logits.dtype) if iou is None else torch.where(drawn, iou, 0.0)
    safe = _full_precision(torch.where(drawn, logits, 0.0))
    values = F.binary_cross_entropy_with_logits(safe, wanted.to(safe), reduction="none")
    values = torch.where(drawn, values, 0.0)
    if iou is not None:
        values = values * wanted
    return values.sum() / (num_sampled * len(labels))


def box3d_regression_loss(
    pred: torch.Tensor,
    target: torch.Tensor,
    mask: torch.Tensor,
    normalizer: torch.Tensor | float,
    *,
    beta: float = BETA,
    uncertainty: torch.Tensor | None = None,
) -> torch.Tensor:
    """Smooth L1 distance of encoded boxes, summed over channels and rows.

    Args:
        pred, target: (..., D), for the class of the ground truth.
        mask: (...) bool: foreground with a usable 3D box.
        normalizer: divisor, at least 1 is taken: the number of valid proposals of the batch,
            foreground or not, which gives every row the same weight in every batch.
        beta: see ``BETA``.
        uncertainty: (...), weighs the rows (:func:`confidence_weight`).
    """
    values = _smooth_l1(pred, target, mask[..., None], beta).sum(dim=-1)
    return _reduce(values, mask, normalizer, uncertainty)


def yaw_losses(
    logits: torch.Tensor,
    residual: torch.Tensor,
    target_bin: torch.Tensor,
    target_residual: torch.Tensor,
    mask: torch.Tensor,
    normalizer: torch.Tensor | float,
    *,
    beta: float = BETA,
    uncertainty: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Smooth L1 distance of the residual and cross-entropy of the bin, summed over rows.

    Args:
        logits: (..., Q), for the class of the ground truth.
        residual: (...), for the class and the bin of the ground truth.
        target_bin: (...) int64 in [0, Q) where the mask is set.
        target_residual: (...).
        mask, normalizer, beta, uncertainty: as of :func:`box3d_regression_loss`.

    Returns:
        The two losses, in that order.
    """
    distance = _smooth_l1(residual, target_residual, mask, beta)
    safe = _full_precision(torch.where(mask[..., None], logits, 0.0))
    bins = torch.where(mask, target_bin, 0)
    entropy = F.cross_entropy(safe.flatten(0, -2), bins.flatten(), reduction="none")
    return (
        _reduce(distance, mask, normalizer, uncertainty),
        _reduce(entropy.view(mask.shape), mask, normalizer, uncertainty),
    )


def category_loss(logits: torch.Tensor, category: torch.Tensor) -> torch.Tensor:
    """Mean cross-entropy over the rows that are neither padding nor ignored.

    Args:
        logits: (..., C + 1), background last.
        category: (...) int64 in [0, C], C for background; -1 for padding or ignored.
    """
    mask = category >= 0
    safe = _full_precision(torch.where(mask[..., None], logits, 0.0))
    wanted = category.clamp(min=0).flatten()
    values = F.cross_entropy(safe.flatten(0, -2), wanted, reduction="none").view(mask.shape)
    return _reduce(values, mask, mask.sum())


def confidence_weight(uncertainty: torch.Tensor) -> torch.Tensor:
    """Factor sqrt(2) exp(-s) of the losses of rows with uncertainty s (...), at least 0.01.

    exp(-s) is the confidence of the 3D box (Lu et al., GUPNet, ICCV 2021; Cube R-CNN).
    """
    return math.sqrt(2) * box_confidence(uncertainty)


def box_confidence(uncertainty: torch.Tensor) -> torch.Tensor:
    """exp(-s) in (0, 1) of s (...), taken as at least 0.01."""
    return (-_full_precision(uncertainty).clamp(min=LEAST_UNCERTAINTY)).exp()


def uncertainty_loss(
    uncertainty: torch.Tensor, mask: torch.Tensor, normalizer: torch.Tensor | float
) -> torch.Tensor:
    """Sum of s over the rows (...) of the mask, which keeps the weights of the losses up."""
    values = _full_precision(uncertainty).clamp(min=LEAST_UNCERTAINTY)
    return _reduce(torch.where(mask, values, 0.0), mask, normalizer)


def disentangled_losses(
    pred: PosedBoxes,
    gt: PosedBoxes,
    projection: torch.Tensor,
    mask: torch.Tensor,
    *,
    ordered: bool = False,
    inverse_depth: bool = False,
    uncertainty: torch.Tensor | None = None,
) -> dict[str, torch.Tensor]:
    """Distances of corners with one group of numbers predicted at a time (Simonelli et al., 2019).

    The box of a group takes that group from the prediction and all else from the ground truth. For
    ``xy``, ``z`` and ``dims`` its distance is the mean over 8 x 3 coordinates of the absolute
    difference to the corners of the ground truth. For ``pose``, and for ``joint`` (everything
    predicted), it is the symmetric Chamfer distance of the two sets of corners, L1 norms averaged
    over each set and added, about six times as large. It does not tell front from back.

    Args:
        pred, gt: boxes of the same rows.
        projection: (..., 3, 4) at the network's resolution.
        mask: (...) bool: foreground with a usable 3D box.
        ordered: corner by corner also for ``pose`` and ``joint``, which learns the heading.
        inverse_depth: multiply rows by 1 / log(max(depth, e)).
        uncertainty: (...), weighs the rows (:func:`confidence_weight`).

    Returns:
        ``loss_dims``, ``loss_xy``, ``loss_z``, ``loss_pose``, ``loss_joint``, and with uncertainty
        ``loss_uncertainty``: means over the rows of the mask that are finite.
    """
    finite = mask.clone()
    for part in (*pred, *gt, *([] if uncertainty is None else [uncertainty])):
        numbers = math.prod(part.shape[mask.dim() :])
        finite &= part.detach().isfinite().reshape(*mask.shape, numbers).all(dim=-1)
    pred = PosedBoxes(*(_full_precision(part[finite]) for part in pred))
    gt = PosedBoxes(*(_full_precision(part[finite]) for part in gt))
    projection = _full_precision(projection.expand(*mask.shape, 3, 4)[finite])
    target = _corners(gt, projection)

    distances = {
        "loss_dims": _corner_distance(gt._replace(dimensions=pred.dimensions), projection, target),
        "loss_xy": _corner_distance(gt._replace(center_2d=pred.center_2d), projection, target),
        "loss_z": _corner_distance(gt._replace(depth=pred.depth), projection, target),
    }
    unordered = _corner_distance if ordered else _chamfer_distance
    distances["loss_pose"] = unordered(gt._replace(rotation=pred.rotation), projection, target)
    distances["loss_joint"] = unordered(pred, projection, target)
    weight = torch.ones_like(gt.depth)
    if inverse_depth:
        weight = weight / gt.depth.clamp(min=math.e).log()
    if uncertainty is not None:
        weight = weight * confidence_weight(uncertainty[finite])
    losses = {name: _finite_mean(values * weight) for name, values in distances.items()}
    if uncertainty is not None:
        values = _full_precision(uncertainty[finite]).clamp(min=LEAST_UNCERTAINTY)
        losses["loss_uncertainty"] = _finite_mean(values)
    return losses


def _corners(boxes: PosedBoxes, projection: torch.Tensor) -> torch.Tensor:
    center = back_project_points(boxes.center_2d[:, None], boxes.depth[:, None], projection)
    return box_corners(center.squeeze(1), boxes.dimensions, boxes.rotation)


def _corner_distance(
    boxes: PosedBoxes, projection: torch.Tensor, target: torch.Tensor
) -> torch.Tensor:
    return (_corners(boxes, projection) - target).abs().mean(dim=(1, 2))


def _chamfer_distance(
    boxes: PosedBoxes, projection: torch.Tensor, target: torch.Tensor
) -> torch.Tensor:
    corners = _corners(boxes, projection)
    distances = (corners[:, :, None] - target[:, None]).abs().sum(dim=-1)
    return distances.amin(dim=1).mean(dim=1) + distances.amin(dim=2).mean(dim=1)


def _finite_mean(values: torch.Tensor) -> torch.Tensor:
    finite = values.detach().isfinite()
    return torch.where(finite, values, 0.0).sum() / finite.sum().clamp(min=1)


def _smooth_l1(
    pred: torch.Tensor, target: torch.Tensor, mask: torch.Tensor, beta: float
) -> torch.Tensor:
    """Elementwise, 0 outside the mask (which broadcasts)."""
    # Taken out before the difference is squared: infinities outside the mask have no gradient.
    difference = torch.where(mask, _full_precision(pred) - _full_precision(target), 0.0)
    return F.smooth_l1_loss(difference, torch.zeros_like(difference), reduction="none", beta=beta)


def _reduce(
    values: torch.Tensor,
    mask: torch.Tensor,
    normalizer: torch.Tensor | float,
    uncertainty: torch.Tensor | None = None,
) -> torch.Tensor:
    if uncertainty is not None:
        values = values * confidence_weight(torch.where(mask, uncertainty, 0.0))
    total = torch.where(mask, values, 0.0).sum()
    return total / torch.as_tensor(normalizer, device=total.device).clamp(min=1)


def _full_precision(values: torch.Tensor) -> torch.Tensor:
    return values.to(torch.promote_types(values.dtype, torch.float32))
