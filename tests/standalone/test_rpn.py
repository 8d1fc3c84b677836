"""Region proposal network: head, targets, losses, proposals."""

import math

import pytest
import torch
from detectron2.config import get_cfg
from detectron2.layers import ShapeSpec
from detectron2.modeling.anchor_generator import DefaultAnchorGenerator
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.matcher import Matcher
from detectron2.modeling.proposal_generator import (
    PROPOSAL_GENERATOR_REGISTRY,
    RPN,
    RPN_HEAD_REGISTRY,
    StandardRPNHead,
    build_proposal_generator,
    build_rpn_head,
)
from detectron2.modeling.proposal_generator.proposal_utils import (
    add_ground_truth_to_proposals,
    find_top_rpn_proposals,
)
from detectron2.structures import Boxes, ImageList, Instances
from detectron2.utils.events import EventStorage
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf
from torch import nn


class FixedHead(nn.Module):
    """Predicts given logits and deltas for one level."""

    def __init__(self, logits: torch.Tensor, deltas: torch.Tensor) -> None:
        super().__init__()
        self.logits = nn.Parameter(logits)
        self.deltas = nn.Parameter(deltas)

    def forward(self, features):
        return [self.logits], [self.deltas]


def make_rpn(logits, deltas, **kwargs) -> RPN:
    """One 16 x 16 anchor at each multiple of 16; a sample of at most four anchors."""
    arguments = {
        "in_features": ["p4"],
        "head": FixedHead(logits, deltas),
        "anchor_generator": DefaultAnchorGenerator(
            sizes=[[16]], aspect_ratios=[[1.0]], strides=[16], offset=0.5
        ),
        "anchor_matcher": Matcher([0.3, 0.7], [0, -1, 1], allow_low_quality_matches=True),
        "box2box_transform": Box2BoxTransform((1.0, 1.0, 1.0, 1.0)),
        "batch_size_per_image": 4,
        "positive_fraction": 0.5,
        "pre_nms_topk": (10, 10),
        "post_nms_topk": (10, 10),
    }
    return RPN(**{**arguments, **kwargs})


def row_of_cells(count: int = 2):
    """An image of ``count`` cells of 16 x 16 side by side, and its feature map."""
    images = ImageList(torch.zeros(1, 3, 16, 16 * count), [(16, 16 * count)])
    return images, {"p4": torch.zeros(1, 1, 1, count)}


def ground_truth(boxes, image_size=(16, 32)) -> Instances:
    return Instances(image_size, gt_boxes=Boxes(torch.tensor(boxes).reshape(-1, 4)))


def test_head_names_and_shapes():
    head = StandardRPNHead(in_channels=4, num_anchors=3)
    assert {name: tuple(x.shape) for name, x in head.state_dict().items()} == {
        "conv.weight": (4, 4, 3, 3),
        "conv.bias": (4,),
        "objectness_logits.weight": (3, 4, 1, 1),
        "objectness_logits.bias": (3,),
        "anchor_deltas.weight": (12, 4, 1, 1),
        "anchor_deltas.bias": (12,),
    }
    logits, deltas = head([torch.rand(2, 4, 5, 6), torch.rand(2, 4, 3, 3)])
    assert [tuple(x.shape) for x in logits] == [(2, 3, 5, 6), (2, 3, 3, 3)]
    assert [tuple(x.shape) for x in deltas] == [(2, 12, 5, 6), (2, 12, 3, 3)]


def test_head_with_several_convolutions():
    dims = OmegaConf.create([8, -1, 6])
    head = StandardRPNHead(in_channels=4, num_anchors=1, conv_dims=dims)
    shapes = {name: tuple(x.shape) for name, x in head.state_dict().items() if "weight" in name}
    assert shapes == {
        "conv.conv0.weight": (8, 4, 3, 3),
        "conv.conv1.weight": (8, 8, 3, 3),
        "conv.conv2.weight": (6, 8, 3, 3),
        "objectness_logits.weight": (1, 6, 1, 1),
        "anchor_deltas.weight": (4, 6, 1, 1),
    }


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
@pytest.mark.parametrize(
    "conv_dims", [[-1, 0], [4, -2], pytest.param([0], marks=pytest.mark.standalone_only)]
)
def test_head_without_channels(conv_dims):
    with pytest.raises(ValueError, match=r"(?i)conv"):
        StandardRPNHead(in_channels=4, num_anchors=1, conv_dims=conv_dims)


def test_head_initialisation():
    torch.manual_seed(0)
    head = StandardRPNHead(in_channels=32, num_anchors=3)
    for name, value in head.named_parameters():
        if name.endswith("bias"):
            assert not value.any(), name
        else:
            assert value.std().item() == pytest.approx(0.01, rel=0.15), name


def test_losses_by_hand():
    """One anchor is the object, the other background; all logits 0, one delta off by 0.5."""
    deltas = torch.zeros(1, 4, 1, 2)
    deltas[0, 0, 0, 0] = 0.5
    rpn = make_rpn(torch.zeros(1, 1, 1, 2), deltas)
    images, features = row_of_cells()
    with EventStorage() as storage:
        proposals, losses = rpn(images, features, [ground_truth([[0.0, 0.0, 16.0, 16.0]])])
    # Two binary cross-entropies of log 2 and one L1 distance, over a nominal batch of four.
    assert losses["loss_rpn_cls"].item() == pytest.approx(2 * math.log(2) / 4)
    assert losses["loss_rpn_loc"].item() == pytest.approx(0.5 / 4)
    latest = {name: value for name, (value, _) in storage.latest().items()}
    assert latest == {"rpn/num_pos_anchors": 1.0, "rpn/num_neg_anchors": 1.0}
    assert not proposals[0].proposal_boxes.tensor.requires_grad
    assert not proposals[0].objectness_logits.requires_grad


@pytest.mark.parametrize(
    ("loss_weight", "expected"),
    [
        (2.0, (2.0, 2.0)),
        ({"loss_rpn_loc": 3.0}, (1.0, 3.0)),
        (OmegaConf.create({"loss_rpn_cls": 0.5, "loss_rpn_loc": 0.25}), (0.5, 0.25)),
    ],
)
def test_loss_weights(loss_weight, expected):
    images, features = row_of_cells()
    targets = [ground_truth([[0.0, 0.0, 16.0, 16.0]])]
    losses = []
    for weight in (1.0, loss_weight):
        rpn = make_rpn(torch.ones(1, 1, 1, 2), torch.ones(1, 4, 1, 2), loss_weight=weight)
        with EventStorage():
            losses.append(rpn(images, features, targets)[1])
    for name, factor in zip(("loss_rpn_cls", "loss_rpn_loc"), expected, strict=True):
        assert losses[1][name].item() == pytest.approx(factor * losses[0][name].item())


@pytest.mark.standalone_only
def test_integer_loss_weight():
    rpn = make_rpn(torch.zeros(1, 1, 1, 2), torch.zeros(1, 4, 1, 2), loss_weight=2)
    images, features = row_of_cells()
    with EventStorage():
        _, losses = rpn(images, features, [ground_truth([])])
    assert losses["loss_rpn_cls"].item() == pytest.approx(2 * 2 * math.log(2) / 4)


def test_image_without_objects():
    rpn = make_rpn(torch.zeros(1, 1, 1, 2), torch.ones(1, 4, 1, 2))
    images, features = row_of_cells()
    with EventStorage():
        _, losses = rpn(images, features, [ground_truth([])])
    assert losses["loss_rpn_cls"].item() == pytest.approx(2 * math.log(2) / 4)
    assert losses["loss_rpn_loc"].item() == 0
    sum(losses.values()).backward()
    assert rpn.rpn_head.logits.grad.abs().sum() > 0
    assert rpn.rpn_head.deltas.grad.abs().sum() == 0


def test_targets():
    """Positive, ignored (IoU between the thresholds), negative; second image has no object."""
    rpn = make_rpn(torch.zeros(2, 1, 1, 3), torch.zeros(2, 4, 1, 3), batch_size_per_image=10)
    anchors = [Boxes([[0.0, 0, 16, 16], [0, 0, 16, 8], [32, 0, 48, 16]])]
    targets = [ground_truth([[0.0, 0.0, 16.0, 16.0]]), ground_truth([])]
    labels, boxes = rpn.label_and_sample_anchors(anchors, targets)
    assert [x.tolist() for x in labels] == [[1, -1, 0], [0, 0, 0]]
    assert boxes[0][0].tolist() == [0, 0, 16, 16]
    assert boxes[1].shape == (3, 4)


def test_anchors_outside_the_image_are_ignored():
    rpn = make_rpn(
        torch.zeros(1, 1, 1, 2),
        torch.zeros(1, 4, 1, 2),
        anchor_boundary_thresh=0,
        batch_size_per_image=10,
    )
    anchors = [Boxes([[-1.0, 0, 15, 15], [15, 0, 31, 15]])]
    labels, _ = rpn.label_and_sample_anchors(anchors, [ground_truth([])])
    assert labels[0].tolist() == [-1, 0]


def test_sample_size():
    torch.manual_seed(0)
    rpn = make_rpn(torch.zeros(1, 1, 1, 2), torch.zeros(1, 4, 1, 2))
    label = torch.tensor([1] * 10 + [0] * 10 + [-1] * 10, dtype=torch.int8)
    sampled = rpn._subsample_labels(label.clone())
    assert [(sampled == k).sum().item() for k in (1, 0, -1)] == [2, 2, 26]
    assert ((sampled == label) | (sampled == -1)).all()


def test_training_needs_ground_truth():
    rpn = make_rpn(torch.zeros(1, 1, 1, 2), torch.zeros(1, 4, 1, 2))
    with pytest.raises(AssertionError, match="RPN requires gt_instances in training!"):
        rpn(*row_of_cells())


def test_inference_decodes_deltas():
    """Deltas (0.5, 0, log 2, 0) move the first anchor by half its width and double it."""
    deltas = torch.zeros(1, 4, 1, 2)
    deltas[0, :, 0, 0] = torch.tensor([0.5, 0.0, math.log(2), 0.0])
    rpn = make_rpn(torch.tensor([1.0, 2.0]).reshape(1, 1, 1, 2), deltas).eval()
    proposals, losses = rpn(*row_of_cells())
    assert losses == {}
    assert proposals[0].objectness_logits.tolist() == [2.0, 1.0]
    expected = torch.tensor([[16.0, 0, 32, 16], [0, 0, 32, 16]])
    torch.testing.assert_close(proposals[0].proposal_boxes.tensor, expected)


def test_top_proposals_by_hand():
    """Suppression is per level; tiny and outside boxes vanish; the best three remain."""
    level0 = torch.tensor([[[0.0, 0, 10, 10], [1, 0, 10, 10], [50, 50, 60, 60], [5, 5, 5, 9]]])
    level1 = torch.tensor([[[0.0, 0, 10, 10], [90, 90, 130, 120], [20, 20, 30, 30]]])
    result = find_top_rpn_proposals(
        [level0, level1],
        [torch.tensor([[0.9, 0.8, 0.7, 2.0]]), torch.tensor([[0.6, 0.95, 0.1]])],
        [(100, 100)],
        nms_thresh=0.5,
        pre_nms_topk=10,
        post_nms_topk=4,
        min_box_size=0.0,
        training=True,
    )[0]
    assert result.image_size == (100, 100)
    torch.testing.assert_close(result.objectness_logits, torch.tensor([0.95, 0.9, 0.7, 0.6]))
    assert result.proposal_boxes.tensor.tolist() == [
        [90, 90, 100, 100],
        [0, 0, 10, 10],
        [50, 50, 60, 60],
        [0, 0, 10, 10],
    ]


def test_top_proposals_before_suppression_and_minimum_size():
    boxes = torch.tensor([[[0.0, 0, 10, 10], [20, 0, 24, 10], [40, 0, 50, 10]]])
    arguments = {"nms_thresh": 0.5, "post_nms_topk": 5, "training": False}
    scores = [torch.tensor([[1.0, 3.0, 2.0]])]
    best = find_top_rpn_proposals(
        [boxes], scores, [(50, 50)], pre_nms_topk=2, min_box_size=0.0, **arguments
    )[0]
    assert best.objectness_logits.tolist() == [3.0, 2.0]
    large = find_top_rpn_proposals(
        [boxes], scores, [(50, 50)], pre_nms_topk=3, min_box_size=4.0, **arguments
    )[0]
    assert large.objectness_logits.tolist() == [2.0, 1.0]


@pytest.mark.parametrize("bad", [math.inf, -math.inf, math.nan])
@pytest.mark.parametrize("where", ["boxes", "scores"])
def test_non_finite_predictions(bad, where):
    boxes = torch.tensor([[[0.0, 0, 10, 10], [20, 20, 30, 30]]] * 2)
    scores = torch.tensor([[1.0, 2.0]] * 2)
    if where == "boxes":
        boxes[0, 1, 2] = bad
    else:
        scores[0, 1] = bad
    arguments = ([boxes], [scores], [(50, 50)] * 2, 0.5, 10, 10, 0.0)
    with pytest.raises(FloatingPointError, match="Training has diverged"):
        find_top_rpn_proposals(*arguments, True)
    result = find_top_rpn_proposals(*arguments, False)
    assert [x.objectness_logits.tolist() for x in result] == [[1.0], [2.0, 1.0]]


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**31), st.integers(1, 3), st.integers(0, 20), st.integers(1, 6))
def test_top_proposals_properties(seed, num_images, num_boxes, post_nms_topk):
    generator = torch.Generator().manual_seed(seed)
    corners = torch.rand(2, num_images, num_boxes, 2, 2, generator=generator) * 60 - 5
    boxes = torch.cat([corners.amin(dim=3), corners.amax(dim=3)], dim=-1)
    scores = torch.randn(2, num_images, num_boxes, generator=generator)
    sizes = [(40 + i, 30) for i in range(num_images)]
    untouched = boxes.clone()
    results = find_top_rpn_proposals(
        list(boxes), list(scores), sizes, 0.7, 10, post_nms_topk, 1.0, True
    )
    assert torch.equal(boxes, untouched)
    assert len(results) == num_images
    for result, size in zip(results, sizes, strict=True):
        assert len(result) <= post_nms_topk
        logits = result.objectness_logits
        assert torch.equal(logits, logits.sort(descending=True).values)
        assert result.proposal_boxes.inside_box(size, boundary_threshold=1).all()
        assert result.proposal_boxes.nonempty(1.0).all()


def make_proposals() -> Instances:
    return Instances(
        (10, 10), proposal_boxes=Boxes([[0.0, 0, 5, 5]]), objectness_logits=torch.tensor([0.5])
    )


def test_ground_truth_joins_the_proposals():
    gt = Instances((10, 10), gt_boxes=Boxes([[1.0, 1, 2, 2]]), gt_classes=torch.tensor([3]))
    result = add_ground_truth_to_proposals([gt], [make_proposals()])[0]
    assert sorted(result.get_fields()) == ["objectness_logits", "proposal_boxes"]
    assert result.proposal_boxes.tensor.tolist() == [[0, 0, 5, 5], [1, 1, 2, 2]]
    torch.testing.assert_close(result.objectness_logits, torch.tensor([0.5, 23.025851]))


def test_boxes_join_the_proposals():
    result = add_ground_truth_to_proposals([Boxes([[1.0, 1, 2, 2]])], [make_proposals()])[0]
    assert len(result) == 2
    empty = add_ground_truth_to_proposals([Boxes(torch.zeros(0, 4))], [make_proposals()])[0]
    assert len(empty) == 1
    assert add_ground_truth_to_proposals([], []) == []


def test_ground_truth_errors():
    with pytest.raises(ValueError, match="same length"):
        add_ground_truth_to_proposals([], [make_proposals()])
    proposals = make_proposals()
    proposals.extra = torch.zeros(1)
    with pytest.raises(AssertionError, match="'extra' in `proposals` does not exist in `gt`"):
        add_ground_truth_to_proposals([Boxes([[1.0, 1, 2, 2]])], [proposals])


def test_yacs_config():
    cfg = get_cfg()
    cfg.MODEL.RPN.PRE_NMS_TOPK_TRAIN = 7
    cfg.MODEL.RPN.POST_NMS_TOPK_TEST = 5
    cfg.MODEL.RPN.BBOX_REG_LOSS_WEIGHT = 2.0
    cfg.MODEL.RPN.LOSS_WEIGHT = 3.0
    cfg.MODEL.PROPOSAL_GENERATOR.MIN_SIZE = 4
    shapes = {"res4": ShapeSpec(channels=8, stride=16)}
    rpn = build_proposal_generator(cfg, shapes)
    assert type(rpn) is RPN
    assert rpn.pre_nms_topk == {True: 7, False: 6000}
    assert rpn.post_nms_topk == {True: 2000, False: 5}
    assert rpn.loss_weight == {"loss_rpn_cls": 3.0, "loss_rpn_loc": 6.0}
    assert rpn.min_box_size == 4.0
    # Five sizes times three aspect ratios.
    assert rpn.rpn_head.objectness_logits.out_channels == 15
    assert type(build_rpn_head(cfg, list(shapes.values()))) is StandardRPNHead
    cfg.MODEL.PROPOSAL_GENERATOR.NAME = "PrecomputedProposals"
    assert build_proposal_generator(cfg, shapes) is None


def test_registries():
    assert RPN_HEAD_REGISTRY.get("StandardRPNHead") is StandardRPNHead
    assert PROPOSAL_GENERATOR_REGISTRY.get("RPN") is RPN
    with pytest.raises(KeyError, match="No object named 'Missing' found in 'RPN_HEAD' registry!"):
        RPN_HEAD_REGISTRY.get("Missing")


def test_levels_must_agree():
    cfg = get_cfg()
    shapes = [ShapeSpec(channels=8, stride=16), ShapeSpec(channels=4, stride=32)]
    with pytest.raises(AssertionError):
        StandardRPNHead(cfg, shapes)


def test_omegaconf_arguments():
    features = OmegaConf.create(["p4"])
    topk = OmegaConf.create([3, 4])
    rpn = make_rpn(
        torch.zeros(1, 1, 1, 2),
        torch.zeros(1, 4, 1, 2),
        in_features=features,
        pre_nms_topk=topk,
        post_nms_topk=topk,
    ).eval()
    assert rpn.post_nms_topk == {True: 3, False: 4}
    assert len(rpn(*row_of_cells())[0][0]) == 2
