"""The Omni3D evaluation against the published code with the exact overlap."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from roca_nocs.evaluation.boxes3d import Boxes3D, headings
from roca_nocs.evaluation.omni3d_ap import IN_IMAGE, IN_SPACE, omni3d_precision
from roca_nocs.geometry.cuboids import rotation_from_yaw

Golden = dict[str, np.ndarray]
TAGS = {
    "ap2d": (IN_IMAGE, False),
    "ap2d_prox": (IN_IMAGE, True),
    "ap3d_exact_iou": (IN_SPACE, False),
    "ap3d_exact_iou_prox": (IN_SPACE, True),
}


@pytest.fixture(scope="module")
def golden(golden_dir: Path) -> Golden:
    with np.load(golden_dir / "mono3d" / "omni3d_ap.npz") as arrays:
        return dict(arrays)


def objects(golden: Golden, which: str) -> Boxes3D:
    boxes3d = golden[f"{which}_xyzwhl_yaw"]
    rotations = rotation_from_yaw(torch.from_numpy(boxes3d[:, 6])).numpy()
    corner, size = np.split(golden[f"{which}_bbox_xywh"], 2, axis=1)
    return Boxes3D(
        images=np.searchsorted(golden["image_ids"], golden[f"{which}_image_id"]),
        categories=np.searchsorted(golden["category_ids"], golden[f"{which}_category_id"]),
        boxes=np.concatenate([corner, corner + size], axis=1),
        scores=golden.get(f"{which}_score", np.ones(len(size))),
        centers=boxes3d[:, :3],
        dimensions=boxes3d[:, 3:6],
        rotations=rotations,
        **headings(rotations, boxes3d[:, :3]),
    )


@pytest.mark.parametrize("tag", TAGS)
def test_average_precision(golden: Golden, tag: str) -> None:
    protocol, proximity = TAGS[tag]
    np.testing.assert_allclose(protocol.thresholds, golden[f"{tag}_iou_thresholds"], atol=1e-12)
    result = omni3d_precision(
        objects(golden, "dt"),
        objects(golden, "gt"),
        golden["gt_ignore"].astype(bool),
        len(golden["category_ids"]),
        protocol,
        proximity=proximity,
    )
    # The published code has -1 where there is nothing to find.
    for ours, key in (
        (result.precision, "precision101"),
        (result.precision.mean(axis=1), "ap_per_iou_cat_range"),
        (result.recall[..., -1], "recall_per_iou_cat_range"),
        (np.array(list(result.summary().values())), "stats13"),
    ):
        expected = golden[f"{tag}_{key}"]
        np.testing.assert_allclose(np.where(np.isnan(ours), -1, ours), expected, rtol=0, atol=1e-9)
