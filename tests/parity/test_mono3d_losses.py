"""The six losses, and the selection of class and bin, against independent values."""

from pathlib import Path

import numpy as np
import pytest
import torch

from roca_nocs.geometry.yaw_bins import YawBins
from roca_nocs.modeling.criteria.mono3d_loss import (
    anchor_box_loss,
    box3d_regression_loss,
    category_loss,
    objectness_loss,
    yaw_losses,
)
from roca_nocs.modeling.mono3d.selection import select_class_from_prediction

Arrays = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def golden(golden_dir: Path) -> Arrays:
    with np.load(golden_dir / "mono3d" / "losses.npz") as arrays:
        return {key: torch.from_numpy(arrays[key]) for key in arrays.files}


def close(ours: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(ours, expected.to(ours.dtype), rtol=1e-5, atol=1e-6)


def test_anchor_losses(golden: Arrays) -> None:
    labels, sampled = golden["rpn_label"], int(golden["rpn_batch_size_per_image"])
    beta = float(golden["beta"])
    deltas, targets = golden["rpn_pred_deltas"], golden["rpn_target_deltas"]
    loss = anchor_box_loss(deltas, targets, labels, sampled, beta=beta)
    close(loss, golden["loss_box2d_smooth_l1"])
    # Huber's loss has the other scale.
    close(beta * loss, golden["loss_box2d_huber"])
    loss = objectness_loss(golden["rpn_objectness_logit"], labels, sampled)
    close(loss, golden["loss_objectness"])


def test_head_losses(golden: Arrays) -> None:
    beta = float(golden["beta"])
    num_classes, num_bins = int(golden["num_classes"]), int(golden["num_bins"])
    assert golden["head_category_logit"].shape[-1] == num_classes + 1
    category, valid = golden["gt_category"], golden["roi_valid"]
    mask = valid & (category >= 0) & (category < num_classes)
    yaw_bin, residual = YawBins(num_bins).encode(golden["gt_alpha"].squeeze(-1))
    assert torch.equal(yaw_bin[mask], golden["gt_yaw_bin"].squeeze(-1)[mask])
    close(residual[mask], golden["gt_yaw_residual_norm"].squeeze(-1)[mask])
    selected = select_class_from_prediction(
        {
            "bbox3d": golden["head_bbox3d_logit"],
            "yaw_logit": golden["head_yaw_logit"],
            "yaw_resi": golden["head_yaw_resi"],
            "category_logit": golden["head_category_logit"],
        },
        category,
        yaw_bin,
    )
    for name in ("bbox3d", "yaw_logit", "yaw_resi"):
        assert selected[name].shape == golden[f"selected_{name}"].shape
        assert torch.equal(selected[name][mask], golden[f"selected_{name}"][mask])
    count = valid.sum()
    assert count == golden["normaliser"]
    loss = box3d_regression_loss(
        selected["bbox3d"], golden["gt_bbox3d_logit"], mask, count, beta=beta
    )
    close(loss, golden["loss_box3d"])
    in_residual, in_bin = yaw_losses(
        selected["yaw_logit"],
        selected["yaw_resi"].squeeze(-1),
        yaw_bin,
        residual,
        mask,
        count,
        beta=beta,
    )
    close(in_residual, golden["loss_yaw_residual"])
    close(in_bin, golden["loss_yaw_category"])
    close(category_loss(selected["category_logit"], category), golden["loss_category"])
