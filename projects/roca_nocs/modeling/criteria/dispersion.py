"""Dispersion loss: how the bins of a region are used, irrespective of where (ganocs).

R regions, B bins per axis, S x S cells.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from roca_nocs.layers.coordinate_bins import check_bin_rule, encode_bins
from roca_nocs.modeling.criteria.step_schedule import Weight, current_weight

__all__ = ["DispersionLoss", "dispersion", "mean_distribution", "target_distribution"]

REFERENCES = ("bins", "axes")


def mean_distribution(values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Mean over the cells of a mask.

    Args:
        values: (R, 3, B, S, S), probabilities of the bins.
        mask: (R, S, S) bool.

    Returns:
        (R, 3, B); zeros for a region without a cell.
    """
    weights = mask.to(values.dtype).flatten(1)
    sums = (values.flatten(3) * weights[:, None, None]).sum(dim=-1)
    return sums / weights.sum(dim=1).clamp(min=1)[:, None, None]


def target_distribution(bins: torch.Tensor, mask: torch.Tensor, num_bins: int) -> torch.Tensor:
    """Share of the cells of a mask that has its target in each bin.

    Args:
        bins: (R, 3, S, S) int64 in [0, B).
        mask: (R, S, S) bool.
        num_bins: B.

    Returns:
        (R, 3, B) float32; zeros for a region without a cell.
    """
    weights = mask[:, None].expand_as(bins).float().flatten(2)
    counts = weights.new_zeros(*bins.shape[:2], num_bins).scatter_add(2, bins.flatten(2), weights)
    return counts / weights.sum(dim=2, keepdim=True).clamp(min=1)


def dispersion(
    distribution: torch.Tensor, target: torch.Tensor | None = None, reference: str = "bins"
) -> torch.Tensor:
    """Distance of each mean distribution from its target, or from an even one.

    Args:
        distribution: (R, 3, B).
        target: (R, 3, B), or None.
        reference: without a target: ``"bins"`` compares with the mean over the bins, so that all
            bins are used alike; ``"axes"`` with the mean over the three axes, which is what the
            published program computes.

    Returns:
        (R,), mean over the axes of the Euclidean distance over the bins.

    Raises:
        ValueError: an unknown reference.
    """
    if reference not in REFERENCES:
        raise ValueError(f"reference must be one of {REFERENCES}, got {reference!r}")
    if target is None:
        target = distribution.mean(dim=2 if reference == "bins" else 1, keepdim=True)
    return torch.linalg.vector_norm(distribution - target, dim=2).mean(dim=1)


class DispersionLoss(nn.Module):
    """Keeps the bins that a region uses close to those of its target.

    Regions whose image has no labels are compared with the even distribution.
    """

    def __init__(
        self, *, targeted: bool = True, weight: Weight = 0.25, bin_rule: str = "centre"
    ) -> None:
        """
        Args:
            targeted: compare with the target's distribution where there is one; otherwise every
                region with the even one.
            weight: of the loss; a schedule needs detectron2's event storage.
            bin_rule: of the target's bins, see ``layers.coordinate_bins``.
        """
        super().__init__()
        self.targeted = targeted
        self.weight = weight
        self.bin_rule = check_bin_rule(bin_rule)

    def forward(
        self,
        logits: torch.Tensor,
        coordinates: torch.Tensor,
        mask: torch.Tensor,
        labelled: torch.Tensor,
    ) -> Mapping[str, torch.Tensor]:
        """Loss of R regions.

        Args:
            logits: (R, 3, B, S, S), bins of the region's class.
            coordinates: (R, 3, S, S) in [0, 1], targets.
            mask: (R, S, S) bool, cells of the object.
            labelled: (R,) bool, whether there are targets; elsewhere all cells count.

        Returns:
            ``loss_nocs_dispersion``; a zero with a graph where no region has a cell.

        Raises:
            ValueError: the logits have no bins.
        """
        if logits.ndim != 5:
            raise ValueError(
                f"the dispersion of bins needs logits (R, 3, B, S, S), got {tuple(logits.shape)}: "
                "leave the loss out of a head that regresses coordinates"
            )
        mask = mask | ~labelled[:, None, None]
        num_bins = logits.shape[2]
        distribution = mean_distribution(logits.float().softmax(dim=2), mask)
        target = torch.full_like(distribution, 1 / num_bins)
        if self.targeted:
            bins = encode_bins(coordinates, num_bins, self.bin_rule)
            used = target_distribution(bins, mask, num_bins)
            target = torch.where(labelled[:, None, None], used, target)
        counted = mask.flatten(1).any(dim=1)
        values = torch.where(counted, dispersion(distribution, target), 0)
        loss = values.sum() / counted.sum().clamp(min=1) + 0 * logits.float().sum()
        return {"loss_nocs_dispersion": current_weight(self.weight) * loss}
