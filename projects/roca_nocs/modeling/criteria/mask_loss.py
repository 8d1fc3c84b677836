"""Losses of mask logits: focal and dice, per mask, and the dice cost of all pairs.

P masks of h x w logits and H x W targets; the logits are brought to the targets' grid by bilinear
interpolation. Sources: DETR (Carion et al., ECCV 2020) and V-Net (Milletari et al., 3DV 2016).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F


def upsample(logits: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """(P, h, w) to (P, H, W) float32, bilinear with pixel centres at halves."""
    if logits.shape[0] == 0:
        return logits.new_zeros(0, *size).float() + 0.0 * logits.sum().float()
    logits = logits.float()
    if logits.shape[-2:] == tuple(size):
        return logits
    return F.interpolate(logits[:, None], size=size, mode="bilinear", align_corners=False)[:, 0]


def sigmoid_focal(
    logits: torch.Tensor, targets: torch.Tensor, alpha: float = 0.25, gamma: float = 2.0
) -> torch.Tensor:
    """Focal loss of every entry (Lin et al., ICCV 2017).

    Args:
        logits: any shape.
        targets: the same, 0 or 1.
        alpha: weight of positives, 1 - alpha that of negatives; negative for no weights.
        gamma: exponent.
    """
    targets = targets.to(logits.dtype)
    entropy = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    p = logits.sigmoid()
    wrong = p + targets - 2 * p * targets
    loss = entropy * wrong.pow(gamma)
    return loss if alpha < 0 else loss * (alpha * targets + (1 - alpha) * (1 - targets))


def mask_losses(
    logits: torch.Tensor, targets: torch.Tensor, valid: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Focal loss, averaged over the cells, and dice loss of every mask.

    Args:
        logits: (P, H, W) float32.
        targets: (P, H, W) bool.
        valid: (P, H, W) bool, cells that count; None for all.

    Returns:
        Two (P,); dice is 1 - (2 sum p g + 1) / (sum p + sum g + 1).
    """
    logits, targets = logits.flatten(1), targets.flatten(1).to(logits.dtype)
    p = logits.sigmoid()
    focal = sigmoid_focal(logits, targets)
    if valid is None:
        focal = focal.mean(dim=1)
    else:
        weight = valid.flatten(1).to(logits.dtype)
        focal = (focal * weight).sum(dim=1) / weight.sum(dim=1).clamp(min=1)
        p, targets = p * weight, targets * weight
    overlap = (p * targets).sum(dim=1)
    return focal, 1 - (2 * overlap + 1) / (p.sum(dim=1) + targets.sum(dim=1) + 1)


def dice_cost(
    logits: torch.Tensor, targets: torch.Tensor, valid: torch.Tensor | None = None
) -> torch.Tensor:
    """Dice loss of all pairs of each of B clips.

    Args:
        logits: (B, N, H, W) float32.
        targets: (B, M, H, W) bool, or the share of a cell in [0, 1].
        valid: (B, H, W) likewise, cells that count; None for all.

    Returns:
        (B, N, M).
    """
    p, wanted = logits.flatten(2).sigmoid(), targets.flatten(2).to(logits.dtype)
    # Sums over all cells do not fit into half precision.
    with torch.autocast(logits.device.type, enabled=False):
        if valid is not None:
            wanted = wanted * valid.flatten(1)[:, None].to(logits.dtype)
            p = p * valid.flatten(1)[:, None].to(logits.dtype)
        total = p.sum(dim=2)[:, :, None] + wanted.sum(dim=2)[:, None]
        return 1 - (2 * p @ wanted.mT + 1) / (total + 1)
