"""Assignment of predictions (anchors, proposals) to ground truths by quality."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch


class Matcher:
    """Match every column of a quality matrix to the best row and label it by the quality."""

    def __init__(
        self,
        thresholds: Sequence[float],
        labels: Sequence[int],
        allow_low_quality_matches: bool = False,
    ) -> None:
        """Set the rules.

        Args:
            thresholds: increasing positive values; they cut the qualities into intervals, each
                including its lower end.
            labels: one per interval from low to high: 1 positive, 0 negative, -1 ignored.
            allow_low_quality_matches: see :meth:`__call__`.
        """
        thresholds = tuple(thresholds)
        labels = tuple(labels)
        assert thresholds and thresholds[0] > 0, (
            f"Matcher needs at least one threshold, all above 0, got {thresholds}."
        )
        assert list(thresholds) == sorted(thresholds), (
            f"Thresholds must be in increasing order, got {thresholds}."
        )
        assert all(label in (-1, 0, 1) for label in labels), (
            f"Labels must be -1, 0 or 1, got {labels}."
        )
        assert len(labels) == len(thresholds) + 1, (
            f"{len(thresholds)} thresholds need {len(thresholds) + 1} labels, got {len(labels)}."
        )
        self.thresholds = [-math.inf, *thresholds, math.inf]
        self.labels = list(labels)
        self.allow_low_quality_matches = allow_low_quality_matches

    def __call__(self, match_quality_matrix: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Match ``P`` predictions to ``G`` ground truths.

        With ``allow_low_quality_matches`` a prediction also becomes positive if its quality
        equals the best one that some ground truth reaches. Its match stays its own best ground
        truth, which may be another one; and a ground truth whose best quality is 0 makes every
        prediction positive.

        Args:
            match_quality_matrix: ``(G, P)`` non-negative qualities, e.g. IoU.

        Returns:
            ``(matches, labels)``: int64 ``(P,)`` rows and int8 ``(P,)`` labels. Without any ground
            truth the rows are 0 and all predictions get the lowest label.
        """
        assert match_quality_matrix.dim() == 2, (
            f"Matcher needs a (G, P) matrix, got shape {tuple(match_quality_matrix.shape)}."
        )
        num_ground_truths, num_predictions = match_quality_matrix.shape
        if num_ground_truths == 0 or num_predictions == 0:
            matches = match_quality_matrix.new_zeros(num_predictions, dtype=torch.int64)
            return matches, torch.full_like(matches, self.labels[0], dtype=torch.int8)
        assert torch.all(match_quality_matrix >= 0), "Match qualities must not be negative or NaN."

        quality, matches = match_quality_matrix.max(dim=0)
        labels = torch.full_like(matches, self.labels[0], dtype=torch.int8)
        for threshold, label in zip(self.thresholds[1:-1], self.labels[1:], strict=True):
            labels[quality >= threshold] = label
        if self.allow_low_quality_matches:
            best_per_ground_truth = match_quality_matrix.amax(dim=1, keepdim=True)
            labels[(match_quality_matrix == best_per_ground_truth).any(dim=0)] = 1
        return matches, labels
