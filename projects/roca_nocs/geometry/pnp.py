"""Poses from points of known size and the rays on which they are seen, for many instances.

N instances of P points. Rays are scaled to z = 1, so that the pose puts a point p at
``rotation @ p + translation``, on its ray times a depth.
"""

from __future__ import annotations

import roma
import torch

from roca_nocs.geometry.failures import FailureReason
from roca_nocs.geometry.ransac import MEMORY, best_models, draw_samples, stop_at_confidence
from roca_nocs.geometry.similarity import Similarity, robust_weights

_ITERATIONS = 128
_SAMPLE_SIZE = 3
_INLIER_DISTANCE = 0.1
_SMALLEST_INLIER_RATIO = 0.1
_FEWEST_POINTS = 4
_NEWTON_STEPS = 6
_REFINEMENTS = 3
_REFINEMENT_STEPS = 6
_FIRST_DAMPING = 1e-3
# Two solutions of a sample, each with two residuals a point.
_NUMBERS_PER_POINT = 4


def pnp_ransac(
    points: torch.Tensor,
    rays: torch.Tensor,
    valid: torch.Tensor,
    diameters: torch.Tensor,
    generator: torch.Generator | None = None,
) -> Similarity:
    """Poses of known models from one view without depth.

    At most 128 samples of three points, each with the two poses that put the points on their rays
    (start: R. Huttenlocher and S. Ullman, Recognizing solid objects by alignment with an image,
    1990, whose two mirrored solutions Newton's method corrects for perspective). A point agrees
    with a pose that puts it within a tenth of the diameter of its ray, at its depth; the score
    falls with the square of that distance (MSAC). The best pose is refined over its inliers, chosen
    and weighted anew each round (``similarity.robust_weights``), by least squares of the distances
    in the image plane z = 1 (Levenberg-Marquardt).

    Computed in float64, no gradient. Memory stays bounded whatever N and P are.

    Args:
        points: (N, P, 3), model frame, metres.
        rays: (N, P, 3), camera frame, z = 1.
        valid: (N, P) bool; other points may hold anything.
        diameters: (N,) metres, of the models.
        generator: of the draws; None is torch's global one.

    Returns:
        In the dtype of ``points``, with scale 1. Reasons: TOO_FEW_POINTS below four valid points,
        DEGENERATE_GEOMETRY where no sample had a pose, RANSAC_NO_CONSENSUS where fewer than a
        tenth of the points, or fewer than four, agree.
    """
    if points.shape[1] == 0:
        points, rays = (each.new_zeros(len(each), 1, 3) for each in (points, rays))
        valid = valid.new_zeros(len(valid), 1)
    with torch.no_grad(), torch.autocast(points.device.type, enabled=False):
        samples = draw_samples(valid, _ITERATIONS, _SAMPLE_SIZE, generator)
        group = max(MEMORY // (16 * points.shape[1]), 1)
        inputs = (each.split(group) for each in (points, rays, valid, diameters, samples))
        parts = [_Views(*each).solve(used) for *each, used in zip(*inputs, strict=True)]
        rotation, translation, reasons = (torch.cat(each) for each in zip(*parts, strict=True))
        dtype = points.dtype
        scale = torch.ones_like(reasons, dtype=dtype)
        return Similarity(rotation.to(dtype), translation.to(dtype), scale, reasons).failed_where(
            reasons
        )


class _Views:
    """The residuals X - r_x Z and Y - r_y Z of a point are linear in (p, 1, r p, r): with the
    factors of a pose, one matrix product gives them for all poses and points."""

    def __init__(
        self,
        points: torch.Tensor,
        rays: torch.Tensor,
        valid: torch.Tensor,
        diameters: torch.Tensor,
    ) -> None:
        points, rays = (
            each.double().masked_fill(~valid[..., None], 0).mT.contiguous()
            for each in (points, rays)
        )
        self.valid, self.count = valid, valid.sum(dim=1)
        self.limits = (_INLIER_DISTANCE * diameters.double()).square()
        self.points, self.rays = points, rays
        homogeneous = torch.cat([points, torch.ones_like(points[:, :1])], dim=1)
        self.terms = [torch.cat([homogeneous, homogeneous * rays[:, [i]]], dim=1) for i in (0, 1)]

    def solve(self, samples: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Rotation, translation and reasons of each view."""
        cost = _NUMBERS_PER_POINT * self.points.shape[2]
        poses, scores = best_models(samples, self.evaluate, stop_at_confidence(_SAMPLE_SIZE), cost)
        poses = poses.unflatten(1, (3, 4))
        every = torch.arange(len(poses), device=poses.device)
        for _ in range(_REFINEMENTS):
            squares = self.squares(poses[:, None], every).squeeze(1)
            inliers = self.valid & (squares < self.limits[:, None])
            weights = robust_weights(squares.sqrt(), inliers, self.limits[:, None].sqrt())
            poses = self.refine(poses, weights)
        squares = self.squares(poses[:, None], every).squeeze(1)
        agreeing = (self.valid & (squares < self.limits[:, None])).sum(dim=1)
        fewest = (_SMALLEST_INLIER_RATIO * self.count).clamp(min=_FEWEST_POINTS)
        lost = (agreeing < fewest) | ~poses.isfinite().all(dim=2).all(dim=1)
        reasons = torch.where(lost, FailureReason.RANSAC_NO_CONSENSUS, FailureReason.OK)
        reasons = reasons.masked_fill(scores.isinf(), FailureReason.DEGENERATE_GEOMETRY)
        reasons = reasons.masked_fill(self.count < _FEWEST_POINTS, FailureReason.TOO_FEW_POINTS)
        return poses[..., :3], poses[..., 3], reasons

    def evaluate(
        self, rows: torch.Tensor, samples: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Score (n, h), at most the inlier ratio, and pose (n, h, 12) of the better solution."""
        picked = [each.mT[rows[:, None, None], samples] for each in (self.points, self.rays)]
        poses = _three_point_poses(*picked)
        squares = self.squares(poses.flatten(1, 2), rows)
        nearness = (1 - squares / self.limits[rows, None, None]).clamp_(min=0)
        # A matrix product leaves out the points that are not valid.
        total = nearness @ self.valid[rows, :, None].to(nearness.dtype)
        scores = total.squeeze(2).unflatten(1, (-1, 2)) / self.count[rows, None, None]
        usable = poses.isfinite().all(dim=-1).all(dim=-1) & (poses[..., 2, 3] > 0)
        best, index = scores.masked_fill(~usable, -torch.inf).max(dim=2)
        chosen = poses.flatten(3).gather(2, index[..., None, None].expand(-1, -1, 1, 12))
        return best, chosen.squeeze(2)

    def squares(self, poses: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        """Squared distances (n, h, P) from the rays, at the depth of the points, in poses
        (n, h, 3, 4) of the views ``rows``."""
        sides = [
            torch.cat([poses[:, :, axis], -poses[:, :, 2]], dim=2) @ terms[rows]
            for axis, terms in enumerate(self.terms)
        ]
        return sides[0].square_().add_(sides[1].square_())

    def refine(self, poses: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        """Poses (N, 3, 4) with a smaller sum of squared distances, with weights (N, P)."""
        roots = weights.sqrt()
        damping = poses.new_full((len(poses), 1), _FIRST_DAMPING)
        errors, jacobian, cost = self.linearise(poses, roots)
        for _ in range(_REFINEMENT_STEPS):
            normal = jacobian @ jacobian.mT
            normal = normal + torch.diag_embed(damping * normal.diagonal(dim1=1, dim2=2))
            step = -torch.linalg.solve_ex(normal, jacobian @ errors[..., None])[0].squeeze(2)
            turn = roma.rotvec_to_rotmat(step[:, :3])
            moved = torch.cat([turn @ poses[..., :3], poses[..., 3:] + step[:, 3:, None]], dim=2)
            tried = self.linearise(moved, roots)
            better = tried[2] < cost
            poses, errors, jacobian, cost = (
                torch.where(better.view(-1, *[1] * (old.dim() - 1)), new, old)
                for new, old in zip((moved, *tried), (poses, errors, jacobian, cost), strict=True)
            )
            damping = torch.where(better[:, None], damping / 10, damping * 10)
        return poses

    def linearise(
        self, poses: torch.Tensor, roots: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Distances (N, 2 P) in the plane z = 1 times these roots of weights (N, P), their
        derivatives (N, 6, 2 P) by rotation (from the left) and translation, and half the sum of
        their squares (N,)."""
        turned = poses[..., :3] @ self.points
        x, y, z = (turned + poses[..., 3:]).unbind(dim=1)
        factor = roots / torch.where(roots > 0, z, 1.0)
        x, y = x * factor, y * factor
        seen_x, seen_y = (self.rays[:, :2] * roots[:, None]).unbind(dim=1)
        errors = torch.cat([x - seen_x, y - seen_y], dim=1)
        zero, inverse = torch.zeros_like(z), 1 / torch.where(roots > 0, z, 1.0)
        by_x = torch.stack([factor, zero, -x * inverse], dim=1)
        by_y = torch.stack([zero, factor, -y * inverse], dim=1)
        by_rotation = [torch.linalg.cross(turned, each, dim=1) for each in (by_x, by_y)]
        jacobian = torch.cat([torch.cat(by_rotation, dim=2), torch.cat([by_x, by_y], dim=2)], dim=1)
        return errors, jacobian, errors.square().sum(dim=1) / 2


def _three_point_poses(points: torch.Tensor, rays: torch.Tensor) -> torch.Tensor:
    """The two poses that put three points on three rays, as (..., 2, 3, 4); nan where none is.

    Args:
        points: (..., 3, 3), the second to last dimension counts them.
        rays: (..., 3, 3), z = 1.
    """
    first, second = ((each[..., 1:, :] - each[..., :1, :]).unbind(-2) for each in (points, rays))
    m11, m22, m12 = _products(*first)
    e11, e22, e12 = _products(*second)
    # Weak perspective: the square k of the depth solves a quadratic, of which the smaller root
    # leaves both offsets in depth real.
    linear = m11 * e22 + m22 * e11 - 2 * m12 * e12
    constant = m11 * m22 - m12.square()
    root = (linear.square() - 4 * (e11 * e22 - e12.square()) * constant).clamp(min=0).sqrt()
    k = 2 * constant / (linear + root)
    offset1 = (m11 - k * e11).clamp(min=0).sqrt()
    offset2 = (m22 - k * e22).clamp(min=0).sqrt()
    offset2 = torch.where(m12 < k * e12, -offset2, offset2)
    offsets = torch.stack([torch.zeros_like(k), offset1, offset2], dim=-1)
    offsets = offsets - offsets.mean(dim=-1, keepdim=True)
    depths = k.sqrt()[..., None, None] + torch.stack([offsets, -offsets], dim=-2)

    points, rays = points.unsqueeze(-3), rays.unsqueeze(-3)
    lengths = (points - points.roll(-1, dims=-2)).square().sum(dim=-1)
    for _ in range(_NEWTON_STEPS):
        placed = depths[..., None] * rays
        sides = placed - placed.roll(-1, dims=-2)
        excess = sides.square().sum(dim=-1) - lengths
        own = 2 * (rays * sides).sum(dim=-1)
        following = -2 * (rays.roll(-1, dims=-2) * sides).sum(dim=-1)
        depths = depths - _solve_cycle(own, following, excess)
    depths = torch.where((depths > 0).all(dim=-1, keepdim=True), depths, torch.nan)

    placed = depths[..., None] * rays
    rotation = _frame(placed) @ _frame(points).mT
    translation = placed.mean(dim=-2) - (rotation @ points.mean(dim=-2)[..., None]).squeeze(-1)
    return torch.cat([rotation, translation[..., None]], dim=-1)


def _products(a: torch.Tensor, b: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """a.a, b.b, a.b."""
    return a.square().sum(dim=-1), b.square().sum(dim=-1), (a * b).sum(dim=-1)


def _solve_cycle(own: torch.Tensor, following: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """x of own_i x_i + following_i x_{i+1} = right_i, i modulo 3, along the last dimension."""
    determinant = own.prod(dim=-1, keepdim=True) + following.prod(dim=-1, keepdim=True)
    own1, own2 = own.roll(-1, dims=-1), own.roll(-2, dims=-1)
    following1 = following.roll(-1, dims=-1)
    right1, right2 = right.roll(-1, dims=-1), right.roll(-2, dims=-1)
    solution = right * own1 * own2 - following * right1 * own2 + following * following1 * right2
    return solution / determinant


def _frame(corners: torch.Tensor) -> torch.Tensor:
    """Orthonormal frame (..., 3, 3) of triangles (..., 3, 3), axes in the columns."""
    a, b, c = corners.unbind(dim=-2)
    along, normal = (
        axis / axis.norm(dim=-1, keepdim=True) for axis in (b - a, torch.linalg.cross(b - a, c - a))
    )
    return torch.stack([along, normal, torch.linalg.cross(along, normal)], dim=-1)
