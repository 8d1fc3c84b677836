"""The loss of the multi-view track: which pixels of which detections are compared, and how."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from roca_nocs.geometry.failures import FailureReason
from roca_nocs.geometry.grouped_random import shuffle_within_groups, subset_of_groups
from roca_nocs.geometry.multiview import (
    Views,
    associate,
    back_project_pixels,
    ordered_pairs,
    pose_disagreement,
)
from roca_nocs.layers.coordinate_bins import soft_argmax
from roca_nocs.layers.region_samples import owning_regions, sample_regions
from roca_nocs.modeling.criteria.multiview import align_to_depth, pixelwise_consistency

__all__ = ["MODES", "MultiViewLoss", "MultiViewResult", "ViewDetections"]

MODES = ("pixelwise", "alignment")


@dataclass(frozen=True)
class ViewDetections:
    """What a model finds in V views, all views together.

    Attributes:
        maps: (R, 3, B, S, S), logits of the bins of each detection's class, or (R, 3, S, S)
            coordinates in [0, 1]; the only tensor that gets gradients.
        boxes: (R, 4) XYXY, pixels.
        scores: (R,).
        masks: (R, 1, T, T), probability of the object in each cell of the box.
        image_indices: (R,) int64, view of each detection.
    """

    maps: torch.Tensor
    boxes: torch.Tensor
    scores: torch.Tensor
    masks: torch.Tensor
    image_indices: torch.Tensor


@dataclass(frozen=True)
class MultiViewResult:
    """Losses by name, already weighted, and what to log.

    Attributes:
        losses: ``loss_multiview_<mode>``, scalars; finite zeros with a graph where nothing could be
            compared.
        reasons: mode -> int64 of :class:`FailureReason`, one of each pair of views (pixelwise) or
            of each detection (alignment).
        disagreement: mean of ``geometry.multiview.pose_disagreement``; 0 without a matched object,
            None without the mode ``"alignment"``.
    """

    losses: dict[str, torch.Tensor]
    reasons: dict[str, torch.Tensor]
    disagreement: torch.Tensor | None


class MultiViewLoss(nn.Module):
    """Consistency of NOCS predictions over views of the same scene (ganocs).

    * ``"pixelwise"``: pixels that show the same point shall have the same prediction, see
      :func:`~roca_nocs.modeling.criteria.multiview.pixelwise_consistency`;
    * ``"alignment"``: the coordinates of a detection shall be a similar copy of its points in
      space, see :func:`~roca_nocs.modeling.criteria.multiview.align_to_depth`.

    Memory is bounded by ``max_pairs * max_pixels`` associations and ``max_points`` points of each
    detection.
    """

    def __init__(
        self,
        *,
        modes: Sequence[str] = ("pixelwise",),
        weight: float = 1.0,
        max_pairs: int = 100,
        max_pixels: int = 4096,
        max_points: int = 512,
        occlusion_tolerance: float = 0.02,
        mask_threshold: float = 0.5,
        weighted_alignment: bool = False,
    ) -> None:
        """
        Args:
            modes: of ``MODES``; the losses are added up.
            weight: factor on all losses.
            max_pairs: ordered pairs of views that are compared, of all scenes together.
            max_pixels: pixels of a view that are carried to another.
            max_points: pixels of a detection that are aligned.
            occlusion_tolerance: metres.
            mask_threshold: least mask probability of an aligned pixel.
            weighted_alignment: aligned pixels weigh by this probability; else all alike.

        Raises:
            ValueError: modes are no list of known ones.
        """
        super().__init__()
        if isinstance(modes, str) or not modes or not set(modes) <= set(MODES):
            raise ValueError(f"modes must be a list of some of {MODES}, got {modes!r}")
        self.modes = tuple(modes)
        self.weight = weight
        self.max_pairs = max_pairs
        self.max_pixels = max_pixels
        self.max_points = max_points
        self.occlusion_tolerance = occlusion_tolerance
        self.mask_threshold = mask_threshold
        self.weighted_alignment = weighted_alignment

    def forward(
        self, views: Views, detections: ViewDetections, generator: torch.Generator | None = None
    ) -> MultiViewResult:
        """Compare the detections of the views of each scene.

        Args:
            views: of one or more scenes.
            detections: in these views.
            generator: of all random choices, on the device of the views; None takes torch's global
                one.
        """
        with torch.autocast(views.depth.device.type, enabled=False):
            owners = owning_regions(
                detections.boxes,
                detections.scores,
                detections.image_indices,
                len(views.depth),
                (views.depth.shape[1], views.depth.shape[2]),
            )
            losses, reasons, disagreement = {}, {}, None
            if "pixelwise" in self.modes:
                loss, reasons["pixelwise"] = self._pixelwise(views, detections, owners, generator)
                losses["loss_multiview_pixelwise"] = self.weight * loss
            if "alignment" in self.modes:
                loss, reasons["alignment"], disagreement = self._alignment(
                    views, detections, owners, generator
                )
                losses["loss_multiview_alignment"] = self.weight * loss
        return MultiViewResult(losses, reasons, disagreement)

    def _pixelwise(
        self,
        views: Views,
        detections: ViewDetections,
        owners: torch.Tensor,
        generator: torch.Generator | None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        pairs = ordered_pairs(views.scenes, self.max_pairs, generator)
        found = associate(
            views,
            owners >= 0,
            pairs,
            tolerance=self.occlusion_tolerance,
            max_pixels=self.max_pixels,
            generator=generator,
        )
        predictions = [
            _predictions(detections, owners[(pairs[found.pairs, side], *pixels.unbind(1))], pixels)
            for side, pixels in enumerate((found.first, found.second))
        ]
        partners = [shuffle_within_groups(found.pairs, generator) for _ in range(2)]
        values, reasons = pixelwise_consistency(
            predictions[0], predictions[1], found.pairs, len(pairs), (partners[0], partners[1])
        )
        # Why there is no association says more than that there is none.
        unassociated = found.reasons != FailureReason.OK
        reasons = torch.where(unassociated, found.reasons, reasons)
        return _mean_of_valid(values, reasons) + 0 * detections.maps.float().sum(), reasons

    def _alignment(
        self,
        views: Views,
        detections: ViewDetections,
        owners: torch.Tensor,
        generator: torch.Generator | None,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        located = ((owners >= 0) & (views.depth > 0)).nonzero()
        regions = owners[located.unbind(1)]
        masks = sample_regions(detections.masks.float(), detections.boxes, regions, located[:, 1:])
        weights = masks.detach()[:, 0]
        inside = weights >= self.mask_threshold
        located, regions, weights = located[inside], regions[inside], weights[inside]
        order = regions.argsort(stable=True)
        order = order[subset_of_groups(regions[order], self.max_points, generator)]
        located, regions, weights = located[order], regions[order], weights[order]

        predictions = _predictions(detections, regions, located[:, 1:])
        regressed = detections.maps.ndim == 4
        coordinates = predictions[..., 0] if regressed else soft_argmax(predictions)
        fits = align_to_depth(
            coordinates - 0.5,
            back_project_pixels(views.depth.detach(), views.intrinsics, located),
            regions,
            len(detections.boxes),
            weights=weights if self.weighted_alignment else None,
            generator=generator,
        )
        solved = fits.reasons == FailureReason.OK
        values, matched = pose_disagreement(
            fits.poses[solved], detections.image_indices[solved], views
        )
        disagreement = values.sum() / matched.sum().clamp(min=1)
        loss = _mean_of_valid(fits.residuals, fits.reasons) + 0 * detections.maps.float().sum()
        return loss, fits.reasons, disagreement


def _predictions(
    detections: ViewDetections, regions: torch.Tensor, pixels: torch.Tensor
) -> torch.Tensor:
    """(M, 3, B) float32 of regions (M,) at pixels (M, 2)."""
    maps = detections.maps if detections.maps.ndim == 5 else detections.maps[:, :, None]
    sampled = sample_regions(maps.flatten(1, 2).float(), detections.boxes, regions, pixels)
    return sampled.unflatten(1, (3, maps.shape[2]))


def _mean_of_valid(values: torch.Tensor, reasons: torch.Tensor) -> torch.Tensor:
    valid = reasons == FailureReason.OK
    return torch.where(valid, values, 0).sum() / valid.sum().clamp(min=1)
