"""Similarity transforms from point correspondences: Umeyama's solution, and RANSAC around it.

Source: S. Umeyama, Least-squares estimation of transformation parameters between two point
patterns, PAMI 1991. N instances of P points; target ~ scale * rotation @ source + translation.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from roca_nocs.geometry.failures import FailureReason
from roca_nocs.geometry.procrustes import project_to_rotation
from roca_nocs.geometry.ransac import MEMORY, best_models, draw_samples, stop_at_confidence

_SAMPLE_SIZE = 5
_INLIER_DISTANCE = 0.1
_SMALLEST_INLIER_RATIO = 0.1
_STOP_FRACTION = 1 / 100
# Times what rounding of the points can make of a singular value of their covariance.
_ROUNDING = 8
_TERMS = 18
_NEWTON_STEPS = 16
_CONVERGED = 1e-8
# Three standard deviations, where the residuals are normally distributed.
_CUT_OFF = 3 * 1.4826
_SMALLEST_WIDTH = 0.01


@dataclass(frozen=True)
class Similarity:
    """Transforms of N instances; identity, zeros and 1 where there is a reason.

    Attributes:
        rotation: (N, 3, 3).
        translation: (N, 3), unit of the target.
        scale: (N,), target units per source unit, positive.
        reasons: (N,) int64, :class:`~roca_nocs.geometry.failures.FailureReason`.
    """

    rotation: torch.Tensor
    translation: torch.Tensor
    scale: torch.Tensor
    reasons: torch.Tensor

    def failed_where(self, reasons: torch.Tensor) -> Similarity:
        """With these reasons (N,) first; rows without one keep their own."""
        reasons = torch.where(reasons == FailureReason.OK, self.reasons, reasons)
        failed = reasons != FailureReason.OK
        identity = torch.eye(3, dtype=self.rotation.dtype, device=self.rotation.device)
        return Similarity(
            torch.where(failed[:, None, None], identity, self.rotation),
            self.translation.masked_fill(failed[:, None], 0),
            self.scale.masked_fill(failed, 1),
            reasons,
        )


def umeyama(source: torch.Tensor, target: torch.Tensor, weights: torch.Tensor) -> Similarity:
    """The similarity with the smallest weighted sum of squared residuals.

    Computed in float64. Gradients reach all inputs and are finite; coplanar points are fine, and
    mirrored ones get the best proper rotation.

    Args:
        source: (N, P, 3).
        target: (N, P, 3).
        weights: (N, P), bool or not negative; zero switches a point off. Need not be normalised.

    Returns:
        In the dtype of ``source``. Reasons: TOO_FEW_POINTS below three points with a weight,
        DEGENERATE_GEOMETRY where the points leave a rotation or the scale open (on a line, equal).
    """
    with torch.autocast(source.device.type, enabled=False):
        # Sums along memory are the fast ones.
        x, y = (each.mT.contiguous().double() for each in (source, target))
        x_mean, y_mean, covariance, variance = _moments(x, y, weights.double())
        rotation = project_to_rotation(covariance)
        # trace(D S) of the paper: rotation and covariance share their singular vectors.
        scale = (rotation * covariance).sum(dim=(1, 2)) / torch.where(variance > 0, variance, 1.0)
        translation = _translation(rotation, scale, x_mean, y_mean)
    with torch.no_grad():
        # The points determine the rotation as far as they do not lie on a line, in either set.
        spans = torch.stack([variance, _variance(y, y_mean, weights)])
        sizes = torch.stack([x_mean, y_mean]).square().sum(dim=2) + spans
        rounding = (sizes * spans.flip(0)).sqrt().sum(dim=0) * torch.finfo(source.dtype).eps
        line = torch.linalg.svdvals(covariance)[:, 1] <= _ROUNDING * rounding
        few = (weights > 0).sum(dim=1) < 3
        reasons = torch.where(line, FailureReason.DEGENERATE_GEOMETRY, FailureReason.OK)
        reasons = reasons.masked_fill(few, FailureReason.TOO_FEW_POINTS)
    dtype = source.dtype
    solution = Similarity(rotation.to(dtype), translation.to(dtype), scale.to(dtype), reasons)
    return solution.failed_where(reasons)


def _moments(
    source: torch.Tensor, target: torch.Tensor, weights: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Of points (N, 3, P): weighted means (N, 3), covariance of target and source (N, 3, 3),
    variance of the source (N,)."""
    total = weights.sum(dim=1, keepdim=True)
    weights = (weights / torch.where(total > 0, total, 1.0))[:, None]
    source_mean, target_mean = (each @ weights.mT for each in (source, target))
    source, target = source - source_mean, target - target_mean
    weighted = source * weights
    covariance = target @ weighted.mT
    variance = (source * weighted).sum(dim=(1, 2))
    return source_mean.squeeze(2), target_mean.squeeze(2), covariance, variance


def _variance(points: torch.Tensor, mean: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    total = weights.sum(dim=1)
    squares = (points - mean[..., None]).square().sum(dim=1)
    return (squares * weights).sum(dim=1) / torch.where(total > 0, total, 1)


def _translation(
    rotation: torch.Tensor, scale: torch.Tensor, source_mean: torch.Tensor, mean: torch.Tensor
) -> torch.Tensor:
    return mean - scale[:, None] * (rotation @ source_mean[..., None]).squeeze(-1)


def _fast_rotation(matrix: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """What ``project_to_rotation`` gives, without singular values: many times faster.

    Source: F. L. Markley, Attitude determination using vector observations: a fast optimal matrix
    algorithm, 1993. The sum of the signed singular values is the largest root of a quartic, which
    Newton's method approaches from above.

    Args:
        matrix: (N, 3, 3) float64.

    Returns:
        rotation (N, 3, 3), and the sum of the signed singular values (N,); nan where the matrix
        determines the rotation poorly.
    """
    rows = matrix.unbind(dim=1)
    pairs = ((rows[1], rows[2]), (rows[2], rows[0]), (rows[0], rows[1]))
    cofactors = torch.stack([torch.linalg.cross(a, b) for a, b in pairs], dim=1)
    determinant = (rows[0] * cofactors[:, 0]).sum(dim=1)
    square = matrix.square().sum(dim=(1, 2))
    constant = 4 * cofactors.square().sum(dim=(1, 2))
    root = (3 * square).sqrt()
    previous = root
    for _ in range(_NEWTON_STEPS):
        previous = root
        excess = root.square() - square
        value = excess.square() - 8 * root * determinant - constant
        root = root - value / (4 * root * excess - 8 * determinant)
    half = (root.square() - square) / 2
    # (d1 + d2)(d2 + d3)(d3 + d1) of the singular values.
    divisor = half * root - determinant
    # The less the rotation is determined, the nearer is a second root and the slower are the steps.
    converged = (previous - root).abs() <= _CONVERGED * root
    divisor = torch.where(converged, divisor, torch.nan)
    rotation = (half + square)[:, None, None] * matrix + root[:, None, None] * cofactors
    rotation = (rotation - matrix @ matrix.mT @ matrix) / divisor[:, None, None]
    return rotation, torch.where(converged, root, torch.nan)


def umeyama_ransac(
    source: torch.Tensor,
    target: torch.Tensor,
    valid: torch.Tensor,
    *,
    rule: str = "corrected",
    refinements: int = 0,
    samples: torch.Tensor | None = None,
    generator: torch.Generator | None = None,
) -> Similarity:
    """Umeyama's solution over the points that agree with the best of many samples of five.

    Rule ``"corrected"`` (object-deformnet): a point agrees with a hypothesis of scale s within
    0.1 s d, d twice the largest distance of a source point from the mean; the hypothesis with the
    most inliers wins; at most 128 samples, fewer once a better one is unlikely (99 %).

    Rule ``"nocs"`` is the official evaluation of NOCS, kept to reproduce its numbers: residuals
    with the transposed rotation, the norm of all residuals as score, and a threshold of
    max(m_t / m_s, m_s / m_t), m the mean norms of the points. With millimetres, which it expects,
    nearly every point agrees, so that it is least squares over all points. Computed in float64.

    No gradient. Memory stays bounded whatever N and P are.

    Args:
        source: (N, P, 3), e.g. NOCS coordinates.
        target: (N, P, 3).
        valid: (N, P) bool; other points may hold anything.
        rule: of ``ALIGNMENT_RULES``.
        refinements: rounds of re-weighted least squares at the end (:func:`robust_weights`), which
            take away the pull of the wrong points that agree by chance; only with the corrected
            rule, which has none as published.
        samples: (N, I, 5) int64, positions of the points of each sample; None draws them.
        generator: of the draws; None is torch's global one.

    Returns:
        In the dtype of ``source``. Reasons: TOO_FEW_POINTS below three valid points,
        DEGENERATE_GEOMETRY as :func:`umeyama`, RANSAC_NO_CONSENSUS where fewer than a tenth of
        the points, or fewer than three, agree.

    Raises:
        ValueError: ``rule`` is unknown, or does not go with ``refinements``.
    """
    if rule not in _RULES:
        raise ValueError(f"rule must be one of {ALIGNMENT_RULES}, got {rule!r}")
    if rule == "nocs" and refinements:
        raise ValueError(f"rule 'nocs' has no refinements, got {refinements}")
    used = _RULES[rule]
    if source.shape[1] == 0:
        # A point that is not valid, so that nothing below meets an empty dimension.
        source, target = (each.new_zeros(len(each), 1, 3) for each in (source, target))
        valid = valid.new_zeros(len(valid), 1)
    with torch.no_grad(), torch.autocast(source.device.type, enabled=False):
        if samples is None:
            samples = draw_samples(valid, used.iterations, _SAMPLE_SIZE, generator)
        source, target = (each.masked_fill(~valid[..., None], 0) for each in (source, target))
        group = max(MEMORY // (_TERMS * source.shape[1]), 1)
        inputs = (each.split(group) for each in (source, target, valid, samples))
        parts = [_ransac(used, refinements, *each) for each in zip(*inputs, strict=True)]
        names = ("rotation", "translation", "scale", "reasons")
        return Similarity(*(torch.cat([getattr(part, name) for part in parts]) for name in names))


def _ransac(
    rule: type[_Corrected],
    refinements: int,
    source: torch.Tensor,
    target: torch.Tensor,
    valid: torch.Tensor,
    samples: torch.Tensor,
) -> Similarity:
    problem = rule(source, target, valid)
    factors, _ = best_models(samples, problem.evaluate, problem.enough, source.shape[1])
    inliers, agreeing = problem.inliers(factors)
    lost = (agreeing < _SMALLEST_INLIER_RATIO * problem.count) | (agreeing < 3)
    reasons = torch.where(lost, FailureReason.RANSAC_NO_CONSENSUS, FailureReason.OK)
    # What all points together leave open is no matter of consensus.
    rows = lost.nonzero()[:, 0]
    every = umeyama(source[rows], target[rows], valid[rows]).reasons
    reasons[rows] = torch.where(every == FailureReason.OK, reasons[rows], every)
    solution = umeyama(source, target, inliers)
    for _ in range(refinements):
        placed = solution.scale[:, None, None] * source @ solution.rotation.mT
        residuals = (target - placed - solution.translation[:, None]).square().sum(dim=2).sqrt()
        tolerance = (problem.threshold * solution.scale)[:, None]
        agreeing = valid & (residuals < tolerance)
        solution = umeyama(source, target, robust_weights(residuals, agreeing, tolerance))
    return solution.failed_where(reasons)


def robust_weights(
    residuals: torch.Tensor, inliers: torch.Tensor, tolerance: torch.Tensor
) -> torch.Tensor:
    """Geman-McClure weights 1 / (1 + (r / c)^2)^2, c from the median residual of the inliers.

    Args:
        residuals: (N, P), not negative.
        inliers: (N, P) bool.
        tolerance: (N, 1), residual below which a point is an inlier.

    Returns:
        (N, P), zero for the other points.
    """
    median = residuals.masked_fill(~inliers, torch.nan).nanmedian(dim=1, keepdim=True).values
    width = torch.maximum(_CUT_OFF * median, _SMALLEST_WIDTH * tolerance)
    return torch.where(inliers, (1 + (residuals / width).square()) ** -2, 0.0)


class _Corrected:
    """Hypotheses and inliers of the corrected rule.

    The squared residual of a point is linear in products of its coordinates:
    |y - s R x - t|^2 = |y|^2 + s^2 |x|^2 + |t|^2 - 2 t y + 2 s (R^T t) x - 2 s sum R_ij y_i x_j.
    So one matrix product gives it for all hypotheses and points. A model is the factors of these
    terms, the squared threshold already taken off, so that inliers are negative.
    """

    iterations = 128
    enough = staticmethod(stop_at_confidence(_SAMPLE_SIZE))

    def __init__(self, source: torch.Tensor, target: torch.Tensor, valid: torch.Tensor) -> None:
        self.valid, self.count = valid, valid.sum(dim=1)
        self.prepare(source.mT.contiguous(), target.mT.contiguous())
        x, y = self.source, self.target
        products = (y[:, :, None] * x[:, None]).flatten(1, 2)
        squares = [each.square().sum(dim=1, keepdim=True) for each in (y, x)]
        terms = torch.cat([*squares, y, x, products, torch.ones_like(x[:, :1])], dim=1)
        # Zero terms make the residual zero, which is not negative.
        self.terms = terms.mul_(valid[:, None])

    def prepare(self, source: torch.Tensor, target: torch.Tensor) -> None:
        """Keep the points (N, 3, P), centred, which float32 needs, and measure the source."""
        dtype = torch.promote_types(source.dtype, torch.float32)
        source, target = source.to(dtype), target.to(dtype)
        self.source, self.target = (each - self.mean(each) for each in (source, target))
        squares = self.source.square().sum(dim=1).masked_fill(~self.valid, 0)
        self.threshold = _INLIER_DISTANCE * 2 * squares.amax(dim=1).sqrt()

    def mean(self, values: torch.Tensor) -> torch.Tensor:
        """(N, K, 1) over the valid points of values (N, K, P)."""
        weights = self.valid / self.count.clamp(min=1)[:, None]
        return values @ weights[..., None].to(values.dtype)

    def fit(
        self, rows: torch.Tensor, samples: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Umeyama's solution (n, h, ...) of each sample, nan where there is none."""
        count, size = samples.shape[1:]
        index = samples.flatten(1)[:, None].expand(-1, 3, -1)
        pair = [
            each[rows].gather(2, index).double().unflatten(2, (count, size)).transpose(1, 2)
            for each in (self.source, self.target)
        ]
        x, y = (each.flatten(0, 1) for each in pair)
        x_mean, y_mean, covariance, variance = _moments(x, y, torch.ones_like(x[:, 0]))
        rotation, total = _fast_rotation(covariance)
        scale = total / variance
        solution = rotation, _translation(rotation, scale, x_mean, y_mean), scale
        rotation, translation, scale = (each.unflatten(0, (-1, count)) for each in solution)
        return rotation, translation, scale

    def factors(
        self, rotation: torch.Tensor, translation: torch.Tensor, scale: torch.Tensor
    ) -> torch.Tensor:
        """(n, h, 18), of the terms of the squared residual."""
        one, scale = torch.ones_like(scale)[..., None], scale[..., None]
        turned = (translation[..., None, :] @ rotation).squeeze(-2)
        factors = [
            one,
            scale.square(),
            -2 * translation,
            2 * scale * turned,
            -2 * scale * rotation.flatten(2),
            translation.square().sum(dim=2, keepdim=True),
        ]
        return torch.cat(factors, dim=2).to(self.terms.dtype)

    def evaluate(
        self, rows: torch.Tensor, samples: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        rotation, translation, scale = self.fit(rows, samples)
        factors = self.factors(rotation, translation, scale)
        factors[..., -1] -= (self.threshold[rows, None] * scale).square().to(factors.dtype)
        # In place: this is the one large tensor.
        inside = (factors @ self.terms[rows]).lt_(0).sum(dim=2)
        ratios = inside / self.count[rows, None]
        return ratios.masked_fill(~_usable(scale), -torch.inf), factors

    def inliers(self, factors: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Mask (N, P) of the best models' inliers, and their number (N,)."""
        inliers = (factors[:, None] @ self.terms).squeeze(1) < 0
        return inliers, inliers.sum(dim=1)


class _Official(_Corrected):
    """The rule of the official code, with its defects."""

    iterations = 100

    def prepare(self, source: torch.Tensor, target: torch.Tensor) -> None:
        self.source, self.target = source.double(), target.double()
        norms = [self.mean(each.norm(dim=1, keepdim=True)) for each in (self.source, self.target)]
        ratio = (norms[1] / norms[0]).flatten()
        self.threshold = torch.maximum(ratio, 1 / ratio)

    @staticmethod
    def enough(scores: torch.Tensor, iterations: torch.Tensor) -> torch.Tensor:
        return scores > -_STOP_FRACTION

    def evaluate(
        self, rows: torch.Tensor, samples: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        rotation, translation, scale = self.fit(rows, samples)
        factors = self.factors(rotation.mT, translation, scale)
        squares = (factors * self.terms.sum(dim=2)[rows, None]).sum(dim=2)
        threshold = self.threshold[rows, None]
        factors[..., -1] -= threshold.square()
        scores = -squares.clamp(min=0).sqrt() / threshold
        return scores.masked_fill(~_usable(scale), -torch.inf), factors

    def inliers(self, factors: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        inliers, _ = super().inliers(factors)
        # The official code counts those indices of inliers that are not zero.
        return inliers, inliers[:, 1:].sum(dim=1)


def _usable(scale: torch.Tensor) -> torch.Tensor:
    return (scale > 0) & scale.isfinite()


_RULES = {"corrected": _Corrected, "nocs": _Official}
ALIGNMENT_RULES = tuple(_RULES)
