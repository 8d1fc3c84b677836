"""Mask head: layers, loss and inference by hand."""

import math

import pytest
import torch
from detectron2.config import get_cfg
from detectron2.layers import ShapeSpec
from detectron2.modeling.roi_heads import (
    BaseMaskRCNNHead,
    MaskRCNNConvUpsampleHead,
    build_mask_head,
)
from detectron2.modeling.roi_heads.mask_head import mask_rcnn_inference, mask_rcnn_loss
from detectron2.structures import BitMasks, Boxes, Instances, PolygonMasks
from detectron2.utils.events import EventStorage
from omegaconf import OmegaConf


def left_half(classes, masks=None) -> Instances:
    """Proposals of 8 x 8 pixels whose left half is the object."""
    count = len(classes)
    if masks is None:
        dense = torch.zeros(count, 8, 8, dtype=torch.bool)
        dense[:, :, :4] = True
        masks = BitMasks(dense)
    return Instances(
        (8, 8),
        proposal_boxes=Boxes(torch.tensor([[0.0, 0, 8, 8]]).repeat(count, 1)),
        gt_classes=torch.tensor(classes, dtype=torch.int64),
        gt_masks=masks,
    )


def test_names_and_shapes():
    head = MaskRCNNConvUpsampleHead(
        ShapeSpec(channels=2), num_classes=5, conv_dims=OmegaConf.create([3, 4, 6])
    )
    assert {name: tuple(x.shape) for name, x in head.state_dict().items()} == {
        "mask_fcn1.weight": (3, 2, 3, 3),
        "mask_fcn1.bias": (3,),
        "mask_fcn2.weight": (4, 3, 3, 3),
        "mask_fcn2.bias": (4,),
        "deconv.weight": (4, 6, 2, 2),
        "deconv.bias": (6,),
        "predictor.weight": (5, 6, 1, 1),
        "predictor.bias": (5,),
    }
    assert head.layers(torch.randn(2, 2, 7, 7)).shape == (2, 5, 14, 14)
    assert head.layers(torch.zeros(0, 2, 7, 7)).shape == (0, 5, 14, 14)


def test_normalised_convolutions_have_no_bias():
    head = MaskRCNNConvUpsampleHead(
        ShapeSpec(channels=2), num_classes=5, conv_dims=[4, 4], conv_norm="BN"
    )
    assert head.mask_fcn1.bias is None
    assert isinstance(head.mask_fcn1.norm, torch.nn.BatchNorm2d)
    assert head.deconv.bias is not None


def test_needs_layers():
    with pytest.raises(AssertionError):
        MaskRCNNConvUpsampleHead(ShapeSpec(channels=2), num_classes=5, conv_dims=[])


def test_loss_takes_the_channel_of_the_class():
    logits = torch.full((1, 3, 4, 4), 50.0)
    logits[0, 1] = 0
    with EventStorage():
        loss = mask_rcnn_loss(logits, [left_half([1])])
    assert loss.item() == pytest.approx(math.log(2))


def test_loss_and_statistics_by_hand():
    """Everything is predicted as object: half of the pixels are wrong."""
    logits = torch.full((1, 1, 4, 4), 2.0)
    with EventStorage() as storage:
        loss = mask_rcnn_loss(logits, [left_half([2])])
    expected = (math.log1p(math.exp(-2)) + math.log1p(math.exp(2))) / 2
    assert loss.item() == pytest.approx(expected)
    assert {name: value for name, (value, _) in storage.latest().items()} == {
        "mask_rcnn/accuracy": 0.5,
        "mask_rcnn/false_positive": 1.0,
        "mask_rcnn/false_negative": 0.0,
    }


def test_false_negatives():
    with EventStorage() as storage:
        mask_rcnn_loss(torch.full((1, 1, 4, 4), -2.0), [left_half([0])])
    assert storage.latest()["mask_rcnn/false_negative"][0] == 1.0
    assert storage.latest()["mask_rcnn/false_positive"][0] == 0.0


def test_polygons():
    polygons = PolygonMasks([[[0.0, 0, 4, 0, 4, 8, 0, 8]]])
    with EventStorage() as storage:
        mask_rcnn_loss(torch.full((1, 1, 4, 4), 2.0), [left_half([0], polygons)])
    assert storage.latest()["mask_rcnn/accuracy"][0] == 0.5


def test_loss_over_images_with_and_without_objects():
    empty = Instances((8, 8), proposal_boxes=Boxes(torch.zeros(0, 4)))
    empty.gt_classes = torch.zeros(0, dtype=torch.int64)
    with EventStorage():
        loss = mask_rcnn_loss(torch.zeros(2, 3, 4, 4), [empty, left_half([0, 2])])
    assert loss.item() == pytest.approx(math.log(2))


def test_loss_of_nothing():
    logits = torch.zeros(0, 3, 4, 4, requires_grad=True)
    empty = Instances((8, 8), gt_classes=torch.zeros(0, dtype=torch.int64))
    with EventStorage() as storage:
        loss = mask_rcnn_loss(logits, [empty])
    assert loss.item() == 0
    loss.backward()
    assert logits.grad is not None
    assert storage.latest() == {}


def test_masks_must_be_square():
    with pytest.raises(AssertionError, match="square"):
        mask_rcnn_loss(torch.zeros(1, 1, 4, 5), [left_half([0])])


@pytest.mark.parametrize(("iteration", "count"), [(0, 2), (1, 0), (4, 2)])
def test_pictures(iteration, count):
    with EventStorage(iteration) as storage:
        mask_rcnn_loss(torch.zeros(2, 1, 4, 4), [left_half([0, 1])], vis_period=4)
    images = storage._vis_data
    assert len(images) == count
    for _, image, step in images:
        assert image.shape == (3, 4, 8)
        assert step == iteration


def test_inference():
    logits = torch.zeros(3, 2, 4, 4)
    logits[1, 1] = 3.0
    instances = [
        Instances((8, 8), pred_classes=torch.tensor([0, 1])),
        Instances((8, 8), pred_classes=torch.zeros(0, dtype=torch.int64)),
        Instances((8, 8), pred_classes=torch.tensor([1])),
    ]
    mask_rcnn_inference(logits, instances)
    assert [x.pred_masks.shape for x in instances] == [(2, 1, 4, 4), (0, 1, 4, 4), (1, 1, 4, 4)]
    means = torch.cat([x.pred_masks for x in instances]).mean(dim=(1, 2, 3))
    torch.testing.assert_close(
        means,
        torch.tensor([0.5, 3.0, 0.5]).where(
            torch.tensor([True, False, True]), torch.sigmoid(torch.tensor(3.0))
        ),
    )


def test_class_agnostic_inference():
    instances = [Instances((8, 8), pred_classes=torch.tensor([4]))]
    mask_rcnn_inference(torch.zeros(1, 1, 4, 4), instances)
    assert instances[0].pred_masks.unique().tolist() == [0.5]


class Identity(BaseMaskRCNNHead):
    def layers(self, x):
        return x


def test_head_in_both_modes():
    head = Identity(loss_weight=2.0)
    with EventStorage():
        losses = head(torch.zeros(1, 1, 4, 4), [left_half([0])])
    assert {name: loss.item() for name, loss in losses.items()} == {
        "loss_mask": pytest.approx(2 * math.log(2))
    }
    instances = [Instances((8, 8), pred_classes=torch.tensor([0]))]
    assert head.eval()(torch.zeros(1, 1, 4, 4), instances) is instances
    assert instances[0].has("pred_masks")


def test_base_is_abstract():
    with pytest.raises(NotImplementedError):
        BaseMaskRCNNHead()(torch.zeros(1, 1, 4, 4), [])


def test_yacs():
    cfg = get_cfg()
    cfg.MODEL.ROI_MASK_HEAD.NUM_CONV = 2
    cfg.MODEL.ROI_MASK_HEAD.CONV_DIM = 4
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = 6
    cfg.VIS_PERIOD = 9
    head = build_mask_head(cfg, ShapeSpec(channels=3))
    assert type(head) is MaskRCNNConvUpsampleHead
    assert head.mask_fcn2.weight.shape == (4, 4, 3, 3)
    assert head.predictor.out_channels == 6
    assert head.vis_period == 9
    cfg.MODEL.ROI_MASK_HEAD.CLS_AGNOSTIC_MASK = True
    assert build_mask_head(cfg, ShapeSpec(channels=3)).predictor.out_channels == 1
