"""ROI heads: matching, sampling, transport of ground truth, wiring of the branches."""

import pickle
from copy import deepcopy

import pytest
import torch
from detectron2.config import get_cfg
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_proposal_generator
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.matcher import Matcher
from detectron2.modeling.poolers import ROIPooler
from detectron2.modeling.roi_heads import (
    ROI_HEADS_REGISTRY,
    FastRCNNConvFCHead,
    FastRCNNOutputLayers,
    MaskRCNNConvUpsampleHead,
    ROIHeads,
    StandardROIHeads,
    build_roi_heads,
    select_foreground_proposals,
)
from detectron2.structures import BitMasks, Boxes, ImageList, Instances
from detectron2.utils.events import EventStorage
from omegaconf import OmegaConf

NUM_CLASSES = 3
# test_seeded_losses with detectron2 0.6, torch 2.14.
SEEDED_LOSSES = {
    "loss_rpn_cls": 0.6932079,
    "loss_rpn_loc": 0.005286454,
    "loss_cls": 1.382089,
    "loss_box_reg": 0.5421084,
    "loss_mask": 0.6931495,
}


def make_base(**kwargs) -> ROIHeads:
    arguments = {
        "num_classes": NUM_CLASSES,
        "batch_size_per_image": 100,
        "positive_fraction": 1.0,
        "proposal_matcher": Matcher([0.5], [0, 1]),
        "proposal_append_gt": False,
    }
    return ROIHeads(**{**arguments, **kwargs})


def make_heads(mask=True, **kwargs) -> StandardROIHeads:
    """Box and mask branch on one feature map ``p2`` of stride 4 with 2 channels."""
    arguments = {
        "num_classes": NUM_CLASSES,
        "batch_size_per_image": 16,
        "positive_fraction": 0.5,
        "proposal_matcher": Matcher([0.5], [0, 1]),
        "box_in_features": OmegaConf.create(["p2"]),
        "box_pooler": ROIPooler(3, (1 / 4,), 0, "ROIAlignV2"),
        "box_head": FastRCNNConvFCHead(
            ShapeSpec(channels=2, height=3, width=3), conv_dims=[], fc_dims=[5]
        ),
        "box_predictor": FastRCNNOutputLayers(
            ShapeSpec(channels=5),
            box2box_transform=Box2BoxTransform((10.0, 10.0, 5.0, 5.0)),
            num_classes=NUM_CLASSES,
        ),
    }
    if mask:
        arguments["mask_in_features"] = OmegaConf.create(["p2"])
        arguments["mask_pooler"] = ROIPooler(4, (1 / 4,), 0, "ROIAlignV2")
        arguments["mask_head"] = MaskRCNNConvUpsampleHead(
            ShapeSpec(channels=2), num_classes=NUM_CLASSES, conv_dims=[2]
        )
    return StandardROIHeads(**{**arguments, **kwargs})


def make_proposals(boxes, size=(32, 32)) -> Instances:
    boxes = torch.tensor(boxes).reshape(-1, 4)
    return Instances(size, proposal_boxes=Boxes(boxes), objectness_logits=torch.zeros(len(boxes)))


def make_targets(boxes, classes, size=(32, 32)) -> Instances:
    boxes = torch.tensor(boxes).reshape(-1, 4)
    masks = torch.zeros(len(boxes), *size, dtype=torch.bool)
    masks[:, : size[0] // 2] = True
    return Instances(
        size,
        gt_boxes=Boxes(boxes),
        gt_classes=torch.tensor(classes, dtype=torch.int64),
        gt_masks=BitMasks(masks),
    )


def batch():
    """One image with two objects, one without."""
    torch.manual_seed(0)
    images = ImageList(torch.zeros(2, 3, 32, 32), [(32, 32), (32, 32)])
    features = {"p2": torch.randn(2, 2, 8, 8)}
    boxes = [[0.0, 0, 16, 16], [8, 8, 32, 32], [1, 0, 17, 16]]
    proposals = [make_proposals(boxes), make_proposals(boxes)]
    targets = [make_targets(boxes[:2], [0, 2]), make_targets([], [])]
    return images, features, proposals, targets


def test_sampling_by_hand():
    heads = make_base()
    boxes = [[0.0, 0, 10, 10], [20, 20, 30, 30], [0, 0, 10, 6]]
    targets = make_targets([[0.0, 0, 10, 10]], [1])
    targets.gt_pose = torch.tensor([[7.0]])
    targets.not_ground_truth = torch.tensor([1])
    with EventStorage() as storage:
        sampled = heads.label_and_sample_proposals([make_proposals(boxes)], [targets])[0]
    assert sorted(sampled.get_fields()) == [
        "gt_boxes",
        "gt_classes",
        "gt_masks",
        "gt_pose",
        "objectness_logits",
        "proposal_boxes",
    ]
    order = sampled.gt_classes.argsort(stable=True)
    assert sampled.gt_classes[order].tolist() == [1, 1, NUM_CLASSES]
    # Foreground first.
    assert order.tolist() == [0, 1, 2]
    assert sampled.proposal_boxes.tensor[2].tolist() == [20, 20, 30, 30]
    # Background proposals carry the values of the object they were matched with.
    assert sampled.gt_pose.tolist() == [[7.0]] * 3
    latest = {name: value for name, (value, _) in storage.latest().items()}
    assert latest == {"roi_head/num_fg_samples": 2.0, "roi_head/num_bg_samples": 1.0}


def test_ignored_proposals_are_not_sampled():
    heads = make_base(proposal_matcher=Matcher([0.3, 0.7], [0, -1, 1]))
    boxes = [[0.0, 0, 10, 10], [0, 0, 10, 5], [20, 20, 30, 30]]
    with EventStorage():
        sampled = heads.label_and_sample_proposals(
            [make_proposals(boxes)], [make_targets([[0.0, 0, 10, 10]], [1])]
        )[0]
    assert sampled.gt_classes.tolist() == [1, NUM_CLASSES]


def test_image_without_objects():
    """It gets gt_classes only, so that one batch mixes both kinds."""
    _, _, proposals, targets = batch()
    with EventStorage():
        sampled = make_base().label_and_sample_proposals(proposals, targets)
    assert sampled[0].has("gt_boxes") and sampled[0].has("gt_masks")
    assert not sampled[1].has("gt_boxes") and not sampled[1].has("gt_masks")
    assert sampled[1].gt_classes.tolist() == [NUM_CLASSES] * 3


def test_ground_truth_is_appended():
    heads = make_base(proposal_append_gt=True)
    with EventStorage():
        sampled = heads.label_and_sample_proposals(
            [make_proposals([])], [make_targets([[0.0, 0, 10, 10]], [1])]
        )[0]
    assert sampled.proposal_boxes.tensor.tolist() == [[0, 0, 10, 10]]
    assert sampled.gt_classes.tolist() == [1]


def test_no_proposals_at_all():
    with EventStorage():
        sampled = make_base().label_and_sample_proposals(
            [make_proposals([])], [make_targets([], [])]
        )[0]
    assert len(sampled) == 0


def test_sample_size():
    torch.manual_seed(0)
    heads = make_base(batch_size_per_image=8, positive_fraction=0.25)
    boxes = [[0.0, 0, 10, 10]] * 10 + [[20.0, 20, 30, 30]] * 10
    with EventStorage():
        sampled = heads.label_and_sample_proposals(
            [make_proposals(boxes)], [make_targets([[0.0, 0, 10, 10]], [1])]
        )[0]
    assert sampled.gt_classes.tolist() == [1] * 2 + [NUM_CLASSES] * 6


def test_sampling_does_not_change_its_input():
    _, _, proposals, targets = batch()
    with EventStorage():
        make_base(proposal_append_gt=True).label_and_sample_proposals(proposals, targets)
    assert sorted(proposals[0].get_fields()) == ["objectness_logits", "proposal_boxes"]
    assert targets[0].gt_classes.tolist() == [0, 2]


def test_select_foreground():
    proposals = Instances((10, 10), gt_classes=torch.tensor([0, 3, -1, 2]))
    (chosen,), (mask,) = select_foreground_proposals([proposals], 3)
    assert chosen.gt_classes.tolist() == [0, 2]
    assert mask.tolist() == [True, False, False, True]


def test_base_is_abstract():
    with pytest.raises(NotImplementedError):
        make_base()(None, {}, [])


def test_training_losses():
    images, features, proposals, targets = batch()
    heads = make_heads()
    with EventStorage() as storage:
        sampled, losses = heads(images, features, proposals, targets)
    assert sorted(losses) == ["loss_box_reg", "loss_cls", "loss_mask"]
    # The two boxes of the objects join the three proposals of the first image.
    assert [len(x) for x in sampled] == [5, 3]
    assert "mask_rcnn/accuracy" in storage.latest()
    sum(losses.values()).backward()
    assert all(x.grad is not None for x in heads.parameters())


def test_training_without_any_object():
    images, features, proposals, targets = batch()
    heads = make_heads()
    with EventStorage():
        _, losses = heads(images, features, proposals, [targets[1], targets[1]])
    assert losses["loss_mask"].item() == 0
    assert losses["loss_box_reg"].item() == 0
    sum(losses.values()).backward()
    assert all(x.grad is not None for x in heads.parameters())


def test_training_needs_targets():
    images, features, proposals, _ = batch()
    with pytest.raises(AssertionError, match="'targets' argument is required"):
        make_heads()(images, features, proposals)


def test_inference():
    images, features, proposals, _ = batch()
    results, losses = make_heads().eval()(images, features, proposals)
    assert losses == {}
    assert len(results) == 2
    for result in results:
        assert sorted(result.get_fields()) == [
            "pred_boxes",
            "pred_classes",
            "pred_masks",
            "scores",
        ]
        assert result.pred_masks.shape == (len(result), 1, 8, 8)
        assert ((result.pred_masks > 0) & (result.pred_masks < 1)).all()


def test_inference_without_masks():
    images, features, proposals, targets = batch()
    heads = make_heads(mask=False)
    assert not heads.mask_on
    with EventStorage():
        _, losses = heads(images, features, proposals, targets)
    assert sorted(losses) == ["loss_box_reg", "loss_cls"]
    results, _ = heads.eval()(images, features, proposals)
    assert not results[0].has("pred_masks")


def test_given_boxes():
    _, features, _, _ = batch()
    heads = make_heads()
    instances = [
        Instances((32, 32), pred_boxes=Boxes([[0.0, 0, 16, 16]]), pred_classes=torch.tensor([1]))
        for _ in range(2)
    ]
    with pytest.raises(AssertionError):
        heads.forward_with_given_boxes(features, instances)
    results = heads.eval().forward_with_given_boxes(features, instances)
    assert [x.pred_masks.shape for x in results] == [(1, 1, 8, 8)] * 2
    with pytest.raises(AssertionError):
        heads.forward_with_given_boxes(features, [Instances((32, 32), scores=torch.ones(1))] * 2)


class DictHead(torch.nn.Module):
    """A mask head that reads feature maps itself."""

    def forward(self, features, instances):
        return {"loss_mask": features["p2"].sum() * len(instances)}


def test_no_mask_pooler_hands_over_the_feature_maps():
    images, features, proposals, targets = batch()
    heads = make_heads(mask_pooler=None, mask_head=DictHead())
    features["unused"] = torch.zeros(1)
    with EventStorage():
        _, losses = heads(images, features, proposals, targets)
    torch.testing.assert_close(losses["loss_mask"], 2 * features["p2"].sum())


def test_train_on_predicted_boxes():
    images, features, proposals, targets = batch()
    heads = make_heads(mask=False, train_on_pred_boxes=True, proposal_append_gt=False)
    # Zero deltas except dx = 1 for all classes: boxes move by a tenth of their width.
    torch.nn.init.zeros_(heads.box_predictor.bbox_pred.weight)
    with torch.no_grad():
        heads.box_predictor.bbox_pred.bias.copy_(torch.tensor([1.0, 0, 0, 0]).repeat(NUM_CLASSES))
    with EventStorage():
        moved, _ = heads(images, features, proposals, targets)
    expected = {(1.6, 17.6), (10.4, 34.4), (2.6, 18.6)}
    corners = moved[0].proposal_boxes.tensor[:, [0, 2]]
    assert {tuple(round(x, 4) for x in row) for row in corners.tolist()} == expected
    assert not corners.requires_grad


@pytest.mark.standalone_only
def test_keypoints_are_refused():
    with pytest.raises(ValueError, match="keypoint"):
        make_heads(keypoint_in_features=["p2"])
    cfg = get_cfg()
    cfg.MODEL.KEYPOINT_ON = True
    with pytest.raises(ValueError, match="KEYPOINT_ON"):
        StandardROIHeads(cfg, {"res4": ShapeSpec(channels=4, stride=16)})


def test_keypoint_arguments_may_be_none():
    heads = make_heads(keypoint_in_features=None, keypoint_pooler=None, keypoint_head=None)
    assert tuple(heads.in_features) == ("p2",)


def test_copies():
    """omegaconf arguments must not get in the way of copying and pickling."""
    heads = make_heads()
    assert sorted(deepcopy(heads).state_dict()) == sorted(heads.state_dict())
    assert sorted(pickle.loads(pickle.dumps(heads)).state_dict()) == sorted(heads.state_dict())


def yacs_config():
    cfg = get_cfg()
    cfg.MODEL.ROI_HEADS.NAME = "StandardROIHeads"
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = 3
    cfg.MODEL.ROI_BOX_HEAD.NAME = "FastRCNNConvFCHead"
    cfg.MODEL.ROI_BOX_HEAD.NUM_FC = 1
    cfg.MODEL.ROI_BOX_HEAD.FC_DIM = 16
    cfg.MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION = 3
    cfg.MODEL.ROI_MASK_HEAD.NUM_CONV = 1
    cfg.MODEL.ROI_MASK_HEAD.CONV_DIM = 8
    cfg.MODEL.ROI_MASK_HEAD.POOLER_RESOLUTION = 4
    cfg.MODEL.MASK_ON = True
    return cfg


def test_seeded_losses():
    """Same seed, same draws of weights and samples as detectron2 0.6."""
    torch.manual_seed(121)
    cfg = yacs_config()
    shapes = {"res4": ShapeSpec(channels=8, stride=16)}
    images = ImageList(torch.rand(2, 3, 64, 96), [(60, 96), (64, 80)])
    features = {"res4": torch.rand(2, 8, 4, 6)}
    targets = [
        make_targets([[4.0, 4, 40, 40], [50, 10, 90, 60]], [0, 2], (60, 96)),
        make_targets([[10.0, 0, 70, 50]], [1], (64, 80)),
    ]
    proposal_generator = build_proposal_generator(cfg, shapes)
    roi_heads = build_roi_heads(cfg, shapes)
    with EventStorage():
        proposals, losses = proposal_generator(images, features, targets)
        losses.update(roi_heads(images, features, proposals, targets)[1])
    assert {name: loss.item() for name, loss in losses.items()} == pytest.approx(
        SEEDED_LOSSES, rel=1e-5
    )


def test_yacs_without_mask_pooler():
    cfg = yacs_config()
    shapes = {"res4": ShapeSpec(channels=8, stride=16)}
    heads = StandardROIHeads(cfg, shapes)
    assert heads.mask_head.predictor.weight.shape == (3, 8, 1, 1)
    assert tuple(heads.box_predictor.box2box_transform.weights) == (10, 10, 5, 5)
    cfg.MODEL.MASK_ON = False
    assert not StandardROIHeads(cfg, shapes).mask_on
    assert ROI_HEADS_REGISTRY.get("StandardROIHeads") is StandardROIHeads
