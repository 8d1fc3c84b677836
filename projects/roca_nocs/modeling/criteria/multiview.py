"""Consistency of the NOCS predictions of several views of a scene, without labels.

R detections and M pixels of all views together, P pairs of views, A = 3 axes, B bins (1 for
coordinates that are regressed).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from roca_nocs.geometry.failures import FailureReason
from roca_nocs.geometry.grouped_random import rank_in_group
from roca_nocs.geometry.ransac import draw_samples
from roca_nocs.geometry.similarity import umeyama

_EPSILON = 1e-5
_MIN_SUBSET = 4


def group_means(values: torch.Tensor, groups: torch.Tensor, count: int) -> torch.Tensor:
    """Mean (count,) of the values (M,) of each group; 0 for a group without any."""
    sums = values.new_zeros(count).index_add(0, groups, values)
    return sums / torch.bincount(groups, minlength=count).clamp(min=1)


def pixelwise_consistency(
    first: torch.Tensor,
    second: torch.Tensor,
    pairs: torch.Tensor,
    num_pairs: int,
    partners: tuple[torch.Tensor, torch.Tensor],
) -> tuple[torch.Tensor, torch.Tensor]:
    """Distance of associated predictions, relative to that of random ones of the same views.

    Per pair, with d the mean over pixels and bins of the Euclidean distance over the axes, the loss
    is d(a, b) / (d(a, b') + d(a', b) + 1e-5), where the dash marks permuted partners (ganocs).
    Dividing keeps predictions from agreeing by being the same everywhere.

    Args:
        first, second: (M, A, B), bin logits or coordinates at the associated pixels of both views.
        pairs: (M,) int64, pair of views of each association.
        num_pairs: P.
        partners: two (M,) int64 permutations within pairs, for ``second`` and for ``first``.

    Returns:
        Losses (P,), and reasons (P,) int64: DEGENERATE_LOSS where all predictions of a pair are the
        same, NO_ASSOCIATION where it has none; the loss is then 0.
    """

    def distance(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        per_pixel = torch.linalg.vector_norm(a - b, dim=1).mean(dim=1)
        return group_means(per_pixel, pairs, num_pairs)

    positive = distance(first, second)
    negative = distance(first, second[partners[0]]) + distance(first[partners[1]], second)
    present = torch.bincount(pairs, minlength=num_pairs) > 0
    reasons = torch.where(positive + negative > 0, 0, int(FailureReason.DEGENERATE_LOSS))
    reasons = torch.where(present, reasons, int(FailureReason.NO_ASSOCIATION))
    return positive / (negative + _EPSILON), reasons


@dataclass(frozen=True)
class Alignments:
    """Similarities from NOCS to camera points, of R detections; all detached but ``residuals``.

    Attributes:
        residuals: (R,) metres, weighted mean distance of points and transformed coordinates; 0
            where there is none.
        poses: (R, 4, 4), scale within the upper left block; identity where there is none.
        reasons: (R,) int64, :class:`FailureReason`.
    """

    residuals: torch.Tensor
    poses: torch.Tensor
    reasons: torch.Tensor


def align_to_depth(
    coordinates: torch.Tensor,
    points: torch.Tensor,
    detections: torch.Tensor,
    count: int,
    *,
    weights: torch.Tensor | None = None,
    hypotheses: int = 100,
    share: float = 0.05,
    generator: torch.Generator | None = None,
) -> Alignments:
    """How far predicted coordinates are from any similar copy of the points seen there.

    Each hypothesis is the similarity of a random subset of the pixels of a detection, drawn with
    replacement; the one of smallest mean distance over all its pixels is taken, as a constant.
    A rigid motion would not do: the distance could vanish only for objects of one metre. With
    weights, fits and means are weighted; each weight enters once (ganocs squares those of the fit).

    Args:
        coordinates: (M, 3), model frame, centred.
        points: (M, 3), camera frame, metres.
        detections: (M,) int64, ascending.
        count: R.
        weights: (M,), not negative, e.g. the probability of the mask; None for equal ones.
        hypotheses: number of subsets per detection.
        share: of the pixels of a detection in a subset; at least four are drawn.
        generator: on the device; None takes torch's global one.

    Returns:
        The alignments; gradients of the residuals reach ``coordinates``. Reasons: TOO_FEW_POINTS
        (fewer than three with a weight), DEGENERATE_GEOMETRY (no hypothesis has a positive scale).
    """
    if weights is not None:
        used = weights > 0
        coordinates, points, detections, weights = (
            each[used] for each in (coordinates, points, detections, weights)
        )
    counts = torch.bincount(detections, minlength=count)
    enough = counts >= 3
    if not len(detections):
        reasons = torch.full_like(counts, int(FailureReason.TOO_FEW_POINTS))
        poses = torch.eye(4, dtype=points.dtype, device=points.device).repeat(count, 1, 1)
        return Alignments(coordinates.sum() * 0 + points.new_zeros(count), poses, reasons)
    # Detections side by side, (R, Q, 3), padded to the largest.
    ranks = rank_in_group(detections)
    places = (detections, ranks)
    shape = (count, int(counts.max()))
    valid = torch.zeros(shape, dtype=torch.bool, device=points.device).index_put(
        places, torch.ones_like(ranks, dtype=torch.bool)
    )
    if weights is None:
        factors, totals = valid, counts.clamp(min=1)
    else:
        factors = weights.new_zeros(shape).index_put(places, weights)
        totals = factors.sum(dim=1) + _EPSILON
    source, target = (
        each.new_zeros(*shape, 3).index_put(places, each) for each in (coordinates, points)
    )
    with torch.no_grad():
        scale, rotation, translation, usable = _hypotheses(
            source, target, valid, factors, hypotheses, share, generator
        )
        moved = scale[..., None, None] * (source[:, None] @ rotation.mT) + translation[:, :, None]
        distances = (moved - target[:, None]).norm(dim=-1)
        sums = torch.where(valid[:, None], distances * factors[:, None], 0).sum(dim=-1)
        sums = torch.where(usable, sums, float("inf"))
        best = sums.argmin(dim=1)
        rows = torch.arange(count, device=points.device)
        solved = usable[rows, best] & enough
        scale, rotation, translation = (each[rows, best] for each in (scale, rotation, translation))
        poses = _poses(scale, rotation, translation, solved)
    moved = source @ poses[:, :3, :3].mT + poses[:, None, :3, 3]
    distances = torch.linalg.vector_norm(moved - target, dim=-1)
    residuals = torch.where(valid & solved[:, None], distances * factors, 0).sum(dim=1) / totals
    reasons = torch.where(solved, 0, int(FailureReason.DEGENERATE_GEOMETRY))
    reasons = torch.where(enough, reasons, int(FailureReason.TOO_FEW_POINTS))
    return Alignments(residuals, poses, reasons)


def _poses(
    scale: torch.Tensor, rotation: torch.Tensor, translation: torch.Tensor, solved: torch.Tensor
) -> torch.Tensor:
    """(R, 4, 4), the identity where there is no solution."""
    poses = torch.eye(4, dtype=scale.dtype, device=scale.device).repeat(len(scale), 1, 1)
    poses[:, :3, :3] = scale[:, None, None] * rotation
    poses[:, :3, 3] = translation
    identity = torch.eye(4, dtype=scale.dtype, device=scale.device)
    return torch.where(solved[:, None, None], poses, identity)


def _hypotheses(
    source: torch.Tensor,
    target: torch.Tensor,
    valid: torch.Tensor,
    weights: torch.Tensor,
    hypotheses: int,
    share: float,
    generator: torch.Generator | None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Scale (R, H), rotation (R, H, 3, 3), translation (R, H, 3), usable (R, H) of random subsets
    of the valid points (R, Q, 3), by their weights (R, Q)."""
    sizes = (valid.sum(dim=1) * share).long().clamp(min=_MIN_SUBSET)
    samples = draw_samples(valid, hypotheses, int(sizes.max()), generator)
    index = samples.flatten(1)[..., None].expand(-1, -1, 3)
    subsets = [each.gather(1, index).reshape(-1, samples.shape[2], 3) for each in (source, target)]
    used = torch.arange(samples.shape[2], device=source.device) < sizes[:, None, None]
    used = used * weights.gather(1, samples.flatten(1)).unflatten(1, samples.shape[1:])
    fit = umeyama(subsets[0], subsets[1], used.flatten(0, 1))
    scale, rotation, translation, reasons = (
        each.unflatten(0, samples.shape[:2])
        for each in (fit.scale, fit.rotation, fit.translation, fit.reasons)
    )
    return scale, rotation, translation, (reasons == FailureReason.OK) & (scale > 0)
