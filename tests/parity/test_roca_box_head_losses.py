"""Class weights and the losses of the box predictor against the published code."""

from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage

from roca_nocs.losses import class_weights_from_counts
from roca_nocs.modeling.roi_heads.weighted_predictor import WeightedFastRCNNOutputLayers


@pytest.fixture(scope="module")
def golden(golden_dir: Path) -> dict[str, torch.Tensor]:
    with np.load(golden_dir / "roca" / "box_head_losses.npz") as file:
        return {name: torch.from_numpy(np.asarray(array)) for name, array in file.items()}


def test_class_weights(golden: dict[str, torch.Tensor]) -> None:
    weights = class_weights_from_counts(golden["class_counts"])
    expected = golden["out_class_weights_bg_first"].float()
    torch.testing.assert_close(weights, expected, rtol=1e-5, atol=0)


@pytest.mark.parametrize("variant", ["reference", "corrected", "unweighted"])
def test_losses(golden: dict[str, torch.Tensor], variant: str) -> None:
    weights = golden["out_class_weights_bg_first"].float()
    predictor = WeightedFastRCNNOutputLayers(
        4,
        box2box_transform=Box2BoxTransform(weights=(10.0, 10.0, 5.0, 5.0)),
        num_classes=len(weights) - 1,
        class_weights=None if variant == "unweighted" else weights,
        published_indexing=variant == "reference",
    )
    assert "class_weights" not in predictor.state_dict()
    proposals = Instances(
        (1000, 1000),
        proposal_boxes=Boxes(golden["proposal_boxes"]),
        gt_boxes=Boxes(golden["gt_boxes"]),
        gt_classes=golden["gt_classes"],
    )
    with EventStorage():
        losses = predictor.losses((golden["logits"], golden["deltas"]), [proposals])
    for name, loss in losses.items():
        assert loss.item() == pytest.approx(golden[f"out_{name}_{variant}"].item(), rel=1e-5)
