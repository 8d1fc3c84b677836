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
    if centred:
        # The result does not depend on these shifts, so they need no gradient. Without them the
        # means would cancel digits of the second moment.
        shifts = [_weighted_mean(points, weights).detach() for points in (source, target)]
        source, target = source - shifts[0], target - shifts[1]
    moment, sum_source, sum_target, total = (
        each.double() for each in _Moments.apply(source, target, weights)
    )
    valid = total > 0
    total = torch.where(valid, total, 1.0)[:, None]
    mean_source, mean_target = sum_source / total, sum_target / total
    if centred:
        moment = moment - sum_target[:, :, None] * mean_source[:, None, :]
    rotation = project_to_rotation(moment)
    if centred:
        mean_source = mean_source + shifts[0].squeeze(-1)
        mean_target = mean_target + shifts[1].squeeze(-1)
    translation = mean_target - (rotation @ mean_source[..., None]).squeeze(-1)
    identity = torch.eye(3, dtype=rotation.dtype, device=rotation.device)
    return (
        torch.where(valid[:, None, None], rotation, identity),
        torch.where(valid[:, None], translation, 0.0),
    )


def _weighted_mean(points: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """(N, 3, 1) of points (N, 3, P); zeros where the weights sum to zero."""
    tiny = torch.finfo(weights.dtype).tiny
    return (points @ weights[..., None]) / weights.sum(dim=1).clamp(min=tiny)[:, None, None]


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
    """sum w t s^T (N, 3, 3) in float64; sum w s (N, 3), sum w t (N, 3), sum w (N) of the dtype of
    the points, which are (N, 3, P).

    Written by hand because memory traffic is the whole cost. Only the second moment needs float64:
    point sets that are almost a line leave digits of it to the rotation.
    """

    @staticmethod
    def forward(
        ctx: Any, source: torch.Tensor, target: torch.Tensor, weights: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        weighted = source * weights[:, None]
        block = _BLOCK if source.device.type == "cpu" else max(len(source), 1)
        pairs = zip(target.split(block), weighted.split(block), strict=True)
        moment = torch.cat([t.double() @ s.double().mT for t, s in pairs])
        sum_source = weighted.sum(dim=2)
        sum_target = (weights[:, None] @ target.mT).squeeze(1)
        total = weights.sum(dim=1)
        ctx.save_for_backward(source, target, weights, moment, sum_source, sum_target, total)
        return moment, sum_source, sum_target, total

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(
        ctx: Any,
        grad_moment: torch.Tensor,
        grad_source: torch.Tensor,
        grad_target: torch.Tensor,
        grad_total: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        source, target, weights, moment, sum_source, sum_target, total = ctx.saved_tensors
        rounded = grad_moment.to(source.dtype)
        to_source = torch.baddbmm(grad_source[..., None], rounded.mT, target)
        to_target = torch.baddbmm(grad_target[..., None], rounded, source)
        x, y, z = (target * to_target).unbind(dim=1)
        to_weights = x + y + z
        to_weights += torch.bmm(grad_source[:, None], source).squeeze(1)
        to_weights += grad_total[:, None]
        # The moments are linear in the weights, so sum w to_weights is known exactly. Usually the
        # terms below cancel; rounding the gradient of the moment must not leave a rest of them.
        exact = (grad_moment * moment).sum(dim=(1, 2)) + (grad_total * total).double()
        exact += (grad_source * sum_source + grad_target * sum_target).double().sum(dim=1)
        error = exact - (weights * to_weights).sum(dim=1)
        error = torch.where(total > 0, error / total, 0.0)
        to_weights += error[:, None]
        return to_source.mul_(weights[:, None]), to_target.mul_(weights[:, None]), to_weights
