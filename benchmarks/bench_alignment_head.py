"""Training step of the alignment head against a formulation with a loop over regions.

The baseline works as ROCA's published training code does: it builds the grid of each region in
turn, copies the depth maps once for every region, samples the copies with ``grid_sample``,
repeats the shape code at every pixel before 1x1 convolutions, and lets autograd differentiate the
SVD of the regions.
"""

from __future__ import annotations

from dataclasses import dataclass
from unittest import mock

import torch
from timing import compare
from torch.nn import functional as F
from torchvision.ops import roi_align

from roca_nocs.layers.masked_pixels import MaskedPixels
from roca_nocs.layers.mlp import SharedMLP
from roca_nocs.modeling.roi_heads import alignment_head, shape_encoder
from roca_nocs.modeling.roi_heads.alignment_head import (
    AlignmentHead,
    AlignmentRegions,
    AlignmentTargets,
)

BATCH, HEIGHT, WIDTH, GRID, CHANNELS, CLASSES = 4, 360, 480, 32, 32, 9


@dataclass
class LoopCrop:
    """The pixels of regions, one region at a time."""

    regions: AlignmentRegions
    grid: torch.Tensor
    normalized: torch.Tensor
    rays: torch.Tensor

    def sample(self, maps: torch.Tensor) -> torch.Tensor:
        """One full-size copy of its map for every region."""
        copies = maps[self.regions.image_indices]
        return F.grid_sample(copies, self.normalized, mode="nearest", align_corners=False)


def loop_crop(regions: AlignmentRegions) -> LoopCrop:
    grids, normalized, rays = [], [], []
    sizes = regions.image_sizes[regions.image_indices]
    for box, (height, width), intrinsics in zip(
        regions.boxes, sizes.tolist(), regions.intrinsics, strict=True
    ):
        x0, y0, x1, y1 = box.round().int().tolist()
        x1, y1 = min(x1, width), min(y1, height)
        steps = torch.arange(GRID) / GRID
        x = x0 + (steps * (x1 - x0)).floor()
        y = y0 + (steps * (y1 - y0)).floor()
        y, x = torch.meshgrid(y, x, indexing="ij")
        grids.append(torch.stack([x, y]))
        normalized.append(torch.stack([x / (width - 1), y / (height - 1)], dim=-1) * 2 - 1)
        pixels = torch.stack([x, y, torch.ones_like(x)]).flatten(1)
        rays.append((torch.linalg.inv(intrinsics) @ pixels).reshape(3, GRID, GRID))
    return LoopCrop(regions, *(torch.stack(each) for each in (grids, normalized, rays)))


def svd_solve(
    source: torch.Tensor, target: torch.Tensor, weights: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """The uncentred solve of points (N, 3, P) in float64, differentiated by autograd."""
    source, target, weights = source.double(), target.double(), weights.double()
    weights = (weights / weights.sum(dim=1, keepdim=True))[:, None]
    u, _, vh = torch.linalg.svd((weights * target) @ source.mT)
    sign = torch.linalg.det(u @ vh)
    flip = torch.stack([torch.ones_like(sign), torch.ones_like(sign), sign], dim=1)
    rotation = u @ torch.diag_embed(flip) @ vh
    mean_source, mean_target = ((weights * each).sum(dim=2) for each in (source, target))
    translation = mean_target - (rotation @ mean_source[..., None]).squeeze(-1)
    return rotation.float(), translation.float()


class DensePixels(MaskedPixels):
    """All pixels, in maps: what is masked is computed and then set to zero."""

    @classmethod
    def of(cls, masks: torch.Tensor) -> DensePixels:
        return cls(masks, masks, (len(masks), *masks.shape[2:]))

    def gather(self, maps: torch.Tensor) -> torch.Tensor:
        return maps

    def scatter(self, values: torch.Tensor) -> torch.Tensor:
        return values * self.rows

    def spread(self, values: torch.Tensor) -> torch.Tensor:
        return values[..., None, None].expand(-1, -1, *self.size[1:])

    def maximum(self, values: torch.Tensor) -> torch.Tensor:
        return (values * self.rows).flatten(2).max(dim=2).values


def dense_roi_align(
    features: torch.Tensor,
    boxes: torch.Tensor,
    image_indices: torch.Tensor,
    pixels: MaskedPixels,
    sampling_ratio: int,
) -> torch.Tensor:
    """torchvision's, at all cells."""
    regions = torch.cat([image_indices[:, None].to(boxes.dtype), boxes], dim=1)
    return roi_align(features, regions, pixels.size[1:], 1.0, sampling_ratio, aligned=False)


class ConvolutionMLP(SharedMLP):
    """Repeats the code at every pixel, then convolves."""

    def forward(
        self, values: torch.Tensor, pixels: MaskedPixels, code: torch.Tensor | None = None
    ) -> torch.Tensor:
        maps = values if code is None else torch.cat([pixels.spread(code), values], dim=1)
        for layer in self.hiddens:
            maps = F.relu(layer(maps))
        return maps if self.output is None else self.output(maps)


class LoopAlignmentHead(AlignmentHead):
    """The same head and parameters with the baseline's formulations."""

    def __init__(self, **options: object) -> None:
        super().__init__(**options)
        for net in (self.shape_encoder.shared_net, self.noc_head, self.noc_weight_head):
            net.__class__ = ConvolutionMLP

    def losses(self, *args: object, **kwargs: object) -> dict[str, torch.Tensor]:
        with (
            mock.patch.object(alignment_head, "MaskedPixels", DensePixels),
            mock.patch.object(shape_encoder, "pixel_roi_align", dense_roi_align),
        ):
            return super().losses(*args, **kwargs)

    def _crop(self, regions: AlignmentRegions) -> LoopCrop:
        return loop_crop(regions)

    def _solve(
        self,
        nocs: torch.Tensor,
        scales: torch.Tensor,
        offsets: torch.Tensor,
        mask_pred: torch.Tensor,
        confidences: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        has_enough = mask_pred.flatten(1).sum(dim=1) >= self.min_pixels
        solution = svd_solve(
            (scales[..., None, None] * nocs)[has_enough].flatten(2),
            offsets[has_enough].flatten(2),
            (confidences * mask_pred)[has_enough].flatten(1),
        )
        # All regions of this benchmark have enough pixels.
        return *solution, has_enough


def make_inputs(count: int) -> dict[str, object]:
    random = torch.Generator().manual_seed(0)
    corners = torch.rand(count, 2, generator=random) * torch.tensor([WIDTH - 170.0, HEIGHT - 170])
    extents = 40 + 120 * torch.rand(count, 2, generator=random)
    intrinsics = torch.tensor([[430.0, 0, WIDTH / 2], [0, 430, HEIGHT / 2], [0, 0, 1]])
    probs = torch.rand(count, 1, GRID, GRID, generator=random)
    regions = AlignmentRegions(
        boxes=torch.cat([corners, corners + extents], dim=1),
        classes=torch.arange(count) % CLASSES,
        image_indices=torch.arange(count) // (count // BATCH),
        image_sizes=torch.tensor([[HEIGHT, WIDTH]] * BATCH),
        intrinsics=intrinsics.expand(count, 3, 3),
        weights=torch.rand(count, generator=random) + 0.5,
        scenes=[None] * count,
    )
    targets = AlignmentTargets(
        depths=torch.rand(BATCH, 1, HEIGHT, WIDTH, generator=random) + 1,
        masks=(probs > 0.4).float(),
        rotations=torch.eye(3).expand(count, 3, 3),
        translations=torch.randn(count, 3, generator=random),
        scales=torch.rand(count, 3, generator=random) + 0.5,
    )
    features = torch.rand(BATCH, CHANNELS, HEIGHT // 4, WIDTH // 4, generator=random)
    depths = torch.rand(BATCH, 1, HEIGHT, WIDTH, generator=random) + 1
    return {
        "regions": regions,
        "depth_features": features.requires_grad_(),
        "depths": depths.requires_grad_(),
        "mask_probs": probs,
        "mask_pred": (probs > 0.5).float(),
        "targets": targets,
    }


def step(head: AlignmentHead, inputs: dict[str, object]) -> dict[str, torch.Tensor]:
    for each in (*head.parameters(), inputs["depth_features"], inputs["depths"]):
        each.grad = None
    losses = head.losses(**inputs)
    sum(losses.values()).backward()
    return {name: loss.detach() for name, loss in losses.items()}


def geometry_step(head: AlignmentHead, inputs: dict[str, object], nocs: torch.Tensor) -> None:
    """Only what is geometry: grid, crops of both depth maps, back-projection, solve."""
    regions, mask, targets = inputs["regions"], inputs["mask_pred"], inputs["targets"]
    inputs["depths"].grad = None
    crop = head._crop(regions)
    offsets = crop.rays * crop.sample(inputs["depths"]) * mask
    gt_points = crop.rays * crop.sample(targets.depths)
    offsets = offsets - gt_points.mean(dim=(2, 3), keepdim=True)
    solution = head._solve(nocs, targets.scales, offsets, mask, inputs["mask_probs"])
    (solution[0].sum() + solution[1].sum()).backward()


def main() -> None:
    count = 128
    inputs = make_inputs(count)
    options = {
        "num_classes": CLASSES,
        "in_channels": CHANNELS,
        "grid_size": GRID,
        "shape_pixel_sizes": (64, 64),
        "shape_code_sizes": (64, 64),
        "scale_sizes": (64, 64),
        "translation_sizes": (64,),
        "noc_sizes": (64, 64),
        "confidence_sizes": (64,),
        "dropout": 0.0,
    }
    torch.manual_seed(0)
    ours = AlignmentHead(**options)
    baseline = LoopAlignmentHead(**options)
    baseline.load_state_dict(ours.state_dict())
    expected, losses = step(baseline, inputs), step(ours, inputs)
    for name, loss in losses.items():
        torch.testing.assert_close(loss, expected[name], rtol=1e-3, atol=1e-4)

    where = f"{count} regions, {BATCH} images {WIDTH}x{HEIGHT}, forward + backward"
    nocs = torch.randn(count, 3, GRID, GRID, generator=torch.Generator().manual_seed(1))
    compare(
        f"geometry of the alignment head (grid, crops, solve), {where}, vs loop over regions",
        lambda: geometry_step(baseline, inputs, nocs),
        lambda: geometry_step(ours, inputs, nocs),
    )
    compare(
        f"alignment head, layers of 64, {where}, vs loop over regions",
        lambda: step(baseline, inputs),
        lambda: step(ours, inputs),
    )


if __name__ == "__main__":
    main()
