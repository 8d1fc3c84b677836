"""Loss functions against the published implementation."""

from pathlib import Path

import numpy as np
import pytest
import torch

from roca_nocs import losses


@pytest.fixture(scope="module")
def golden(golden_dir: Path) -> dict[str, torch.Tensor]:
    with np.load(golden_dir / "roca" / "losses.npz") as arrays:
        return {name: torch.from_numpy(arrays[name]) for name in arrays.files}


@pytest.mark.parametrize("suffix", ["", "_w"])
def test_losses(golden: dict[str, torch.Tensor], suffix: str) -> None:
    weights = golden["weights"] if suffix else None
    maps = golden["pred"], golden["target"], golden["mask"]
    depths = golden["depth_pred"], golden["depth_gt"], golden["mask"]
    vectors = golden["vec_pred"], golden["vec_gt"]
    rotations = golden["rot_pred"], golden["rot_gt"]
    logits, mask_gt = golden["mask_logits"], golden["mask_gt"]
    ours = {
        "masked_l1": losses.masked_l1(*maps, weights),
        "masked_l1_instance_average": losses.masked_l1(*maps, weights, per_instance=True),
        "masked_l1_log": losses.masked_log_l1(*maps, weights),
        "inverse_huber": losses.inverse_huber(*depths, weights),
        "inverse_huber_instance_average": losses.inverse_huber(*depths, weights, per_instance=True),
        "cosine_distance": losses.masked_cosine_distance(*maps, weights),
        "l1": losses.l1(*vectors, weights),
        "l2": losses.l2(*vectors, weights),
        "smooth_l1": losses.smooth_l1(*vectors, weights),
        "mask_bce": losses.mask_bce(logits, mask_gt, weights),
        "mask_iou": losses.mask_iou(logits.sigmoid(), mask_gt, weights),
        "angle_diff": losses.rotation_angle(*rotations, weights),
        "l1_rotation_matrix": losses.l1(*rotations, weights),
    }
    for name, value in ours.items():
        expected = float(golden[f"out_{name}{suffix}"])
        assert value.item() == pytest.approx(expected, rel=1e-5), name


@pytest.mark.parametrize("suffix", ["", "_w"])
def test_losses_outside_the_mask(golden: dict[str, torch.Tensor], suffix: str) -> None:
    """The published functions can also leave the inputs unmasked and only divide by the mask."""
    weights = golden["weights"] if suffix else None
    everywhere = torch.ones_like(golden["mask"])
    factors = torch.ones(len(everywhere)) if weights is None else weights
    pixels = (factors[:, None] * everywhere.flatten(1)).sum()
    ratio = pixels / (factors[:, None] * golden["mask"].flatten(1)).sum()
    for loss, pred, target, name in (
        (losses.masked_l1, golden["pred"], golden["target"], "masked_l1"),
        (losses.inverse_huber, golden["depth_pred"], golden["depth_gt"], "inverse_huber"),
    ):
        value = loss(pred, target, everywhere, weights) * ratio
        expected = float(golden[f"out_{name}_unmasked_inputs{suffix}"])
        assert value.item() == pytest.approx(expected, rel=1e-5), name


@pytest.mark.parametrize("suffix", ["", "_w"])
def test_weighted_mean(golden: dict[str, torch.Tensor], suffix: str) -> None:
    """Relative L1 (published with the signed target below) and squared distances are in no loss of
    ours; their mean is."""
    weights = golden["weights"] if suffix else None
    difference, target = golden["vec_pred"] - golden["vec_gt"], golden["vec_gt"]
    for name, values in (
        ("l1_rel", difference.abs() / target),
        ("mse", difference.square()),
    ):
        expected = float(golden[f"out_{name}{suffix}"])
        assert losses.weighted_mean(values, weights).item() == pytest.approx(expected, rel=1e-5)
