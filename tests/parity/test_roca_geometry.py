"""ROI grids, crops and back-projection against the published implementation."""

from pathlib import Path

import numpy as np
import pytest
import torch

from roca_nocs.geometry.roi_grid import (
    back_project_grid,
    masked_bounding_box,
    normalize_grid,
    roi_pixel_grid,
    sample_at_grid,
)


@pytest.fixture(scope="module")
def golden(golden_dir: Path) -> dict[str, torch.Tensor]:
    with np.load(golden_dir / "roca" / "roi_geometry.npz") as arrays:
        return {name: torch.from_numpy(arrays[name]) for name in arrays.files}


@pytest.fixture(scope="module")
def regions(golden: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    sizes = golden["image_size_hw"].expand(len(golden["boxes_xyxy"]), 2)
    images = torch.repeat_interleave(golden["rois_per_image"])
    grid = roi_pixel_grid(golden["boxes_xyxy"], sizes, int(golden["grid_size"]))
    depth = sample_at_grid(golden["depth_maps"], grid, images, sizes)
    return {
        "sizes": sizes,
        "grid": grid,
        "depth": depth,
        "points": back_project_grid(depth, grid, golden["intrinsics"][images]),
    }


def test_grids(golden: dict[str, torch.Tensor], regions: dict[str, torch.Tensor]) -> None:
    torch.testing.assert_close(regions["grid"], golden["out_xy_grid"], rtol=0, atol=0)
    # The published grid of an empty box is zero after the normalisation too; ours names pixel 0.
    found = golden["out_xy_grid"].flatten(1).any(dim=1)
    normalized = normalize_grid(regions["grid"], regions["sizes"])
    expected = golden["out_xy_grid_n"]
    torch.testing.assert_close(normalized[found], expected[found], rtol=0, atol=1e-6)


def test_crops(golden: dict[str, torch.Tensor], regions: dict[str, torch.Tensor]) -> None:
    torch.testing.assert_close(regions["depth"], golden["out_roi_depth"], rtol=0, atol=0)
    torch.testing.assert_close(regions["points"], golden["out_roi_points"], rtol=1e-5, atol=1e-5)
    masks = golden["instance_masks"][:, None]
    rows = torch.arange(len(masks))
    mask = sample_at_grid(masks, regions["grid"], rows, regions["sizes"])
    assert torch.equal(mask.float(), golden["out_mask_gt"])


def test_masked_box_and_depth(
    golden: dict[str, torch.Tensor], regions: dict[str, torch.Tensor]
) -> None:
    mask = golden["out_mask_gt"]
    depth = regions["depth"] * mask
    minimum, maximum = masked_bounding_box(regions["points"] * mask, depth > 1e-5)
    close = {"rtol": 1e-5, "atol": 1e-5}
    torch.testing.assert_close(minimum, golden["out_masked_bbox_min"], **close)
    torch.testing.assert_close(maximum, golden["out_masked_bbox_max"], **close)
    torch.testing.assert_close((minimum + maximum) / 2, golden["out_masked_bbox_center"], **close)
    mean = depth.flatten(1).sum(dim=1) / mask.flatten(1).sum(dim=1).clamp(min=1e-5)
    torch.testing.assert_close(mean[:, None], golden["out_masked_mean_depth"], **close)
