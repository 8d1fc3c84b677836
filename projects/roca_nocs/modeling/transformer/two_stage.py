"""Proposals of a two-stage DETR: every encoder token proposes one box around its cell."""

from __future__ import annotations

from collections.abc import Sequence

import torch

_SIZE = 0.05  # of a proposal on the finest level, relative to the image; doubles with each level
_MARGIN = 0.01


def propose_boxes(
    centers: torch.Tensor,
    padding_mask: torch.Tensor | None,
    spatial_shapes: Sequence[tuple[int, int]],
) -> tuple[torch.Tensor, torch.Tensor]:
    """Square proposals at the centres of the cells (Deformable DETR, Zhu et al., ICLR 2021).

    Args:
        centers: (B, S, 2) x and y in [0, 1] of the image's valid part.
        padding_mask: (B, S) bool, True at padding; None for none.
        spatial_shapes: (height, width) of each level.

    Returns:
        logits (B, S, 4) of cxcywh in [0, 1], +inf (coordinates of 1, without a gradient) where
        there is no proposal; and (B, S) bool, True where there is one: not padding, and all four
        numbers within (0.01, 0.99).
    """
    counts = [height * width for height, width in spatial_shapes]
    sizes = torch.cat(
        [centers.new_full((count,), _SIZE * 2.0**level) for level, count in enumerate(counts)]
    )
    boxes = torch.cat([centers, sizes[None, :, None].expand_as(centers)], dim=-1)
    usable = ((boxes > _MARGIN) & (boxes < 1 - _MARGIN)).all(dim=-1)
    if padding_mask is not None:
        usable = usable & ~padding_mask
    logits = torch.logit(boxes, eps=1e-6).masked_fill(~usable[..., None], torch.inf)
    return logits, usable


def top_tokens(scores: torch.Tensor, count: int) -> torch.Tensor:
    """Rows of the best tokens.

    Args:
        scores: (B, S, C) of each class.
        count: Q, at most S.

    Returns:
        (B, Q) int64, by falling best score.
    """
    return scores.amax(dim=-1).topk(count, dim=1).indices


def gather_rows(values: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """(B, S, K) values at (B, Q) rows: (B, Q, K)."""
    return values.gather(1, rows[..., None].expand(-1, -1, values.shape[-1]))
