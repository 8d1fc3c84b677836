"""Classification losses of AlignDETR, pure functions: IA-BCE, its focal form, DINO's focal loss.

Every loss is a weighted sum of the two halves of a binary cross-entropy,
``a * softplus(-x) + b * softplus(x)`` with -log p = softplus(-x) for the logit x. At the matched
(query, class) entries a and b depend on the pair; everywhere else a = 0 and b = p^gamma, through
which the gradient flows. All of it comes from the logits, so it is finite for any finite logit.

Shared arguments:

- ``logits``: (..., C) floating point;
- ``matched``: tuple of (P,) int64 tensors, one per dimension of ``logits``, the entries of the P
  matched pairs; no entry twice;
- ``quality``: (P,) targets of those entries in [0, 1], without gradient.

All return (...), the loss of each query summed over the classes; the caller sums and normalises.
Source: AlignDETR, arXiv 2304.07527 v1.
"""

from __future__ import annotations

import torch
from torch.nn import functional as F

# Lower bound of the quality, so that a poor match is still a positive.
_MIN_QUALITY = 0.01

Entries = tuple[torch.Tensor, ...]


def alignment_quality(logits: torch.Tensor, iou: torch.Tensor, alpha: float) -> torch.Tensor:
    """max(p^alpha IoU^(1 - alpha), 0.01) of matched pairs, without gradient.

    Args:
        logits: (P,) logit of the target's class at the matched query.
        iou: (P,) IoU of the predicted box and the target.
        alpha: weight of the score against the IoU, in [0, 1].
    """
    with torch.no_grad():
        quality = logits.sigmoid().pow(alpha) * iou.pow(1 - alpha)
        return quality.clamp(min=_MIN_QUALITY)


def local_rank(quality: torch.Tensor, groups: torch.Tensor) -> torch.Tensor:
    """Position of each pair among the pairs of its group, best quality first.

    Args:
        quality: (P,).
        groups: (P,) int64, any values: one for each target of each image (and output).

    Returns:
        (P,) int64, 0 for the best of a group; of equal qualities the earlier pair comes first.
    """
    order = quality.argsort(descending=True, stable=True)
    order = order[groups[order].argsort(stable=True)]
    ordered = groups[order]
    positions = torch.arange(len(ordered), device=ordered.device)
    first = torch.ones_like(ordered, dtype=torch.bool)
    first[1:] = ordered[1:] != ordered[:-1]
    starts = torch.where(first, positions, 0).cummax(dim=0).values
    return torch.empty_like(positions).scatter_(0, order, positions - starts)


def ia_bce(
    logits: torch.Tensor, matched: Entries, quality: torch.Tensor, gamma: float
) -> torch.Tensor:
    """IoU-aware BCE: a = quality, b = 1 - quality at matched entries.

    Positives have neither a focal term nor a balancing factor; ``quality`` already contains the
    weight of the pair's rank.
    """
    return _two_sided(logits, matched, quality, 1 - quality, logits.sigmoid().pow(gamma))


def align_loss(
    logits: torch.Tensor, matched: Entries, quality: torch.Tensor, gamma: float
) -> torch.Tensor:
    """IA-BCE with the focal factor |quality - p|^gamma (with gradient) at matched entries.

    The 2024 version of the paper describes such a loss, but neither its code nor its formula is
    public: this is the project's own reading, modelled on the quality focal loss, and the numbers
    of that version must not be expected of it.
    """
    factor = (quality - logits[matched].sigmoid()).abs().pow(gamma)
    positive, negative = factor * quality, factor * (1 - quality)
    return _two_sided(logits, matched, positive, negative, logits.sigmoid().pow(gamma))


def focal_loss(logits: torch.Tensor, matched: Entries, alpha: float, gamma: float) -> torch.Tensor:
    """Sigmoid focal loss with balancing factor alpha (Lin et al., ICCV 2017), the loss of DINO.

    a = alpha (1 - p)^gamma and b = 0 at matched entries, b = (1 - alpha) p^gamma elsewhere.
    """
    positive = alpha * (-logits[matched]).sigmoid().pow(gamma)
    elsewhere = (1 - alpha) * logits.sigmoid().pow(gamma)
    return _two_sided(logits, matched, positive, torch.zeros_like(positive), elsewhere)


def _two_sided(
    logits: torch.Tensor,
    matched: Entries,
    positive: torch.Tensor,
    negative: torch.Tensor,
    elsewhere: torch.Tensor,
) -> torch.Tensor:
    """The sum over classes of a softplus(-x) + b softplus(x); b = ``elsewhere`` if not matched."""
    # softplus is written as -logsigmoid because torch's softplus is linear from 20 on.
    background = elsewhere.index_put(matched, negative) * -F.logsigmoid(-logits)
    foreground = positive * -F.logsigmoid(logits[matched])
    return background.sum(dim=-1).index_put(matched[:-1], foreground, accumulate=True)
