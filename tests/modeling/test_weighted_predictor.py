"""The class-weighted box predictor on odd batches."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from detectron2.modeling import FastRCNNOutputLayers
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage

from roca_nocs.modeling.roi_heads.weighted_predictor import WeightedFastRCNNOutputLayers

CLASSES = 3
ARGUMENTS = {
    "box2box_transform": Box2BoxTransform(weights=(10.0, 10.0, 5.0, 5.0)),
    "num_classes": CLASSES,
}
WEIGHTS = torch.tensor([1.0, 0.5, 0.25, 0.125])


@pytest.fixture(autouse=True)
def storage() -> Iterator[EventStorage]:
    with EventStorage() as storage:
        yield storage


def make_proposals(classes: list[int]) -> Instances:
    generator = torch.Generator().manual_seed(0)
    corner = torch.rand(len(classes), 2, generator=generator) * 50
    boxes = torch.cat([corner, corner + 20], dim=1)
    return Instances(
        (100, 100),
        proposal_boxes=Boxes(boxes),
        gt_boxes=Boxes(boxes + 3),
        gt_classes=torch.tensor(classes, dtype=torch.int64),
    )


def predict(predictor: FastRCNNOutputLayers, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return predictor(torch.randn(count, 5, generator=generator))


def test_without_weights_as_detectron2() -> None:
    ours = WeightedFastRCNNOutputLayers(5, **ARGUMENTS)
    theirs = FastRCNNOutputLayers(5, **ARGUMENTS)
    theirs.load_state_dict(ours.state_dict())
    proposals = [make_proposals([0, 3, 2]), make_proposals([3])]
    predictions = predict(ours, 4)
    assert ours.losses(predictions, proposals) == theirs.losses(predictions, proposals)


def test_equal_weights_average_over_the_foreground() -> None:
    ours = WeightedFastRCNNOutputLayers(5, class_weights=torch.ones(4), **ARGUMENTS)
    proposals = [make_proposals([0, 3, 2, 3, 3])]
    predictions = predict(ours, 5)
    weighted = ours.losses(predictions, proposals)
    ours.set_class_weights(None)
    plain = ours.losses(predictions, proposals)
    torch.testing.assert_close(weighted["loss_cls"], plain["loss_cls"])
    # 2 of 5 proposals are foreground, with 4 coordinates each.
    torch.testing.assert_close(weighted["loss_box_reg"], plain["loss_box_reg"] * 5 / 2 / 4)


def test_weights_by_hand() -> None:
    predictor = WeightedFastRCNNOutputLayers(5, class_weights=WEIGHTS, **ARGUMENTS)
    logits = torch.tensor([[0.0, 0.0, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0]])
    losses = predictor.losses((logits, torch.zeros(2, 12)), [make_proposals([3, 1])])
    entropy = torch.log(torch.tensor([4.0, torch.e + 3]))
    expected = (1.0 * entropy[0] + 0.25 * entropy[1]) / 1.25
    torch.testing.assert_close(losses["loss_cls"], expected)


@pytest.mark.parametrize("classes", [[], [3, 3]])
@pytest.mark.parametrize("agnostic", [False, True])
def test_no_foreground(classes: list[int], agnostic: bool) -> None:
    predictor = WeightedFastRCNNOutputLayers(
        5, class_weights=WEIGHTS, cls_agnostic_bbox_reg=agnostic, **ARGUMENTS
    )
    proposals = [make_proposals(classes)]
    losses = predictor.losses(predict(predictor, len(classes)), proposals)
    assert losses["loss_box_reg"] == 0
    assert (losses["loss_cls"] == 0) == (not classes)
    sum(losses.values()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in predictor.parameters())


def test_no_images() -> None:
    predictor = WeightedFastRCNNOutputLayers(5, class_weights=WEIGHTS, **ARGUMENTS)
    losses = predictor.losses(predict(predictor, 0), [])
    assert {name: loss.item() for name, loss in losses.items()} == dict.fromkeys(losses, 0.0)


def test_class_agnostic_boxes() -> None:
    """One box for all classes gives the loss of equal boxes per class."""
    specific = WeightedFastRCNNOutputLayers(5, class_weights=WEIGHTS, **ARGUMENTS)
    agnostic = WeightedFastRCNNOutputLayers(
        5, class_weights=WEIGHTS, cls_agnostic_bbox_reg=True, **ARGUMENTS
    )
    logits, deltas = torch.zeros(3, 4), torch.rand(3, 4)
    proposals = [make_proposals([0, 3, 2])]
    torch.testing.assert_close(
        specific.losses((logits, deltas.repeat(1, CLASSES)), proposals),
        agnostic.losses((logits, deltas), proposals),
    )


def test_weights_move_with_the_layers_and_stay_out_of_checkpoints() -> None:
    predictor = WeightedFastRCNNOutputLayers(5, class_weights=WEIGHTS, **ARGUMENTS)
    assert set(predictor.state_dict()) == set(FastRCNNOutputLayers(5, **ARGUMENTS).state_dict())
    assert predictor.to("meta").class_weights.device.type == "meta"


def test_rejects() -> None:
    with pytest.raises(ValueError, match=r"3 classes need 4 weights.*\(3,\)"):
        WeightedFastRCNNOutputLayers(5, class_weights=WEIGHTS[1:], **ARGUMENTS)
    with pytest.raises(ValueError, match="giou"):
        WeightedFastRCNNOutputLayers(5, box_reg_loss_type="giou", **ARGUMENTS)
