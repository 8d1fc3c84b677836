"""Options of the monocular detector: suppression, cameras, priors, configs of the old kind."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch
from detectron2.config import CfgNode, LazyConfig, get_cfg, instantiate
from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage

from modeling.steps import infer, train_step
from modeling.tiny_mono3d import (
    HEIGHT,
    MODEL,
    NUM_CLASSES,
    WIDTH,
    build_mono3d,
    make_input,
    priors,
    projection,
)
from roca_nocs.engine import mono3d_priors
from roca_nocs.geometry.box3d_codec import BoxPriors
from roca_nocs.geometry.cuboids import bev_iou, rotation_from_yaw
from roca_nocs.geometry.projection import resize_projection
from roca_nocs.modeling.mono3d.class_priors import ClassPriors
from roca_nocs.modeling.mono3d.decoding import CameraBoxes, suppress_duplicates
from roca_nocs.modeling.mono3d_config import add_mono3d_config

DETECTION = {"loss_rpn_cls", "loss_rpn_loc", "loss_cls", "loss_box_reg"}
YAW = {"loss_yaw_residual", "loss_yaw_category"}


def test_duplicates_in_the_birds_eye_view() -> None:
    center = torch.tensor([[0.0, 1, 10], [0.1, 1, 10.1], [0, 1, 10], [9, 1, 20]])
    dimensions = torch.tensor([1.6, 1.5, 3.9]).repeat(4, 1)
    yaw = torch.tensor([0.3, 0.3 + torch.pi, 0.3, 0.3])
    boxes = upright_boxes(center, dimensions, yaw)
    classes = torch.tensor([0, 0, 1, 0])
    scores = torch.tensor([0.5, 0.9, 0.4, 0.1])
    assert suppress_duplicates(boxes, classes, scores, 0.5).tolist() == [False, True, True, True]
    assert suppress_duplicates(boxes, classes, scores, 0.95).all()
    none = upright_boxes(center[:0], dimensions[:0], yaw[:0])
    assert suppress_duplicates(none, classes[:0], scores[:0], 0.5).shape == (0,)


def upright_boxes(center: torch.Tensor, dimensions: torch.Tensor, yaw: torch.Tensor) -> CameraBoxes:
    """Boxes whose place in the image does not matter."""
    rotation = rotation_from_yaw(yaw)
    depth = center[:, 2]
    return CameraBoxes(center[:, :2], depth, center, dimensions, rotation, yaw, yaw)


@pytest.mark.parametrize("seed", range(4))
def test_duplicates_by_one_box_after_the_other(seed: int) -> None:
    """Rounds over all groups decide as the definition does, equal scores included."""
    random = torch.Generator().manual_seed(seed)
    count = 60
    center = 4 * torch.rand(count, 3, generator=random)
    dimensions = 1 + 2 * torch.rand(count, 3, generator=random)
    yaw = 6 * torch.rand(count, generator=random)
    groups = torch.randint(3, (count,), generator=random)
    scores = torch.randint(20, (count,), generator=random) / 20
    boxes = upright_boxes(center, dimensions, yaw)
    found = suppress_duplicates(boxes, groups, scores, 0.2)
    rectangles = torch.stack(
        [center[:, 0], center[:, 2], dimensions[:, 2], dimensions[:, 0], yaw], dim=1
    )
    _, iou = bev_iou(rectangles.double(), rectangles.double())
    kept: list[int] = []
    for row in scores.argsort(descending=True, stable=True).tolist():
        if all(iou[row, other] <= 0.2 or groups[row] != groups[other] for other in kept):
            kept.append(row)
    assert found.nonzero().squeeze(1).tolist() == sorted(kept)
    assert 3 < len(kept) < count - 10


def test_duplicates_of_a_batch_are_those_of_its_images() -> None:
    model = build_mono3d(bev_nms_threshold=0.1)
    model.roi_heads.box_predictor.test_score_thresh = 0.0
    inputs = [make_input(3, seed=row) for row in range(2)]
    together = infer(model, *inputs)
    for record, output in zip(inputs, together, strict=True):
        (alone,) = infer(model, record)
        assert len(alone["instances"]) == len(output["instances"]) > 0
        torch.testing.assert_close(output["instances"].scores, alone["instances"].scores)


def old_config() -> CfgNode:
    """Of a small model."""
    cfg = get_cfg()
    add_mono3d_config(cfg)
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.META_ARCHITECTURE = "Mono3DRCNN"
    cfg.MODEL.MASK_ON = False
    cfg.MODEL.BACKBONE.NAME = "build_resnet_fpn_backbone"
    cfg.MODEL.BACKBONE.FREEZE_AT = 0
    cfg.MODEL.RESNETS.DEPTH = 18
    cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 64
    cfg.MODEL.RESNETS.OUT_FEATURES = ["res2", "res3", "res4", "res5"]
    cfg.MODEL.FPN.IN_FEATURES = ["res2", "res3", "res4", "res5"]
    cfg.MODEL.FPN.OUT_CHANNELS = 16
    cfg.MODEL.ANCHOR_GENERATOR.SIZES = [[16, 32], [48, 96], [160, 320]]
    cfg.MODEL.PROPOSAL_GENERATOR.NAME = "PaddedRPN"
    cfg.MODEL.ROI_HEADS.NAME = "Mono3DROIHeads"
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = NUM_CLASSES
    for part in (cfg.MODEL.RPN, cfg.MODEL.ROI_HEADS):
        part.IN_FEATURES = ["p2", "p3", "p4"]
    cfg.MODEL.ROI_BOX_HEAD.NAME = "FastRCNNConvFCHead"
    for head in (cfg.MODEL.ROI_BOX_HEAD, cfg.MODEL.ROI_CUBE_HEAD):
        head.NUM_FC, head.FC_DIM, head.POOLER_RESOLUTION = 2, 16, 7
    return cfg


def test_model_of_an_old_kind_of_config() -> None:
    cfg = old_config()
    cfg.MODEL.LOSS_W.YAW_CLS = 0.0
    cfg.MODEL.LOSS_W.OBJECT = 0.0
    model = build_model(cfg)
    with EventStorage():
        losses = model.train()([make_input(2)])
    assert losses.keys() == DETECTION | {"loss_box3d"} | YAW
    zero = {name for name, loss in losses.items() if loss == 0}
    assert zero == {"loss_yaw_category", "loss_rpn_cls"}
    assert model.roi_heads.yaw_bins.num_bins == 12


def test_old_kind_of_config_has_priors_and_suppression(monkeypatch: pytest.MonkeyPatch) -> None:
    cfg = old_config()
    cfg.DATASETS.TRAIN = ("made_up_train",)
    cfg.INPUT.MIN_SIZE_TRAIN = (200, 400)
    cfg.MODEL.ROI_CUBE_HEAD.BEV_NMS_THRESH = 0.25
    cfg.MODEL.MAX_GROUND_TRUTHS = 5
    asked: dict[str, Any] = {}

    def compute(names: list[str], **options: Any) -> BoxPriors:
        asked.update(options, names=names)
        return priors()

    monkeypatch.setattr(mono3d_priors, "dataset_priors", compute)
    model = build_model(cfg)
    assert model.max_ground_truths == 5
    assert model.roi_heads.bev_nms_threshold == 0.25
    mono3d_priors.set_dataset_priors(model, cfg)
    torch.testing.assert_close(model.roi_heads.priors().dimensions, priors().dimensions)
    assert tuple(asked.pop("names")) == ("made_up_train",)
    assert asked == {"shortest_side": 300, "virtual_focal": 512, "num_clusters": 1}
    cfg.DATASETS.TRAIN = ()
    with pytest.raises(ValueError, match="TRAIN is empty"):
        mono3d_priors.set_dataset_priors(model, cfg)


def test_training_with_priors_of_ones_is_warned_of_once(caplog: pytest.LogCaptureFixture) -> None:
    known, unknown = ClassPriors(NUM_CLASSES, 1), ClassPriors(NUM_CLASSES, 1)
    known.set(priors())
    with caplog.at_level(logging.WARNING):
        known.train()
        unknown.eval()
        assert not caplog.records
        unknown.train().eval().train()
    assert len(caplog.records) == 1 and "all classes are 1" in caplog.text


def test_only_the_largest_objects_are_trained(caplog: pytest.LogCaptureFixture) -> None:
    model = build_mono3d()
    model.max_ground_truths = 2
    record = make_input(5, seed=3)
    target = record["instances"]
    largest = target.gt_boxes.area().topk(2).indices.sort().values
    others = [row for row in range(5) if row not in largest.tolist()]
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            found, _ = train_step(model, [record, make_input(1)])
    assert caplog.text.count("an image has 5 objects; the 2 with the largest") == 1
    # As if the others had been regions to ignore from the start.
    boxes = target.gt_boxes.tensor[others]
    cut = record | {"instances": target[largest], "ignore_boxes": boxes}
    expected, _ = train_step(build_mono3d(), [cut, make_input(1)])
    for name, loss in expected.items():
        torch.testing.assert_close(found[name], loss, msg=name)


@pytest.mark.parametrize("name", ["K", "P"])
def test_cameras_of_the_record_are_brought_to_the_image(name: str) -> None:
    matrix = projection((2 * HEIGHT, 4 * WIDTH))
    matrix = matrix[:, :3] if name == "K" else matrix
    record = {name: matrix.numpy(), "height": 2 * HEIGHT, "width": 4 * WIDTH}
    (found,) = build_mono3d()._projections([record], [(HEIGHT, WIDTH)])
    expected = resize_projection(matrix, 1 / 4, 1 / 2)
    torch.testing.assert_close(found[:, : expected.shape[1]], expected)
    assert not found[:, expected.shape[1] :].any()


def test_projection_is_preferred_to_intrinsics() -> None:
    record = {"projection": projection(), "intrinsics": torch.eye(3), "K": torch.eye(3)}
    (found,) = build_mono3d()._projections([record], [(HEIGHT, WIDTH)])
    torch.testing.assert_close(found, projection())


def test_no_object_at_all_is_no_limit() -> None:
    model = LazyConfig.load(str(MODEL)).model
    model.max_ground_truths = 0
    with pytest.raises(ValueError, match="max_ground_truths is 0"), torch.device("meta"):
        instantiate(model)
