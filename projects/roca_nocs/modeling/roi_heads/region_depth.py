"""The depth of regions: their pixels, crops of depth maps, and the losses on them.

B images, N regions of all images together, G x G pixels per region.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from roca_nocs import losses
from roca_nocs.geometry.roi_grid import (
    grid_rays,
    masked_bounding_box,
    roi_pixel_grid,
    sample_at_grid,
)
from roca_nocs.modeling.roi_heads.alignment_types import AlignmentRegions

SMALLEST_DEPTH = 1e-5


@dataclass(frozen=True)
class RegionCrop:
    """The pixels of N regions.

    Attributes:
        grid: (N, 2, G, G), pixels x, y.
        rays: (N, 3, G, G), directions through them, z = 1.
        image_indices: (N,) int64, row of the batch.
        image_sizes: (N, 2) int64, (height, width).
        border_compat: see ``sample_at_grid``.
    """

    grid: torch.Tensor
    rays: torch.Tensor
    image_indices: torch.Tensor
    image_sizes: torch.Tensor
    border_compat: bool

    @classmethod
    def of(cls, regions: AlignmentRegions, grid_size: int, border_compat: bool) -> RegionCrop:
        """The pixels of a grid of ``grid_size`` G over each box."""
        sizes = regions.image_sizes[regions.image_indices]
        grid = roi_pixel_grid(regions.boxes, sizes, grid_size)
        rays = grid_rays(grid, regions.intrinsics)
        return cls(grid, rays, regions.image_indices, sizes, border_compat)

    def sample(self, maps: torch.Tensor) -> torch.Tensor:
        """(N, K, G, G) of maps (B, K, H, W)."""
        return sample_at_grid(
            maps, self.grid, self.image_indices, self.image_sizes, self.border_compat
        )


def depth_losses(
    crop: RegionCrop,
    depth: torch.Tensor,
    gt_depth: torch.Tensor,
    mask_pred: torch.Tensor,
    mask_gt: torch.Tensor,
    weights: torch.Tensor | None,
) -> tuple[dict[str, torch.Tensor], tuple[torch.Tensor, torch.Tensor], torch.Tensor]:
    """Losses on the depth of regions (N, 1, G, G).

    Returns:
        the losses, the bounding box of the predicted object points, and the ground-truth object
        points (N, 3, G, G), zero outside the object.
    """
    masked, gt_masked = depth * mask_pred, gt_depth * mask_gt
    means = [
        each.flatten(1).sum(dim=1) / mask.flatten(1).sum(dim=1).clamp(min=1e-5)
        for each, mask in ((masked, mask_pred), (gt_masked, mask_gt))
    ]
    gt_points = crop.rays * gt_masked
    box = masked_bounding_box(crop.rays * masked, masked > SMALLEST_DEPTH)
    gt_box = masked_bounding_box(gt_points, gt_masked > SMALLEST_DEPTH)
    result = {
        "loss_roi_depth": losses.masked_l1(depth, gt_depth, mask_gt, weights),
        "loss_mean_depth": losses.l1(*means, weights),
        "loss_depth_min": losses.smooth_l1(box[0], gt_box[0], weights),
        "loss_depth_max": losses.smooth_l1(box[1], gt_box[1], weights),
    }
    return result, box, gt_points
