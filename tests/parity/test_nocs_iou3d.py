"""3D IoU of posed boxes against the published evaluation and its corrections."""

from pathlib import Path

import numpy as np
import pytest
import torch

from roca_nocs.geometry.box3d import corners, elementwise_iou

ROUND = ["bottle", "bowl", "can"]


@pytest.fixture(scope="module")
def golden(golden_dir: Path) -> dict[str, np.ndarray]:
    with np.load(golden_dir / "nocs" / "iou3d.npz") as arrays:
        return dict(arrays)


def boxes(golden: dict[str, np.ndarray]) -> list[torch.Tensor]:
    names = ("size_pred", "RT_pred", "size_gt", "RT_gt")
    return [torch.from_numpy(golden[name]) for name in names]


@pytest.mark.parametrize(
    ("mode", "name", "tolerance"),
    [("nocs", "iou_official", 1e-6), ("aabb", "iou_aabb", 1e-6), ("obb", "iou_obb", 1e-6)],
)
def test_iou(golden: dict[str, np.ndarray], mode: str, name: str, tolerance: float) -> None:
    pred, gt = golden["class_pred"], golden["class_gt"]
    hidden = (gt == "mug") & (golden["handle_visibility"] == 0)
    symmetric = torch.from_numpy((pred == gt) & (np.isin(gt, ROUND) | hidden))
    iou = elementwise_iou(*boxes(golden), mode=mode, symmetric=symmetric)
    expected = torch.from_numpy(golden[name])
    torch.testing.assert_close(iou, expected, rtol=0, atol=tolerance, equal_nan=True)


def test_corners(golden: dict[str, np.ndarray]) -> None:
    extents, pose = boxes(golden)[:2]
    expected = torch.from_numpy(golden["corners_pred"]).mT
    torch.testing.assert_close(corners(extents, pose), expected, rtol=0, atol=1e-6)
