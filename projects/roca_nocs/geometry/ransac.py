"""Random sample consensus for many instances at once.

N instances, I samples of each, drawn beforehand. The search is that of a loop over the samples of
one instance with its early stop, but tries the samples in a few growing blocks, each for all
instances that have not stopped.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

Evaluate = Callable[[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]
"""(rows (n,), samples (n, h, M)) -> scores (n, h), higher is better, and models (n, h, K)."""

_FIRST_BLOCK = 16
_GROWTH = 4
# Numbers that one block, or the copies of one group of instances, may hold.
MEMORY = 1 << 23


def draw_samples(
    valid: torch.Tensor, iterations: int, size: int, generator: torch.Generator | None = None
) -> torch.Tensor:
    """Random points of each instance, with replacement.

    Args:
        valid: (N, P) bool, points that may be drawn.
        iterations: I.
        size: points of a sample, M.
        generator: of the draws; None is torch's global one.

    Returns:
        (N, I, M) int64 positions among the P points; arbitrary ones for an instance without a
        valid point.
    """
    device = valid.device if generator is None else generator.device
    shape = (len(valid), iterations, size)
    fractions = torch.rand(shape, dtype=torch.float64, generator=generator, device=device)
    counts = valid.sum(dim=1)
    ranks = (fractions.to(valid.device) * counts[:, None, None]).long()
    first = counts.cumsum(dim=0) - counts
    # The last entry serves instances without a valid point.
    positions = torch.cat([valid.nonzero()[:, 1], counts.new_zeros(1)])
    return positions[first[:, None, None] + ranks]


def stop_at_confidence(size: int, confidence: float = 0.99) -> Callable[..., torch.Tensor]:
    """Stop rule for scores that are inlier ratios w: 1 - (1 - w^size)^i > confidence, i from 0."""

    def enough(ratios: torch.Tensor, iterations: torch.Tensor) -> torch.Tensor:
        return 1 - (1 - ratios.clamp(min=0) ** size) ** iterations > confidence

    return enough


def best_models(
    samples: torch.Tensor,
    evaluate: Evaluate,
    enough: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    points: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The model with the highest score among those that a loop would try before it stops.

    Args:
        samples: (N, I, M) int64.
        evaluate: fits a model to each sample and scores it. A score of -inf or nan rejects the
            model.
        enough: (best scores so far (n, h), iterations (h,) from 0) -> (n, h) bool, stop after
            this one.
        points: numbers a hypothesis costs in ``evaluate``.

    Returns:
        models (N, K) and scores (N,) float64; zeros and -inf where every sample was rejected. Of
        equal scores the first counts.
    """
    count, iterations = samples.shape[:2]
    device = samples.device
    best = torch.full((count,), -torch.inf, dtype=torch.float64, device=device)
    models: torch.Tensor | None = None
    rows = torch.arange(count, device=device)
    start, block = 0, _FIRST_BLOCK
    while start < iterations and (len(rows) > 0 or models is None):
        block = max(min(block, MEMORY // max(len(rows) * points, 1)), 1)
        tried = samples[rows, start : start + block]
        scores, found = evaluate(rows, tried)
        scores = scores.double()
        scores = scores.masked_fill(scores.isnan(), -torch.inf)
        running = torch.maximum(scores.cummax(dim=1).values, best[rows, None])
        numbers = torch.arange(start, start + tried.shape[1], device=device)
        stop = enough(running, numbers)
        behind_stop = stop.cumsum(dim=1) > stop.long()
        top, index = scores.masked_fill(behind_stop, -torch.inf).max(dim=1)
        if models is None:
            models = found.new_zeros(count, found.shape[-1])
        chosen = found[torch.arange(len(rows), device=device), index]
        better = top > best[rows]
        models[rows] = torch.where(better[:, None], chosen, models[rows])
        best[rows] = torch.where(better, top, best[rows])
        rows = rows[~stop.any(dim=1)]
        start += tried.shape[1]
        block *= _GROWTH
    assert models is not None
    return models, best
