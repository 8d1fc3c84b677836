"""Weighted orthogonal Procrustes problems for many regions at once, with finite gradients."""

from __future__ import annotations

from typing import Any

import torch

# Relative to the largest singular value: below this the gradient of the rotation fades out.
_DAMPING = 1e-7
_SMALLEST_SINGULAR_VALUE = 1e-30
_SMALLEST_RESIDUAL = 1e-5
# Regions whose float64 copies still fit a processor's cache.
_BLOCK = 16


def project_to_rotation(matrix: torch.Tensor) -> torch.Tensor:
    """Nearest rotation to each matrix in the Frobenius norm, U diag(1, 1, det(U V^T)) V^T.

    Args:
        matrix: (N, 3, 3), finite, of any rank.

    Returns:
        (N, 3, 3) of the same dtype, determinant +1; computed in float64. Its first derivative is
        finite for every matrix, also for rank 0 to 2 and for negative determinants.
    """
    return _ProjectToRotation.apply(matrix)


def weighted_procrustes(
    source: torch.Tensor,
    target: torch.Tensor,
    weights: torch.Tensor,
    *,
    centred: bool = False,
    iterations: int = 1,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Rotation and translation with target ~ rotation @ source + translation, per region.

    The rotation is the projection of the second moment sum w target source^T; the translation
    joins the weighted means afterwards. ``centred=False`` is the published solve (ROCA): it relies
    on both point sets lying about their origins already, and is not the least-squares optimum of
    both unknowns; ``centred=True`` is (Kabsch).

    The second moment and the rotation are float64. Memory order (N, 3, P) behind a transposed view
    is the fast one.

    Args:
        source: (N, P, 3).
        target: (N, P, 3).
        weights: (N, P), not negative; zero switches a point off. Need not be normalised.
        centred: subtract the weighted means before solving the rotation.
        iterations: rounds of iteratively re-weighted least squares. Every round after the first
            divides the weights by the residuals |R s + t - target| sqrt(w) of the previous one
            (at least 1e-5).

    Returns:
        rotation (N, 3, 3), translation (N, 3), dtype of ``source``. Identity and zeros, without
        gradient, where the weights sum to zero. Gradients reach all three inputs and are finite.

    Raises:
        ValueError: ``iterations`` is below 1.
    """
    if iterations < 1:
        raise ValueError(f"iterations must be at least 1, got {iterations}")
    with torch.autocast(source.device.type, enabled=False):
        a, d, w = (_at_least_float(each).contiguous() for each in (source.mT, target.mT, weights))
        solution = _solve(a, d, w, centred)
        for _ in range(iterations - 1):
            rotation, translation = (each.to(a.dtype) for each in solution)
            residuals = (rotation @ a + translation[..., None] - d).norm(dim=1)
            residuals = (residuals * w.detach().sqrt()).clamp(min=_SMALLEST_RESIDUAL)
            solution = _solve(a, d, w / residuals, centred)
        rotation, translation = solution
    return rotation.to(source.dtype), translation.to(source.dtype)


def _solve(
    source: torch.Tensor, target: torch.Tensor, weights: torch.Tensor, centred: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """One solve in channel-first layout, (N, 3, P) points; float64 result."""
    moments = _Moments.apply(source, target, weights)
    moment, total = moments[:, :3, :3], moments[:, 3, 3]
    valid = total > 0
    total = torch.where(valid, total, 1.0)[:, None]
    mean_source, mean_target = moments[:, 3, :3] / total, moments[:, :3, 3] / total
    if centred:
        moment = moment - moments[:, :3, 3:] * mean_source[:, None, :]
    rotation = project_to_rotation(moment)
    translation = mean_target - (rotation @ mean_source[..., None]).squeeze(-1)
    identity = torch.eye(3, dtype=rotation.dtype, device=rotation.device)
    return (
        torch.where(valid[:, None, None], rotation, identity),
        torch.where(valid[:, None], translation, 0.0),
    )


def _at_least_float(values: torch.Tensor) -> torch.Tensor:
    return values if values.dtype == torch.float64 else values.float()


class _ProjectToRotation(torch.autograd.Function):
    """Closed-form derivative of the projection.

    With M = R P, P symmetric, a change dM turns R by a skew matrix Omega (dR = R Omega) that
    solves Omega P + P Omega = R^T dM - dM^T R. In the basis V this divides by s_i + s_j, where the
    last singular value carries the sign of the determinant. Degenerate input makes such a sum
    vanish: the data do not determine that rotation axis. Therefore 1 / x is damped to
    x / (x^2 + eps^2), x relative to the largest singular value, and is 0 at x = 0.
    """

    @staticmethod
    def forward(ctx: Any, matrix: torch.Tensor) -> torch.Tensor:
        u, s, vh = torch.linalg.svd(matrix.double())
        sign = torch.linalg.det(u @ vh).sign()
        signs = torch.stack([torch.ones_like(sign), torch.ones_like(sign), sign], dim=-1)
        rotation = (u * signs[:, None, :]) @ vh
        ctx.save_for_backward(rotation, s * signs, vh)
        return rotation.to(matrix.dtype)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        rotation, s, vh = ctx.saved_tensors
        twist = rotation.mT @ gradient.double()
        twist = vh @ (twist - twist.mT) @ vh.mT
        largest = s[:, :1, None].clamp(min=_SMALLEST_SINGULAR_VALUE)
        sums = (s[:, :, None] + s[:, None, :]) / largest
        inverse = sums / (sums.square() + _DAMPING**2) / largest
        return (rotation @ vh.mT @ (twist * inverse) @ vh).to(gradient.dtype)


class _Moments(torch.autograd.Function):
    """sum w [t; 1] [s; 1]^T, (N, 4, 4) float64, of points (N, 3, P).

    Written by hand because memory traffic is the whole cost: regions are read in blocks that stay
    in a processor's cache. Sums are float64, since means and point sets that are almost a line
    cancel digits of them.
    """

    @staticmethod
    def forward(
        ctx: Any, source: torch.Tensor, target: torch.Tensor, weights: torch.Tensor
    ) -> torch.Tensor:
        block = _block(source)
        size = (min(block, len(source)), 4, source.shape[2])
        buffers = [source.new_ones(size, dtype=torch.float64) for _ in range(2)]
        moments = source.new_empty((len(source), 4, 4), dtype=torch.float64)
        for rows in _slices(len(source), block):
            s, t = (each[: rows.stop - rows.start] for each in buffers)
            torch.mul(source[rows], weights[rows, None], out=s[:, :3])
            s[:, 3] = weights[rows]
            t[:, :3] = target[rows]
            torch.bmm(t, s.mT, out=moments[rows])
        ctx.save_for_backward(source, target, weights, moments)
        return moments

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(
        ctx: Any, gradient: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        source, target, weights, moments = ctx.saved_tensors
        # The same gradient for points about their means: there its terms do not cancel, so the
        # precision of the points is enough for what follows.
        total = moments[:, 3, 3:]
        to_mean = torch.where(total > 0, 1 / total, 0.0)
        mean_source, mean_target = moments[:, 3, :3] * to_mean, moments[:, :3, 3] * to_mean
        shift_source, shift_target = (_shift(each) for each in (mean_source, mean_target))
        shifted = (shift_target.mT @ gradient @ shift_source).to(source.dtype)
        centres = [each[..., None].to(source.dtype) for each in (mean_source, mean_target)]
        turn, of_source = shifted[:, :3, :3], shifted[:, 3, :3, None]
        of_target, of_total = shifted[:, :3, 3:], shifted[:, 3:, 3]
        to_source, to_target, to_weights = (
            torch.empty_like(each) for each in (source, target, weights)
        )
        for rows in _slices(len(source), _block(source)):
            s, t = source[rows] - centres[0][rows], target[rows] - centres[1][rows]
            by_source = torch.baddbmm(of_source[rows], turn[rows].mT, t)
            by_target = torch.baddbmm(of_target[rows], turn[rows], s)
            by_weights = (t.mul_(by_target)).sum(dim=1)
            by_weights += (s.mul_(of_source[rows])).sum(dim=1)
            by_weights += of_total[rows]
            w = weights[rows, None]
            torch.mul(by_source, w, out=to_source[rows])
            torch.mul(by_target, w, out=to_target[rows])
            to_weights[rows] = by_weights
        # The moments are linear in the weights, so sum w to_weights is known exactly. Usually its
        # terms cancel; rounding must not leave a rest of them.
        exact = (gradient * moments).sum(dim=(1, 2))
        error = exact - (weights * to_weights).sum(dim=1)
        to_weights += (error[:, None] * to_mean).to(to_weights.dtype)
        return to_source, to_target, to_weights


def _shift(mean: torch.Tensor) -> torch.Tensor:
    """(N, 4, 4) that moves homogeneous points about the origin to these means (N, 3)."""
    shift = torch.eye(4, dtype=mean.dtype, device=mean.device).repeat(len(mean), 1, 1)
    shift[:, :3, 3] = mean
    return shift


def _block(points: torch.Tensor) -> int:
    return _BLOCK if points.device.type == "cpu" else max(len(points), 1)


def _slices(count: int, block: int) -> list[slice]:
    return [slice(start, min(start + block, count)) for start in range(0, count, block)]
