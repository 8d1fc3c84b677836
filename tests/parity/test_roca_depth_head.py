"""The depth head against the numbers of the published code."""

from pathlib import Path

import numpy as np
import pytest
import torch

from parity.reference_weights import fill
from roca_nocs.modeling.dense_heads import DepthHead


@pytest.fixture(scope="module")
def golden(golden_dir: Path) -> dict[str, np.ndarray]:
    with np.load(golden_dir / "roca" / "depth_head.npz") as file:
        return dict(file)


def test_maps(golden: dict[str, np.ndarray]) -> None:
    head = DepthHead(squeeze_padding=True)
    parameters = dict(head.named_parameters())
    names = golden["param_names_sorted"].tolist()
    assert sorted(parameters) == names
    fill(parameters, names, float(golden["fill_seed"]), float(golden["fill_gain"]))
    features = {
        name.removeprefix("feat_"): torch.from_numpy(array)
        for name, array in golden.items()
        if name.startswith("feat_")
    }
    count, _, height, width = features["p2"].shape
    sizes = [tuple(golden["image_size_hw"].tolist())] * count
    with torch.no_grad():
        parameters["fpn_depth_output.output.0.bias"].fill_(float(golden["final_bias"]))
        actual = head(features, sizes, (4 * height, 4 * width))
    for name, maps in zip(("depth_features", "depth"), actual, strict=True):
        np.testing.assert_allclose(maps, golden[f"out_{name}"], rtol=1e-4, atol=1e-4)


def test_losses(golden: dict[str, np.ndarray]) -> None:
    head = DepthHead(gradient_loss_weight=1.0, normal_loss_weight=1.0)
    depth, gt_depth = (torch.from_numpy(golden[name]) for name in ("out_depth", "depth_gt"))
    losses = head.losses(depth, gt_depth)
    expected = {name for name in golden if name.startswith("out_loss_")}
    assert {f"out_{name}" for name in losses} == expected
    for name, loss in losses.items():
        assert loss.item() == pytest.approx(golden[f"out_{name}"].item(), rel=1e-4)
