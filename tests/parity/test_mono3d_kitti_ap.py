"""The KITTI evaluation against the development kit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from roca_nocs.evaluation.kitti_ap import KittiPrecision, kitti_precision
from roca_nocs.evaluation.kitti_overlaps import KittiObjects

Golden = dict[str, np.ndarray]
METRICS = [
    f"{kind}_{overlap}" for kind in ("2d", "aos", "bev", "3d") for overlap in ("strict", "loose")
]


@pytest.fixture(scope="module")
def golden(golden_dir: Path) -> Golden:
    with np.load(golden_dir / "mono3d" / "kitti_ap.npz") as arrays:
        return dict(arrays)


@pytest.fixture(scope="module")
def result(golden: Golden) -> KittiPrecision:
    pred, gt = (objects(golden, which) for which in ("det", "gt"))
    return kitti_precision(pred, gt, golden["class_names"].tolist())


def objects(golden: Golden, which: str) -> KittiObjects:
    height, width, length = golden[f"{which}_dims_hwl"].T
    centers = golden[f"{which}_location_xyz"].copy()
    centers[:, 1] -= height / 2
    return KittiObjects(
        images=golden[f"{which}_image_index"],
        types=np.char.lower(golden[f"{which}_type"]),
        boxes=golden[f"{which}_bbox_xyxy"],
        scores=golden.get(f"{which}_score", np.ones(len(height))),
        centers=centers,
        dimensions=np.stack([width, height, length], axis=1),
        rotation_y=golden[f"{which}_rotation_y"],
        alphas=golden[f"{which}_alpha"],
        truncation=golden[f"{which}_truncated"],
        occlusion=golden[f"{which}_occluded"],
    )


@pytest.mark.parametrize("metric", METRICS)
def test_precision(golden: Golden, result: KittiPrecision, metric: str) -> None:
    # Overlaps in the image are always the strict ones.
    name = metric if metric in result.precision else metric.split("_")[0]
    np.testing.assert_allclose(
        result.precision[name], golden[f"precision_{metric}"], rtol=0, atol=1e-9
    )
    for recalls in (11, 40):
        expected = golden[f"ap_r{recalls}_{metric}"]
        np.testing.assert_allclose(result.average(name, recalls), expected, rtol=0, atol=1e-6)
