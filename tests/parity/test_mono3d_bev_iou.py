"""Overlap in the bird's-eye view, and of boxes given by corners, against independent solutions."""

from pathlib import Path

import numpy as np
import pytest
import torch

from roca_nocs.geometry.box3d_overlap import elementwise_overlap
from roca_nocs.geometry.cuboids import bev_boxes, bev_iou, box3d_iou, boxes_from_corners

Arrays = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def golden(golden_dir: Path) -> Arrays:
    with np.load(golden_dir / "mono3d" / "iou3d_pairs.npz") as arrays:
        return {name: torch.from_numpy(arrays[name]) for name in arrays.files if name != "category"}


def rectangles(golden: Arrays, which: int) -> torch.Tensor:
    center, dimensions = golden[f"center{which}"], golden[f"dims_whl{which}"]
    yaw = golden[f"yaw{which}"]
    parts = [center[:, 0], center[:, 2], dimensions[:, 2], dimensions[:, 0], yaw]
    return torch.stack(parts, dim=1)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-7), (torch.float32, 1e-4)])
def test_bev(golden: Arrays, dtype: torch.dtype, tolerance: float) -> None:
    upright = golden["iou_bev"].isfinite()
    assert upright.any()
    one, two = (rectangles(golden, which)[upright].to(dtype) for which in (1, 2))
    expected = golden["iou_bev"][upright].to(dtype)
    _, iou = elementwise_overlap(bev_boxes(one), bev_boxes(two))
    torch.testing.assert_close(iou, expected, rtol=0, atol=tolerance)
    area, iou = bev_iou(one[::5], two[::5])
    torch.testing.assert_close(iou.diagonal(), expected[::5], rtol=0, atol=tolerance)
    total = one[::5, 2] * one[::5, 3] + two[::5, 2] * two[::5, 3]
    torch.testing.assert_close(
        area.diagonal(), total * expected[::5] / (1 + expected[::5]), rtol=tolerance, atol=tolerance
    )


def test_corners(golden: Arrays) -> None:
    one, two = (boxes_from_corners(golden[f"corners{which}"]) for which in (1, 2))
    for which, boxes in ((1, one), (2, two)):
        torch.testing.assert_close(boxes.center, golden[f"center{which}"], rtol=0, atol=1e-9)
        extents = golden[f"dims_whl{which}"].flip(1)
        torch.testing.assert_close(boxes.extents, extents, rtol=0, atol=1e-9)
    volume, iou = elementwise_overlap(one, two)
    torch.testing.assert_close(iou, golden["iou3d"], rtol=0, atol=1e-7)
    pairs = box3d_iou(golden["corners1"][::5], golden["corners2"][::5])
    for ours, expected in zip(pairs, (volume, iou), strict=True):
        torch.testing.assert_close(ours.diagonal(), expected[::5], rtol=0, atol=1e-9)
