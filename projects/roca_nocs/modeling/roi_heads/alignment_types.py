"""What goes into and comes out of the alignment head.

B images, N regions of all images together, G x G pixels per region. Camera frame: x right, y down,
z forward, metres.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class AlignmentRegions:
    """N regions.

    Attributes:
        boxes: (N, 4) float32, XYXY in pixels of the image.
        classes: (N,) int64.
        image_indices: (N,) int64, row of the batch.
        image_sizes: (B, 2) int64, (height, width) without padding.
        intrinsics: (N, 3, 3) float32, pixels.
        weights: (N,) float32, weights of the classes in the losses; None for equal weights.
        scenes: of each region, for retrieval; None where unknown.
    """

    boxes: torch.Tensor
    classes: torch.Tensor
    image_indices: torch.Tensor
    image_sizes: torch.Tensor
    intrinsics: torch.Tensor
    weights: torch.Tensor | None
    scenes: Sequence[str | None]


@dataclass(frozen=True)
class AlignmentTargets:
    """Ground truth of N regions.

    Attributes:
        depths: (B, 1, H, W), metres, 0 = unknown.
        masks: (N, 1, G, G) 0/1.
        rotations: (N, 3, 3).
        translations: (N, 3), metres.
        scales: (N, 3), metres per model unit.
        symmetries: (N,) int64, ids of ``geometry.symmetry``; only symmetry-aware losses use them.
        positives: (K, ...) CAD models, as the retrieval head takes them; None without retrieval.
        negatives: (K, ...), other CAD models.
        cad_rows: (N,) int64, the row of each region in these two; None if K = N and in order.
    """

    depths: torch.Tensor
    masks: torch.Tensor
    rotations: torch.Tensor
    translations: torch.Tensor
    scales: torch.Tensor
    symmetries: torch.Tensor | None = None
    positives: torch.Tensor | None = None
    negatives: torch.Tensor | None = None
    cad_rows: torch.Tensor | None = None


@dataclass(frozen=True)
class AlignmentPredictions:
    """Poses and CAD models of N regions.

    Attributes:
        translations: (N, 3), metres.
        rotations: (N, 3, 3); identity where ``has_enough`` is False.
        scales: (N, 3), metres per model unit; not limited to positive numbers.
        has_enough: (N,) bool, whether the mask has enough pixels for a rotation.
        corrections: (N, 3), the part of the translation that the Procrustes solve added.
        nocs: (N, 3, G, G), model coordinates, not masked.
        confidences: (N, 1, G, G), weights of the pixels in the solve, not masked.
        shape_code: (N, D).
        has_alignment: (N,) bool, False where retrieval was possible but found no candidate.
        indices: (N,) int64, rows of the CAD database, -1 = none.
        wild_indices: the same, retrieved without limit to the scene; None if not asked for.
    """

    translations: torch.Tensor
    rotations: torch.Tensor
    scales: torch.Tensor
    has_enough: torch.Tensor
    corrections: torch.Tensor
    nocs: torch.Tensor
    confidences: torch.Tensor
    shape_code: torch.Tensor
    has_alignment: torch.Tensor
    indices: torch.Tensor
    wild_indices: torch.Tensor | None
