"""Losses of predicted object coordinates, with the symmetries of the objects; pure functions.

R regions, K rotations, A = 3 axes x, y, z, B bins, S x S cells, P = S S. All run in float32.

A symmetric object looks the same when it is turned, so every turned ground truth is as right as
the annotated one. For each region the loss is that of the turned ground truth which costs least,
summed over cells and axes; the choice is a constant for the gradient (Wang et al., CVPR 2019).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.autograd.function import once_differentiable

from roca_nocs.layers.coordinate_bins import (
    check_bin_rule,
    encode_bins,
    encode_offsets,
    expected_coordinates,
)
from roca_nocs.modeling.criteria.step_schedule import Weight, current_weight

__all__ = [
    "DISTANCES",
    "NocsLoss",
    "best_rotation",
    "euclidean_error",
    "mean_loss",
    "rotate_coordinates",
    "symmetric_bin_loss",
    "symmetric_distance_loss",
    "symmetric_expectation_loss",
    "symmetric_offset_loss",
]

_EPSILON = 1e-5
_SMOOTH_L1_THRESHOLD = 0.1


def _smooth_l1(difference: torch.Tensor) -> torch.Tensor:
    """d^2 / 0.2 below 0.1, d - 0.05 from there on."""
    threshold = _SMOOTH_L1_THRESHOLD
    quadratic = difference.square() / (2 * threshold)
    return torch.where(difference < threshold, quadratic, difference - threshold / 2)


DISTANCES: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "l1": lambda difference: difference,
    "l2": torch.square,
    "smooth_l1": _smooth_l1,
}
"""Functions of the absolute difference of coordinates."""


def rotate_coordinates(
    coordinates: torch.Tensor, mask: torch.Tensor, rotations: torch.Tensor
) -> torch.Tensor:
    """Coordinates of objects turned about the centre of the cube, 0 outside the mask.

    Args:
        coordinates: (R, 3, S, S) in [0, 1].
        mask: (R, S, S) bool.
        rotations: (R, K, 3, 3).

    Returns:
        (R, K, 3, S, S); within [0, 1], for an object lies in the ball of radius 1/2.
    """
    count, turns = rotations.shape[:2]
    centred = coordinates.flatten(2) - 0.5
    turned = rotations.reshape(count, turns * 3, 3) @ centred + 0.5
    turned = turned * mask.flatten(1)[:, None]
    return turned.reshape(count, turns, *coordinates.shape[1:])


@torch.no_grad()
def best_rotation(costs: torch.Tensor, rotations: torch.Tensor) -> torch.Tensor:
    """The rotations (R, 1, 3, 3), of (R, K, 3, 3), of least costs (R, K)."""
    rows = torch.arange(len(costs), device=costs.device)
    return rotations[rows, costs.argmin(dim=1)][:, None]


def symmetric_bin_loss(
    logits: torch.Tensor,
    coordinates: torch.Tensor,
    mask: torch.Tensor,
    rotations: torch.Tensor,
    bin_rule: str = "centre",
) -> torch.Tensor:
    """Cross-entropy of the bins with the best turned ground truth.

    Args:
        logits: (R, 3, B, S, S).
        coordinates: (R, 3, S, S) in [0, 1].
        mask: (R, S, S) bool, cells of the object.
        rotations: (R, K, 3, 3), which may repeat.
        bin_rule: see ``layers.coordinate_bins``.

    Returns:
        (R, 3, S, S) of all cells; the ground truth outside the mask is 0.
    """
    logits = logits.float()
    _, bins = _best_bins(logits, coordinates, mask, rotations, bin_rule)
    return _BinCrossEntropy.apply(logits, bins)


def symmetric_offset_loss(
    outputs: torch.Tensor,
    coordinates: torch.Tensor,
    mask: torch.Tensor,
    rotations: torch.Tensor,
    bin_rule: str = "centre",
    distance: str = "smooth_l1",
) -> tuple[torch.Tensor, torch.Tensor]:
    """Cross-entropy of the bins, which chooses the turned ground truth, and distance of its places
    in its bins to the predicted ones; the other bins' places get no gradient.

    Args:
        outputs: (R, 3, 2, B, S, S), logits of the bins and of the places.
        coordinates, mask, rotations, bin_rule: see :func:`symmetric_bin_loss`.
        distance: of ``DISTANCES``; places and distances are in bins, 1 / B of the cube.

    Returns:
        Both (R, 3, S, S) of all cells; the ground truth outside the mask is 0.
    """
    logits, offsets = outputs.float().unbind(dim=2)
    turned, bins = _best_bins(logits, coordinates, mask, rotations, bin_rule)
    places = offsets.gather(2, bins[:, :, None])[:, :, 0].sigmoid()
    differences = places - encode_offsets(turned, bins, logits.shape[2])
    return _BinCrossEntropy.apply(logits, bins), DISTANCES[distance](differences.abs())


def symmetric_distance_loss(
    pred: torch.Tensor,
    coordinates: torch.Tensor,
    mask: torch.Tensor,
    rotations: torch.Tensor,
    distance: str = "smooth_l1",
) -> torch.Tensor:
    """Distance of regressed coordinates to the best turned ground truth.

    Args:
        pred: (R, 3, S, S) in [0, 1].
        coordinates, mask, rotations: see :func:`symmetric_bin_loss`.
        distance: of ``DISTANCES``.

    Returns:
        (R, 3, S, S) of all cells; the ground truth outside the mask is 0.
    """
    pred, function = pred.float(), DISTANCES[distance]

    def costs(rows: torch.Tensor) -> torch.Tensor:
        turned = rotate_coordinates(coordinates[rows], mask[rows], rotations[rows])
        values = function((turned - pred[rows, None]).abs()).flatten(3)
        return torch.einsum("rkap,rp->rk", values, mask[rows].flatten(1).float())

    return function((_best_turned(coordinates, mask, rotations, costs) - pred).abs())


def symmetric_expectation_loss(
    outputs: torch.Tensor,
    coordinates: torch.Tensor,
    mask: torch.Tensor,
    rotations: torch.Tensor,
    bin_rule: str = "centre",
    distance: str = "smooth_l1",
) -> torch.Tensor:
    """Distance of the expectation over the bins to the ground truth that the bins' cross-entropy
    chooses, so that both losses pull towards the same one.

    Args:
        outputs: (R, 3, B, S, S) or, with offsets, (R, 3, 2, B, S, S).
        coordinates, mask, rotations, bin_rule: see :func:`symmetric_bin_loss`.
        distance: of ``DISTANCES``.

    Returns:
        (R, 3, S, S) of all cells; the ground truth outside the mask is 0.
    """
    outputs = outputs.float()
    logits = outputs[:, :, 0] if outputs.ndim == 6 else outputs
    turned, _ = _best_bins(logits, coordinates, mask, rotations, bin_rule)
    return DISTANCES[distance]((expected_coordinates(outputs, bin_rule) - turned).abs())


@torch.no_grad()
def _best_bins(
    logits: torch.Tensor,
    coordinates: torch.Tensor,
    mask: torch.Tensor,
    rotations: torch.Tensor,
    bin_rule: str,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The turned ground truth of least cross-entropy and its bins, both (R, 3, S, S)."""
    num_bins = logits.shape[2]

    def costs(rows: torch.Tensor) -> torch.Tensor:
        turned = rotate_coordinates(coordinates[rows], mask[rows], rotations[rows])
        bins = encode_bins(turned.transpose(1, 2), num_bins, bin_rule)
        # The normaliser of the softmax is the same for all rotations: the logits decide.
        gains = logits[rows].gather(2, bins).flatten(3)
        return -torch.einsum("rakp,rp->rk", gains, mask[rows].flatten(1).float())

    turned = _best_turned(coordinates, mask, rotations, costs)
    return turned, encode_bins(turned, num_bins, bin_rule)


@torch.no_grad()
def _best_turned(
    coordinates: torch.Tensor,
    mask: torch.Tensor,
    rotations: torch.Tensor,
    costs: Callable[[torch.Tensor], torch.Tensor],
) -> torch.Tensor:
    """Ground truth (R, 3, S, S) turned by the rotation that costs least.

    ``costs`` gives (N, K) for rows (N,) int64; it is called for those with a choice.
    """
    chosen = rotations[:, :1]
    rows = (rotations != chosen).flatten(1).any(dim=1).nonzero()[:, 0]
    if len(rows):
        chosen = chosen.index_copy(0, rows, best_rotation(costs(rows), rotations[rows]))
    return rotate_coordinates(coordinates, mask, chosen)[:, 0]


class _BinCrossEntropy(torch.autograd.Function):
    """-log softmax(logits)[bin]: that of PyTorch without its dense gradient of zeros.

    Of one cell only the chosen bin and the normaliser have a gradient, (softmax - 1 at the bin).
    """

    @staticmethod
    def forward(ctx: Any, logits: torch.Tensor, bins: torch.Tensor) -> torch.Tensor:
        """(R, 3, S, S) of logits (R, 3, B, S, S) and bins (R, 3, S, S) int64."""
        log_probabilities = logits.log_softmax(dim=2)
        bins = bins[:, :, None]
        ctx.save_for_backward(log_probabilities, bins)
        return -log_probabilities.gather(2, bins)[:, :, 0]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None]:
        log_probabilities, bins = ctx.saved_tensors
        grad = grad[:, :, None]
        gradient = log_probabilities.exp().mul_(grad)
        return gradient.scatter_add_(2, bins, -grad), None


def euclidean_error(
    pred: torch.Tensor, coordinates: torch.Tensor, mask: torch.Tensor, rotations: torch.Tensor
) -> torch.Tensor:
    """Root mean square distance (R,) of coordinates to the best turned ground truth.

    Args: see :func:`symmetric_distance_loss`.
    """
    squares = symmetric_distance_loss(pred, coordinates, mask, rotations, "l2").sum(dim=1)
    total = (squares * mask).flatten(1).sum(dim=1)
    return (total / (mask.flatten(1).sum(dim=1) + _EPSILON)).sqrt()


def mean_loss(
    values: torch.Tensor,
    mask: torch.Tensor,
    labelled: torch.Tensor,
    normalization: str = "per_roi",
) -> torch.Tensor:
    """Means over the cells of the mask of labelled regions, by axis.

    Args:
        values: (R, 3, S, S).
        mask: (R, S, S) bool.
        labelled: (R,) bool, regions that count.
        normalization: ``"per_roi"``: the mean over regions of the means over their cells;
            ``"per_pixel"``: the mean over the cells of all regions together.

    Returns:
        (3,); 0, connected to the graph, where nothing counts.
    """
    counted = mask & labelled[:, None, None]
    sums = torch.where(counted[:, None], values, 0).flatten(2).sum(dim=2)
    cells = counted.flatten(1).sum(dim=1)
    if normalization == "per_pixel":
        return sums.sum(dim=0) / cells.sum().clamp(min=1)
    return (sums / (cells[:, None] + _EPSILON)).sum(dim=0) / labelled.sum().clamp(min=1)


class NocsLoss(nn.Module):
    """Loss of a NOCS head: ``loss_nocs_x``, ``loss_nocs_y``, ``loss_nocs_z``; with offsets
    ``loss_nocs_offset``, that of the places in the bins; with ``distance_weight``
    ``loss_nocs_distance``, that of the expectation over the bins. The last two are sums over the
    axes."""

    rotations: torch.Tensor

    def __init__(
        self,
        *,
        rotations: torch.Tensor | None = None,
        distance: str = "smooth_l1",
        bin_rule: str = "centre",
        normalization: str = "per_roi",
        region: str = "mask",
        loss_weight: Weight = 1.0,
        distance_weight: Weight | None = None,
    ) -> None:
        """
        Args:
            rotations: (C, K, 3, 3), symmetries of the classes (``geometry.symmetry``); None for
                classes without.
            distance: of ``DISTANCES``, for heads that regress coordinates or offsets, and for
                ``distance_weight``.
            bin_rule: for heads with bins, see ``layers.coordinate_bins``.
            normalization: see :func:`mean_loss`.
            region: ``"mask"``: cells of the object count; ``"roi"``: all cells of the region, with
                0 as the ground truth of the background, as in the ganocs program.
            loss_weight: of each axis; a schedule needs detectron2's event storage.
            distance_weight: of the expectation's distance, for heads with bins; None for none.

        Raises:
            ValueError: an unknown value of an option.
        """
        super().__init__()
        for name, value, known in (
            ("distance", distance, tuple(DISTANCES)),
            ("normalization", normalization, ("per_roi", "per_pixel")),
            ("region", region, ("mask", "roi")),
        ):
            if value not in known:
                raise ValueError(f"{name} is {value!r}; expected one of {known}")
        self.distance = distance
        self.bin_rule = check_bin_rule(bin_rule)
        self.normalization = normalization
        self.region = region
        self.loss_weight = loss_weight
        self.distance_weight = distance_weight
        table = torch.eye(3)[None, None] if rotations is None else rotations.float()
        self.register_buffer("rotations", table, persistent=False)

    def class_rotations(self, classes: torch.Tensor) -> torch.Tensor:
        """(R, K, 3, 3) of classes (R,) int64."""
        if len(self.rotations) == 1:
            return self.rotations.expand(len(classes), -1, -1, -1)
        return self.rotations[classes]

    def of_cells(
        self,
        pred: torch.Tensor,
        coordinates: torch.Tensor,
        mask: torch.Tensor,
        classes: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Losses (R, 3, S, S) float32 of all cells, and with offsets those of the places.

        Args: see :meth:`forward`.
        """
        truth = (coordinates, mask, self.class_rotations(classes))
        with torch.autocast(pred.device.type, enabled=False):
            if pred.dim() == 6:
                return symmetric_offset_loss(pred, *truth, self.bin_rule, self.distance)
            if pred.dim() == 5:
                return symmetric_bin_loss(pred, *truth, self.bin_rule), None
            return symmetric_distance_loss(pred, *truth, self.distance), None

    def forward(
        self,
        pred: torch.Tensor,
        coordinates: torch.Tensor,
        mask: torch.Tensor,
        classes: torch.Tensor,
        labelled: torch.Tensor,
    ) -> dict[str, torch.Tensor]:
        """Weighted losses, scalar float32 each.

        Args:
            pred: outputs of a head, see ``layers.coordinate_bins``: logits (R, 3, B, S, S), with
                offsets (R, 3, 2, B, S, S), or coordinates (R, 3, S, S) in [0, 1].
            coordinates: (R, 3, S, S) in [0, 1], the ground truth.
            mask: (R, S, S) bool, cells of the object.
            classes: (R,) int64.
            labelled: (R,) bool, regions that have a ground truth; the others do not count.
        """
        values, offsets = self.of_cells(pred, coordinates, mask, classes)
        region = mask if self.region == "mask" else torch.ones_like(mask)

        def weighted(values: torch.Tensor, weight: Weight) -> torch.Tensor:
            mean = mean_loss(values, region, labelled, self.normalization)
            return current_weight(weight) * mean

        with torch.autocast(pred.device.type, enabled=False):
            names = ("loss_nocs_x", "loss_nocs_y", "loss_nocs_z")
            losses = dict(zip(names, weighted(values, self.loss_weight), strict=True))
            if offsets is not None:
                losses["loss_nocs_offset"] = weighted(offsets, self.loss_weight).sum()
            if self.distance_weight is not None:
                truth = (coordinates, mask, self.class_rotations(classes))
                distances = symmetric_expectation_loss(pred, *truth, self.bin_rule, self.distance)
                losses["loss_nocs_distance"] = weighted(distances, self.distance_weight).sum()
        return losses
