"""Fast R-CNN: box head, output layers, losses, inference."""

import math

import pytest
import torch
from detectron2.config import get_cfg
from detectron2.layers import ShapeSpec
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.roi_heads import (
    ROI_BOX_HEAD_REGISTRY,
    FastRCNNConvFCHead,
    FastRCNNOutputLayers,
    build_box_head,
)
from detectron2.modeling.roi_heads.fast_rcnn import fast_rcnn_inference
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

UNIT_TRANSFORM = Box2BoxTransform((1.0, 1.0, 1.0, 1.0))


def make_layers(num_classes=3, channels=4, **kwargs) -> FastRCNNOutputLayers:
    arguments = {"box2box_transform": UNIT_TRANSFORM, "num_classes": num_classes}
    return FastRCNNOutputLayers(ShapeSpec(channels=channels), **{**arguments, **kwargs})


def make_proposals(classes, with_boxes=True) -> Instances:
    """Boxes of side 10 in a 100 x 100 image; the true boxes are moved right by 2."""
    boxes = torch.tensor([[10.0 * i, 0, 10.0 * i + 10, 10] for i in range(len(classes))])
    boxes = boxes.reshape(-1, 4)
    proposals = Instances((100, 100), proposal_boxes=Boxes(boxes))
    proposals.gt_classes = torch.tensor(classes, dtype=torch.int64)
    if with_boxes:
        proposals.gt_boxes = Boxes(boxes + torch.tensor([2.0, 0, 2, 0]))
    return proposals


def latest(storage: EventStorage) -> dict[str, float]:
    return {name: value for name, (value, _) in storage.latest().items()}


def test_box_head_names_and_shapes():
    head = FastRCNNConvFCHead(
        ShapeSpec(channels=2, height=3, width=5),
        conv_dims=OmegaConf.create([4]),
        fc_dims=OmegaConf.create([6, 7]),
    )
    assert " ".join(name for name, _ in head.named_children()) == (
        "conv1 flatten fc1 fc_relu1 fc2 fc_relu2"
    )
    assert head.fc1.weight.shape == (6, 4 * 3 * 5)
    assert head.output_shape == ShapeSpec(channels=7)
    output = head(torch.randn(2, 2, 3, 5))
    assert output.shape == (2, 7)
    assert (output >= 0).all()
    assert head(torch.zeros(0, 2, 3, 5)).shape == (0, 7)


def test_box_head_without_fully_connected_layers():
    head = FastRCNNConvFCHead(
        ShapeSpec(channels=2, height=3, width=5), conv_dims=[4, 8], fc_dims=[], conv_norm="BN"
    )
    assert head.output_shape == ShapeSpec(channels=8, height=3, width=5)
    assert head.conv1.bias is None
    assert isinstance(head.conv2.norm, torch.nn.BatchNorm2d)
    assert head(torch.randn(2, 2, 3, 5)).shape == (2, 8, 3, 5)


def test_box_head_needs_layers():
    with pytest.raises(AssertionError):
        FastRCNNConvFCHead(ShapeSpec(channels=2, height=3, width=3), conv_dims=[], fc_dims=[])


def test_box_head_from_yacs():
    cfg = get_cfg()
    cfg.MODEL.ROI_BOX_HEAD.NAME = "FastRCNNConvFCHead"
    cfg.MODEL.ROI_BOX_HEAD.NUM_CONV = 1
    cfg.MODEL.ROI_BOX_HEAD.CONV_DIM = 4
    cfg.MODEL.ROI_BOX_HEAD.NUM_FC = 2
    cfg.MODEL.ROI_BOX_HEAD.FC_DIM = 6
    head = build_box_head(cfg, ShapeSpec(channels=2, height=3, width=3))
    assert type(head) is ROI_BOX_HEAD_REGISTRY.get("FastRCNNConvFCHead")
    assert head.conv1.weight.shape == (4, 2, 3, 3)
    assert head.fc2.weight.shape == (6, 6)


def test_output_layers_shapes():
    torch.manual_seed(0)
    layers = FastRCNNOutputLayers(
        ShapeSpec(channels=64, height=2, width=2), box2box_transform=UNIT_TRANSFORM, num_classes=5
    )
    assert layers.cls_score.weight.shape == (6, 256)
    assert layers.bbox_pred.weight.shape == (20, 256)
    assert layers.cls_score.weight.std().item() == pytest.approx(0.01, rel=0.1)
    assert layers.bbox_pred.weight.std().item() == pytest.approx(0.001, rel=0.1)
    assert not layers.cls_score.bias.any() and not layers.bbox_pred.bias.any()
    scores, deltas = layers(torch.randn(3, 64, 2, 2))
    assert (scores.shape, deltas.shape) == ((3, 6), (3, 20))


def test_output_layers_of_integer_shape_and_one_box():
    layers = FastRCNNOutputLayers(
        8, box2box_transform=UNIT_TRANSFORM, num_classes=5, cls_agnostic_bbox_reg=True
    )
    scores, deltas = layers(torch.randn(3, 8))
    assert (scores.shape, deltas.shape) == ((3, 6), (3, 4))


def test_losses_by_hand():
    """Two of four proposals are foreground; uniform logits; zero deltas."""
    layers = make_layers()
    proposals = make_proposals([0, 2, 3, 3])
    with EventStorage() as storage:
        losses = layers.losses((torch.zeros(4, 4), torch.zeros(4, 12)), [proposals])
    assert losses["loss_cls"].item() == pytest.approx(math.log(4))
    # Each foreground box is off by 2 / 10 in dx; four proposals in the denominator.
    assert losses["loss_box_reg"].item() == pytest.approx(2 * 0.2 / 4)
    # The maximum of equal logits is the first class.
    assert latest(storage) == {
        "fast_rcnn/cls_accuracy": 0.25,
        "fast_rcnn/fg_cls_accuracy": 0.5,
        "fast_rcnn/false_negative": 0.0,
    }


def test_regression_uses_the_true_class_only():
    layers = make_layers()
    proposals = make_proposals([1, 3])
    deltas = torch.full((2, 12), 100.0)
    deltas[0, 4:8] = torch.tensor([0.2, 0.0, 0.0, 0.0])
    with EventStorage():
        losses = layers.losses((torch.zeros(2, 4), deltas), [proposals])
    assert losses["loss_box_reg"].item() == pytest.approx(0.0, abs=1e-6)


def test_class_agnostic_regression():
    layers = make_layers(cls_agnostic_bbox_reg=True)
    with EventStorage():
        losses = layers.losses((torch.zeros(2, 4), torch.zeros(2, 4)), [make_proposals([1, 3])])
    assert losses["loss_box_reg"].item() == pytest.approx(0.2 / 2)


def test_statistics_without_foreground():
    logits = torch.tensor([[0.0, 0.0, 0.0, 1.0], [1.0, 0.0, 0.0, 0.0]])
    with EventStorage() as storage:
        make_layers().losses((logits, torch.zeros(2, 12)), [make_proposals([3, 3])])
    assert latest(storage) == {"fast_rcnn/cls_accuracy": 0.5}


def test_missed_objects_are_counted():
    logits = torch.tensor([[0.0, 0.0, 0.0, 1.0], [1.0, 0.0, 0.0, 0.0]])
    with EventStorage() as storage:
        make_layers().losses((logits, torch.zeros(2, 12)), [make_proposals([0, 0])])
    assert latest(storage)["fast_rcnn/false_negative"] == 0.5


def test_images_with_and_without_objects():
    """Proposals of an image without objects have no gt_boxes."""
    proposals = [make_proposals([0]), make_proposals([3], with_boxes=False)]
    with EventStorage():
        losses = make_layers().losses((torch.zeros(2, 4), torch.zeros(2, 12)), proposals)
    assert losses["loss_box_reg"].item() == pytest.approx(0.2 / 2)


@pytest.mark.parametrize(
    "proposals",
    [pytest.param([], marks=pytest.mark.standalone_only), [make_proposals([])]],
    ids=["no image", "no proposal"],
)
def test_losses_of_nothing(proposals):
    logits = torch.zeros(0, 4, requires_grad=True)
    deltas = torch.zeros(0, 12, requires_grad=True)
    with EventStorage() as storage:
        losses = make_layers().losses((logits, deltas), proposals)
    assert [x.item() for x in losses.values()] == [0.0, 0.0]
    assert storage.latest() == {}
    sum(losses.values()).backward()
    assert logits.grad is not None and deltas.grad is not None


@pytest.mark.parametrize(
    ("loss_weight", "expected"),
    [(2.0, (2.0, 2.0)), (OmegaConf.create({"loss_box_reg": 3.0}), (1.0, 3.0))],
)
def test_loss_weights(loss_weight, expected):
    predictions = (torch.zeros(2, 4), torch.zeros(2, 12))
    with EventStorage():
        losses = make_layers(loss_weight=loss_weight).losses(predictions, [make_proposals([0, 3])])
    assert losses["loss_cls"].item() == pytest.approx(expected[0] * math.log(4))
    assert losses["loss_box_reg"].item() == pytest.approx(expected[1] * 0.1)


@pytest.mark.parametrize("box_reg_loss_type", ["giou", "diou", "ciou"])
def test_box_losses_vanish_at_the_target(box_reg_loss_type):
    layers = make_layers(box_reg_loss_type=box_reg_loss_type)
    deltas = torch.tensor([0.2, 0, 0, 0]).repeat(2, 3)
    with EventStorage():
        losses = layers.losses((torch.zeros(2, 4), deltas), [make_proposals([0, 1])])
    assert losses["loss_box_reg"].item() == pytest.approx(0.0, abs=1e-5)


def test_unknown_box_loss():
    layers = make_layers(box_reg_loss_type="l7")
    with EventStorage(), pytest.raises(ValueError, match="l7"):
        layers.losses((torch.zeros(1, 4), torch.zeros(1, 12)), [make_proposals([0])])


def test_sigmoid_loss():
    """Three binary problems of log 2 per proposal; background has no column of its own."""
    logits = torch.zeros(2, 4)
    logits[:, 3] = 50.0
    layers = make_layers(use_sigmoid_ce=True)
    with EventStorage():
        losses = layers.losses((logits, torch.zeros(2, 12)), [make_proposals([0, 3])])
        empty = layers.losses((torch.zeros(0, 4), torch.zeros(0, 12)), [make_proposals([])])
    assert losses["loss_cls"].item() == pytest.approx(3 * math.log(2))
    assert empty["loss_cls"].item() == 0


def test_federated_loss():
    """Class 2 has no weight: classes 0 (present) and 1 (drawn) remain of three."""
    layers = make_layers(
        use_fed_loss=True,
        use_sigmoid_ce=True,
        get_fed_loss_cls_weights=lambda: torch.tensor([1.0, 1.0, 0.0]),
        fed_loss_num_classes=2,
    )
    with EventStorage():
        losses = layers.losses((torch.zeros(1, 4), torch.zeros(1, 12)), [make_proposals([0])])
        everything = layers.losses(
            (torch.zeros(3, 4), torch.zeros(3, 12)), [make_proposals([0, 1, 2])]
        )
    assert losses["loss_cls"].item() == pytest.approx(2 * math.log(2))
    assert everything["loss_cls"].item() == pytest.approx(3 * math.log(2))


@pytest.mark.standalone_only
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "use_sigmoid_ce"),
        ({"use_sigmoid_ce": True}, "get_fed_loss_cls_weights"),
        (
            {"use_sigmoid_ce": True, "get_fed_loss_cls_weights": lambda: torch.ones(3)},
            "fed_loss_num_classes=50 exceeds the 3 classes",
        ),
        (
            {
                "use_sigmoid_ce": True,
                "get_fed_loss_cls_weights": lambda: torch.ones(2),
                "fed_loss_num_classes": 2,
            },
            "2 weights for 3 classes",
        ),
    ],
)
def test_federated_loss_errors(arguments, message):
    with pytest.raises(ValueError, match=message):
        make_layers(use_fed_loss=True, **arguments)


def test_predictions():
    layers = make_layers()
    proposals = [make_proposals([1]), make_proposals([2, 3])]
    deltas = torch.zeros(3, 12)
    deltas[0, 4] = deltas[1, 8] = deltas[2, 8] = 1.0
    logits = torch.randn(3, 4)
    boxes = layers.predict_boxes((logits, deltas), proposals)
    assert [tuple(x.shape) for x in boxes] == [(1, 12), (2, 12)]
    assert boxes[0][0].tolist() == [0, 0, 10, 10, 10, 0, 20, 10, 0, 0, 10, 10]
    of_class = layers.predict_boxes_for_gt_classes((logits, deltas), proposals)
    # The last proposal is background and takes the last class.
    assert [x.tolist() for x in of_class] == [
        [[10, 0, 20, 10]],
        [[10, 0, 20, 10], [20, 0, 30, 10]],
    ]
    probs = layers.predict_probs((logits, deltas), proposals)
    assert [tuple(x.shape) for x in probs] == [(1, 4), (2, 4)]
    torch.testing.assert_close(torch.cat(list(probs)), logits.softmax(dim=1))


def test_class_agnostic_boxes_of_the_true_class():
    layers = make_layers(cls_agnostic_bbox_reg=True)
    deltas = torch.tensor([[1.0, 0, 0, 0], [0, 0, 0, 0]])
    boxes = layers.predict_boxes_for_gt_classes((None, deltas), [make_proposals([2, 3])])
    assert boxes[0].tolist() == [[10, 0, 20, 10], [10, 0, 20, 10]]


def test_no_images():
    layers = make_layers()
    predictions = (torch.zeros(0, 4), torch.zeros(0, 12))
    assert len(layers.predict_boxes(predictions, [])) == 0
    assert len(layers.predict_boxes_for_gt_classes(predictions, [])) == 0
    assert layers.inference(predictions, []) == ([], [])


def test_sigmoid_probabilities():
    layers = make_layers(use_sigmoid_ce=True)
    probs = layers.predict_probs((torch.zeros(1, 4), None), [make_proposals([0])])
    assert probs[0].tolist() == [[0.5] * 4]


def test_inference_by_hand():
    """Suppression within a class only, boxes clipped, best first."""
    row = torch.tensor([[0.0, 0, 10, 10], [50, 50, 120, 90]])
    boxes = row.flatten().repeat(3, 1)
    scores = torch.tensor([[0.9, 0.5, 0.6], [0.8, 0.4, 0.6], [0.3, 0.3, 0.6]])
    (result,), (rows,) = fast_rcnn_inference([boxes], [scores], [(100, 100)], 0.4, 0.5, -1)
    torch.testing.assert_close(result.scores, torch.tensor([0.9, 0.5]))
    assert result.pred_classes.tolist() == [0, 1]
    assert result.pred_boxes.tensor.tolist() == [[0, 0, 10, 10], [50, 50, 100, 90]]
    assert rows.tolist() == [0, 0]
    assert result.image_size == (100, 100)


def test_score_threshold_is_strict():
    boxes, scores = torch.tensor([[0.0, 0, 10, 10]]), torch.tensor([[0.5, 0.5]])
    (at_threshold,), _ = fast_rcnn_inference([boxes], [scores], [(20, 20)], 0.5, 0.5, -1)
    (above,), _ = fast_rcnn_inference([boxes], [scores], [(20, 20)], 0.49, 0.5, -1)
    assert (len(at_threshold), len(above)) == (0, 1)


def test_inference_top_k():
    boxes = torch.tensor([[20.0 * i, 0, 20 * i + 10, 10] for i in range(4)])
    scores = torch.tensor([[0.1, 0], [0.4, 0], [0.3, 0], [0.2, 0]])
    arguments = ([boxes], [scores], [(100, 100)], 0.0, 0.5)
    _, (rows,) = fast_rcnn_inference(*arguments, 2)
    assert rows.tolist() == [1, 2]
    (none,), _ = fast_rcnn_inference(*arguments, 0)
    assert len(none) == 0
    _, (rows,) = fast_rcnn_inference(*arguments, -1)
    assert rows.tolist() == [1, 2, 3, 0]


def test_inference_drops_non_finite_rows():
    """Row indices count after the removal."""
    boxes = torch.tensor([[0.0, 0, 10, 10], [20, 0, 30, 10], [40, 0, 50, 10]])
    scores = torch.tensor([[math.nan, 0.5], [0.5, 0.5], [0.9, 0.1]])
    (result,), (rows,) = fast_rcnn_inference([boxes], [scores], [(100, 100)], 0.0, 0.5, 10)
    assert rows.tolist() == [1, 0]
    assert result.pred_boxes.tensor[:, 0].tolist() == [40, 20]
    boxes[1, 2] = math.inf
    (result,), (rows,) = fast_rcnn_inference([boxes], [scores], [(100, 100)], 0.0, 0.5, 10)
    assert rows.tolist() == [0]


@pytest.mark.parametrize("columns", [4, 12])
def test_inference_of_nothing(columns):
    (result,), (rows,) = fast_rcnn_inference(
        [torch.zeros(0, columns)], [torch.zeros(0, 4)], [(10, 10)], 0.0, 0.5, 10
    )
    assert len(result) == 0 and len(rows) == 0
    assert result.pred_boxes.tensor.shape == (0, 4)


def test_inference_method():
    torch.manual_seed(0)
    layers = make_layers(test_score_thresh=0.2, test_topk_per_image=3)
    proposals = [make_proposals([]), make_proposals([0, 0, 0])]
    results, rows = layers.inference((torch.randn(3, 4), torch.zeros(3, 12)), proposals)
    assert len(results[0]) == 0
    assert 0 < len(results[1]) == len(rows[1]) <= 3
    expected = proposals[1].proposal_boxes.tensor[rows[1]]
    torch.testing.assert_close(results[1].pred_boxes.tensor, expected)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**31), st.integers(0, 12), st.booleans())
def test_inference_properties(seed, num_rows, class_agnostic):
    generator = torch.Generator().manual_seed(seed)
    num_boxes = 1 if class_agnostic else 3
    corners = torch.rand(num_rows, num_boxes, 2, 2, generator=generator) * 120 - 10
    boxes = torch.cat([corners.amin(dim=2), corners.amax(dim=2)], dim=-1).flatten(1)
    scores = torch.rand(num_rows, 4, generator=generator)
    (result,), (rows,) = fast_rcnn_inference([boxes], [scores], [(100, 80)], 0.3, 0.5, 5)
    assert len(result) <= 5
    assert (result.scores > 0.3).all()
    assert torch.equal(result.scores, result.scores.sort(descending=True).values)
    assert torch.equal(result.scores, scores[rows, result.pred_classes])
    assert result.pred_boxes.inside_box((100, 80), boundary_threshold=1).all()


def test_output_layers_from_yacs():
    cfg = get_cfg()
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = 4
    cfg.MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG = True
    cfg.MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_WEIGHT = 2.5
    cfg.TEST.DETECTIONS_PER_IMAGE = 7
    layers = FastRCNNOutputLayers(cfg, ShapeSpec(channels=8))
    assert layers.cls_score.out_features == 5
    assert layers.bbox_pred.out_features == 4
    assert tuple(layers.box2box_transform.weights) == (10, 10, 5, 5)
    assert layers.test_topk_per_image == 7
    assert layers.test_score_thresh == 0.05
    assert layers.loss_weight == {"loss_box_reg": 2.5}
