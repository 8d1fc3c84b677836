"""Scalar losses as pure functions: masked, weighted per instance, zero for empty input.

N instances; ``weights`` (N,) are one number per instance (class weights), None for none. Every
loss is a weighted mean in which the weights are also in the denominator, and is 0, connected to
the graph, where that denominator is 0. Formulas: ROCA (CVPR 2022) and its published training code.
"""

from __future__ import annotations

import torch
from torch.nn import functional as F

from roca_nocs.geometry.symmetry import symmetry_rotations

_EPSILON = 1e-5


def weighted_mean(values: torch.Tensor, weights: torch.Tensor | None = None) -> torch.Tensor:
    """sum(values w) / sum(w), weights repeated over all trailing dimensions.

    Args:
        values: (N, ...).
        weights: (N,), not negative, or None for the plain mean.

    Returns:
        Scalar; 0 for no values and for weights that sum to 0.
    """
    if weights is None:
        return values.sum() / max(values.numel(), 1)
    expanded = _per_instance(weights, values).expand_as(values)
    total = expanded.sum()
    return (values * expanded).sum() / torch.where(total > 0, total, 1.0)


def l1(
    pred: torch.Tensor, target: torch.Tensor, weights: torch.Tensor | None = None
) -> torch.Tensor:
    """Weighted mean of |pred - target|, both (N, ...)."""
    return weighted_mean((pred - target).abs(), weights)


def smooth_l1(
    pred: torch.Tensor, target: torch.Tensor, weights: torch.Tensor | None = None
) -> torch.Tensor:
    """Weighted mean of the smooth L1 distance with beta = 1, both (N, ...)."""
    return weighted_mean(F.smooth_l1_loss(pred, target, reduction="none"), weights)


def l2(
    pred: torch.Tensor, target: torch.Tensor, weights: torch.Tensor | None = None
) -> torch.Tensor:
    """Weighted mean of the Euclidean distance of vectors (N, D)."""
    return weighted_mean((pred - target).norm(dim=-1), weights)


def masked_l1(
    pred: torch.Tensor,
    target: torch.Tensor,
    mask: torch.Tensor,
    weights: torch.Tensor | None = None,
    *,
    per_instance: bool = False,
) -> torch.Tensor:
    """L1 distance summed over channels, averaged over the pixels of the mask.

    Args:
        pred, target: (N, K, H, W).
        mask: (N, 1, H, W), bool or 0/1.
        weights: (N,) or None.
        per_instance: plain mean of the averages of the instances (0 for an empty mask) instead of
            one average over all pixels; weights cancel out.
    """
    mask = mask.to(pred.dtype)
    return _masked_average((pred * mask - target * mask).abs(), mask, weights, per_instance)


def masked_log_l1(
    pred: torch.Tensor,
    target: torch.Tensor,
    mask: torch.Tensor,
    weights: torch.Tensor | None = None,
) -> torch.Tensor:
    """ln(|pred - target| + 1/2) in the place of the distance of :func:`masked_l1`."""
    mask = mask.to(pred.dtype)
    distance = (pred * mask - target * mask).abs()
    return _masked_average((distance + 0.5).log() * mask, mask, weights)


def inverse_huber(
    pred: torch.Tensor,
    target: torch.Tensor,
    mask: torch.Tensor,
    weights: torch.Tensor | None = None,
    *,
    per_instance: bool = False,
) -> torch.Tensor:
    """Inverse Huber (berHu) distance, averaged over the pixels of the mask.

    With d the difference and c = 0.2 max |d| over the whole batch (a constant): |d| below c,
    (d^2 + c^2) / (2 c) from there on.

    Args:
        pred, target: (N, K, H, W).
        mask: (N, 1, H, W), bool or 0/1.
        weights: (N,) or None.
        per_instance: as in :func:`masked_l1`.
    """
    mask = mask.to(pred.dtype)
    distance = (pred * mask - target * mask).abs()
    if distance.numel() == 0:
        return distance.sum()
    threshold = 0.2 * distance.detach().max()
    # A perfect prediction has threshold 0; every distance is then 0 as well.
    threshold = torch.where(threshold > 0, threshold, 1.0)
    quadratic = (distance.square() + threshold.square()) / (2 * threshold)
    values = torch.where(distance < threshold, distance, quadratic)
    return _masked_average(values, mask, weights, per_instance)


def masked_cosine_distance(
    pred: torch.Tensor,
    target: torch.Tensor,
    mask: torch.Tensor,
    weights: torch.Tensor | None = None,
) -> torch.Tensor:
    """1 - cosine of the angle between vectors (N, K, H, W), averaged over mask (N, 1, H, W)."""
    mask = mask.to(pred.dtype)
    distance = 1 - F.cosine_similarity(pred, target, dim=1)[:, None]
    return _masked_average(distance * mask, mask, weights)


def mask_bce(
    logits: torch.Tensor, target: torch.Tensor, weights: torch.Tensor | None = None
) -> torch.Tensor:
    """Weighted mean over all pixels of the binary cross-entropy.

    Args:
        logits: (N, 1, H, W), before the sigmoid.
        target: (N, 1, H, W), bool or 0/1.
        weights: (N,) or None.
    """
    target = target.to(logits.dtype)
    values = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    return weighted_mean(values, weights)


def mask_iou(
    probabilities: torch.Tensor, target: torch.Tensor, weights: torch.Tensor | None = None
) -> torch.Tensor:
    """Weighted mean over instances of 1 - soft intersection over union; 0 for an empty target.

    Args:
        probabilities: (N, 1, H, W), after the sigmoid.
        target: (N, 1, H, W), bool or 0/1.
        weights: (N,) or None.
    """
    pred, target = probabilities.flatten(1), target.flatten(1).to(probabilities.dtype)
    intersection = (pred * target).sum(dim=1)
    union = (pred + target - pred * target).sum(dim=1)
    present = target.any(dim=1).to(pred.dtype)
    return weighted_mean(present - intersection / union.clamp(min=_EPSILON), weights)


def rotation_angle(
    pred: torch.Tensor, target: torch.Tensor, weights: torch.Tensor | None = None
) -> torch.Tensor:
    """Weighted mean angle in radians between rotations (N, 3, 3).

    The cosine is clipped to +-0.99: smaller angles than 8 degrees give no gradient.
    """
    trace = (pred * target).sum(dim=(-2, -1))
    return weighted_mean(((trace - 1) / 2).clamp(-0.99, 0.99).acos(), weights)


def symmetric_rotation_target(
    pred: torch.Tensor, target: torch.Tensor, symmetries: torch.Tensor
) -> torch.Tensor:
    """Of all rotations that pose a symmetric model alike, the nearest to the prediction (L1).

    Args:
        pred, target: (N, 3, 3).
        symmetries: (N,) int64, symmetry ids (``geometry.symmetry``).

    Returns:
        (N, 3, 3), without gradient.
    """
    pred, target = pred.detach(), target.detach()
    candidates = target[:, None] @ symmetry_rotations(symmetries, target.dtype)
    best = (candidates - pred[:, None]).abs().sum(dim=(-2, -1)).argmin(dim=1)
    return candidates[torch.arange(len(best), device=best.device), best]


def symmetric_nocs_target(
    pred: torch.Tensor,
    points: torch.Tensor,
    rotation: torch.Tensor,
    scale: torch.Tensor,
    mask: torch.Tensor,
    symmetries: torch.Tensor,
) -> torch.Tensor:
    """Model coordinates under the symmetry that brings them nearest to the prediction (L1).

    With S of the symmetry group, the pose (rotation S, scale) shows the same object, and the
    coordinates of a point p are diag(1 / scale) S^T rotation^T p.

    Args:
        pred: (N, 3, G, G), predicted model coordinates.
        points: (N, 3, G, G), camera frame, relative to the translation of the object, metres.
        rotation: (N, 3, 3).
        scale: (N, 3).
        mask: (N, 1, G, G), bool or 0/1: the pixels that count.
        symmetries: (N,) int64, symmetry ids.

    Returns:
        (N, 3, G, G), without gradient; not masked.
    """
    pred, mask = pred.detach().flatten(2), mask.flatten(2).to(pred.dtype)
    turned = rotation.mT @ points.detach().flatten(2)
    group = symmetry_rotations(symmetries, pred.dtype).mT
    errors = []
    # One element of the group at a time: 36 copies of all coordinates would not fit a cache.
    for element in group.unbind(dim=1):
        nocs = element @ turned / scale[..., None]
        errors.append(((nocs - pred).abs() * mask).sum(dim=(1, 2)))
    best = torch.stack(errors, dim=1).argmin(dim=1)
    chosen = group[torch.arange(len(best), device=best.device), best]
    return (chosen @ turned / scale[..., None]).reshape(points.shape)


def class_weights_from_counts(counts: torch.Tensor) -> torch.Tensor:
    """Class weights 1 / ln(frequency), relative to the largest.

    Args:
        counts: (C,) training annotations of each class.

    Returns:
        (C + 1,) float32: background (weight 1), then the classes. A class that occurs once is
        taken as occurring twice (ln 1 = 0); one that never occurs gets 1 and does not
        influence the others.
    """
    counts = counts.to(torch.float64)
    values = counts.clamp(min=2).log().reciprocal()
    seen = counts > 0
    largest = torch.where(seen, values, 0.0).max() if len(values) else values.new_tensor(1.0)
    largest = torch.where(largest > 0, largest, 1.0)
    values = torch.where(seen, values / largest, 1.0)
    return torch.cat([values.new_ones(1), values]).float()


def select_class_weights(weights: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
    """Weight of each instance.

    Args:
        weights: (C + 1,), from :func:`class_weights_from_counts`.
        classes: (...) int64 in [0, C], C = background.

    Returns:
        (...).
    """
    return weights[(classes + 1) % len(weights)]


def cross_entropy(
    logits: torch.Tensor, classes: torch.Tensor, weights: torch.Tensor | None = None
) -> torch.Tensor:
    """Weighted mean cross-entropy of logits (R, C + 1) and classes (R,) int64."""
    return weighted_mean(F.cross_entropy(logits, classes, reduction="none"), weights)


def _per_instance(weights: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    return weights.reshape(-1, *[1] * (values.dim() - 1))


def _masked_average(
    values: torch.Tensor,
    mask: torch.Tensor,
    weights: torch.Tensor | None,
    per_instance: bool = False,
) -> torch.Tensor:
    """sum(w values) / max(sum(w mask), 1e-5); values are 0 outside the mask."""
    if per_instance:
        pixels = mask.flatten(1).sum(dim=1).clamp(min=_EPSILON)
        return weighted_mean(values.flatten(1).sum(dim=1) / pixels)
    if weights is not None:
        factor = _per_instance(weights, values)
        values, mask = values * factor, mask * factor
    return values.sum() / mask.sum().clamp(min=_EPSILON)
