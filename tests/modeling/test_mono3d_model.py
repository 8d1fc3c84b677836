"""The whole monocular detector, small: losses and gradients of odd batches, outputs, bad input."""

from __future__ import annotations

import copy
import logging
from typing import Any

import pytest
import torch
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage

from modeling.steps import infer, train_step
from modeling.tiny_mono3d import (
    HEIGHT,
    NUM_CLASSES,
    WIDTH,
    build_mono3d,
    make_input,
    perfect_outputs,
    priors,
)
from roca_nocs.engine.ema import build_average, restart_average
from roca_nocs.geometry.box3d_codec import BoxPriors
from roca_nocs.geometry.cuboids import box_corners, rotation_from_yaw
from roca_nocs.geometry.projection import project_points, resize_projection
from roca_nocs.geometry.yaw_bins import wrap_angle
from roca_nocs.modeling.mono3d.class_priors import ClassPriors

DETECTION = {"loss_rpn_cls", "loss_rpn_loc", "loss_cls", "loss_box_reg"}
YAW = {"loss_yaw_residual", "loss_yaw_category"}
CORNERS = {"loss_dims", "loss_xy", "loss_z", "loss_pose", "loss_joint"}
VARIANTS: dict[str, tuple[dict[str, Any], set[str]]] = {
    "huber": ({}, {"loss_box3d"} | YAW),
    "huber, uncertainty, clusters": (
        {"head": {"uncertainty": True}, "z_type": "clusters", "num_depth_clusters": 3},
        {"loss_box3d", "loss_uncertainty"} | YAW,
    ),
    "corners, yaw bins": (
        {"loss": {"mode": "disentangled"}, "dims_func": "sigmoid"},
        CORNERS | YAW,
    ),
    "Cube R-CNN": (
        {
            "head": {"pose_type": "6d", "uncertainty": True},
            "loss": {"mode": "disentangled"},
            "proposals": {"objectness": "iou", "positive_fraction": 1.0},
        },
        CORNERS | {"loss_uncertainty"},
    ),
}
FIELDS = {
    "pred_box3d": (8, 3),
    "pred_center_cam": (3,),
    "pred_center_2D": (2,),
    "pred_dimensions": (3,),
    "pred_R": (3, 3),
    "pred_rotation_y": (),
    "pred_alpha": (),
    "scores": (),
    "scores_full": (NUM_CLASSES,),
}


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("counts", [(3, 0), (0, 0)], ids=str)
def test_every_batch_trains_every_parameter(variant: str, counts: tuple[int, ...]) -> None:
    """Images with and without objects, of different sizes."""
    options, names = VARIANTS[variant]
    sizes = [(HEIGHT, WIDTH), (WIDTH, HEIGHT)]
    inputs = [
        make_input(count, size=size, seed=row)
        for row, (count, size) in enumerate(zip(counts, sizes, strict=True))
    ]
    losses, logged = train_step(build_mono3d(**options), inputs)
    assert losses.keys() == DETECTION | names
    assert all((losses[name] > 0) == (sum(counts) > 0) for name in names)
    assert logged["mono3d/num_ignored_proposals"] == 0
    learns = {"true_class_prob", "false_class_prob", "depth_error", "alpha_error", "dims_error"}
    learns |= {"pos_objectness"} | ({"yaw_bin_acc"} if names >= YAW else set())
    found = {name.removeprefix("mono3d/") for name in logged if name.startswith("mono3d/")}
    rest = {"num_ignored_proposals", "neg_objectness_top50"}
    assert found - rest == (learns if sum(counts) else set())


def test_objects_without_a_3d_box_only_teach_2d() -> None:
    model = build_mono3d()
    record = make_input(4)
    instances = record["instances"]
    instances.gt_has3d[:] = False
    losses, _ = train_step(model, [record])
    assert all(losses[name] == 0 for name in {"loss_box3d"} | YAW)
    assert losses["loss_box_reg"] > 0
    # Whatever stands in the other fields, nothing changes.
    for name in ("gt_center_2d", "gt_depths", "gt_dimensions", "gt_rotations", "gt_rotation_y"):
        instances.get(name).fill_(-1000.0)
    changed, _ = train_step(model, [record])
    assert changed == losses


def test_background_in_regions_to_ignore_is_not_trained() -> None:
    model = build_mono3d().train()
    record = make_input(1, seed=2)
    target = record["instances"]
    inside = torch.tensor([[0.0, 0, 20, 20], [10, 0, 35, 20], [15, 0, 45, 20]])
    boxes = torch.cat([inside, target.gt_boxes.tensor])
    proposals = Instances(target.image_size, proposal_boxes=Boxes(boxes), marks=torch.arange(4))
    # The object lies in the region too, but it is no background.
    ignored = torch.tensor([[0.0, 0, 25, 20], target.gt_boxes.tensor[0].tolist()])
    with EventStorage() as storage:
        (kept,) = model.roi_heads._without_ignored([proposals], [target], [ignored])
        assert storage.latest()["mono3d/num_ignored_proposals"][0] == 2
    assert kept.marks.tolist() == [2, 3]

    features = model.backbone(model.preprocess_image([record]).tensor)
    anchors, *_ = model.proposal_generator._dense_outputs(features)
    everything = torch.tensor([[0.0, 0, WIDTH, HEIGHT]])
    targets = model.proposal_generator.anchor_targets(anchors, [target], [everything])
    all_anchors = torch.cat([each.tensor for each in anchors])
    negative = all_anchors[targets["object"][0, :, 0] == 0]
    low, high = negative.split(2, dim=1)
    clipped = (high.minimum(torch.tensor([WIDTH, HEIGHT])) - low.clamp(min=0)).clamp(min=0)
    shares = clipped.prod(dim=1) / (high - low).prod(dim=1)
    assert len(negative) > 0 and (shares < 0.5).all()


def test_classes_that_an_image_does_not_know_are_left_alone() -> None:
    model = build_mono3d()
    record = make_input(3, seed=1)
    record["instances"].gt_classes[:] = 0
    train_step(model, [record | {"known_classes": [0, 2]}, make_input(1) | {"known_classes": [0]}])
    gradient = model.roi_heads.box_predictor.cls_score.weight.grad
    assert not gradient[1].any() and all(gradient[row].any() for row in (0, 2, 3))
    # An image that says nothing knows all classes.
    train_step(model, [record | {"known_classes": [0]}, make_input(1)])
    assert model.roi_heads.box_predictor.cls_score.weight.grad[1].any()


def test_outputs() -> None:
    model = build_mono3d()
    records = [make_input(2, seed=1), make_input(2, size=(80, 96), seed=2)]
    records[0].update(height=128, width=384)
    outputs = [each["instances"] for each in infer(model, *records)]
    for record, instances in zip(records, outputs, strict=True):
        size = record["image"].shape[1:]
        assert instances.image_size == (record["height"], record["width"])
        assert len(instances) > 0
        for name, shape in FIELDS.items():
            values = instances.get(name)
            assert values.shape == (len(instances), *shape) and values.isfinite().all(), name
        torch.testing.assert_close(
            instances.scores, instances.scores_full.gather(1, instances.pred_classes[:, None])[:, 0]
        )
        center = instances.pred_center_cam
        ray = torch.atan2(center[:, 0], center[:, 2])
        difference = wrap_angle(instances.pred_rotation_y - instances.pred_alpha - ray)
        torch.testing.assert_close(difference, torch.zeros_like(difference), atol=1e-5, rtol=0)
        torch.testing.assert_close(instances.pred_R, rotation_from_yaw(instances.pred_rotation_y))
        corners = box_corners(center, instances.pred_dimensions, instances.pred_R)
        torch.testing.assert_close(instances.pred_box3d, corners)
        # At the size of the record the camera is another one.
        camera = resize_projection(
            record["projection"], record["width"] / size[1], record["height"] / size[0]
        )
        pixels, _ = project_points(center, camera)
        torch.testing.assert_close(instances.pred_center_2D, pixels, atol=1e-2, rtol=1e-3)


@pytest.mark.parametrize("variant", ["huber", "Cube R-CNN"])
def test_batch_equals_single_images(variant: str) -> None:
    model = build_mono3d(**VARIANTS[variant][0])
    records = [make_input(2, seed=1), make_input(0, seed=2), make_input(3, seed=3)]
    together = [each["instances"] for each in infer(model, *records)]
    for record, instances in zip(records, together, strict=True):
        (alone,) = infer(model, record)
        alone = alone["instances"]
        assert len(alone) == len(instances) > 0
        torch.testing.assert_close(alone.pred_boxes.tensor, instances.pred_boxes.tensor)
        for name in FIELDS:
            torch.testing.assert_close(
                alone.get(name), instances.get(name), atol=1e-5, rtol=1e-4, msg=name
            )


@pytest.mark.parametrize("variant", ["huber", "Cube R-CNN"])
def test_no_detections(variant: str) -> None:
    model = build_mono3d(bev_nms_threshold=0.5, **VARIANTS[variant][0])
    model.roi_heads.box_predictor.test_score_thresh = 1.1
    for output in infer(model, make_input(1), make_input(0)):
        instances = output["instances"]
        assert len(instances) == 0
        assert {name: instances.get(name).shape[1:] for name in FIELDS} == FIELDS


@pytest.mark.parametrize("variant", ["huber", "Cube R-CNN"])
def test_boxes_of_perfect_predictions(variant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = build_mono3d(**VARIANTS[variant][0]).eval()
    heads = model.roi_heads
    record = make_input(5, seed=4)
    truth, camera = record["instances"], record["projection"]
    outputs = perfect_outputs(model, truth, camera)
    monkeypatch.setattr(heads, "_cube_outputs", lambda features, boxes: outputs)

    def predict(scale: float) -> Instances:
        given = Instances(
            truth.image_size,
            pred_boxes=Boxes(scale * truth.gt_boxes.tensor),
            pred_classes=truth.gt_classes,
            scores=torch.full((len(truth),), 0.5),
        )
        projections = resize_projection(camera, scale, scale)[None]
        return heads.predict_boxes3d({}, [given], projections)[0]

    found = predict(1)
    tolerance = {"atol": 1e-3, "rtol": 1e-4}
    torch.testing.assert_close(found.pred_center_cam, truth.gt_centers, **tolerance)
    torch.testing.assert_close(found.pred_dimensions, truth.gt_dimensions, **tolerance)
    torch.testing.assert_close(found.pred_R, truth.gt_rotations, **tolerance)
    turn = wrap_angle(found.pred_rotation_y - truth.gt_rotation_y)
    torch.testing.assert_close(turn, torch.zeros_like(turn), **tolerance)
    torch.testing.assert_close(found.pred_center_2D, truth.gt_center_2d, **tolerance)
    expected = torch.full((len(truth),), 0.5)
    if "uncertainty" in outputs:
        expected = (0.5 * torch.tensor(-0.5).exp()).sqrt().expand(len(truth))
    torch.testing.assert_close(found.scores, expected)
    # What looks the same through twice the focal length is twice as far away.
    farther = predict(2)
    _, depths = project_points(farther.pred_center_cam, camera)
    torch.testing.assert_close(depths, 2 * truth.gt_depths, **tolerance)
    torch.testing.assert_close(farther.pred_center_2D, 2 * truth.gt_center_2d, **tolerance)
    torch.testing.assert_close(farther.pred_dimensions, truth.gt_dimensions, **tolerance)


def test_given_boxes() -> None:
    model = build_mono3d()
    record = make_input(3, seed=5)
    truth = record["instances"]
    given = Instances(
        truth.image_size,
        pred_boxes=truth.gt_boxes,
        pred_classes=truth.gt_classes,
        scores=torch.ones(3),
    )
    (found,) = infer(model, record, detected_instances=[given], do_postprocess=False)
    assert found.pred_box3d.shape == (3, 8, 3)
    torch.testing.assert_close(found.pred_boxes.tensor, truth.gt_boxes.tensor)


def test_missing_cameras(caplog: pytest.LogCaptureFixture) -> None:
    model = build_mono3d()
    record = make_input(2, seed=6)
    del record["projection"]
    with EventStorage(), pytest.raises(ValueError, match=r"image6\.png.*projection.*intrinsics"):
        model.train()([make_input(1), record])
    with caplog.at_level(logging.WARNING):
        (guessed,) = infer(model, record)
    assert "image6.png" in caplog.text and "128" in caplog.text
    focal = 2.0 * HEIGHT
    record["intrinsics"] = torch.tensor([[focal, 0, WIDTH / 2], [0, focal, HEIGHT / 2], [0, 0, 1]])
    (known,) = infer(model, record)
    torch.testing.assert_close(
        guessed["instances"].pred_box3d, known["instances"].pred_box3d, atol=0, rtol=0
    )
    record["intrinsics"] = torch.eye(4)
    with pytest.raises(ValueError, match=r"image6\.png.*\(4, 4\)"):
        infer(model, record)


def test_training_without_ground_truth() -> None:
    model = build_mono3d()
    record = make_input(2, seed=7)
    del record["instances"]
    with EventStorage(), pytest.raises(ValueError, match=r"image7\.png.*no instances"):
        model.train()([record])


def test_priors_are_computed_once_and_stored() -> None:
    calls = []

    def compute() -> BoxPriors:
        calls.append(1)
        return priors()

    model = build_mono3d()
    stored = copy.deepcopy(model.roi_heads.priors.state_dict())
    model.roi_heads.priors = ClassPriors(NUM_CLASSES, 1, compute)
    with pytest.raises(ValueError, match="know no sizes and depths"):
        infer(model, make_input(1))
    assert not calls
    average = build_average(model, 0.9)
    model.train()
    restart_average(average, model)
    model.eval().train()
    assert len(calls) == 1
    for each in (model, average.module):
        torch.testing.assert_close(each.roi_heads.priors(), priors())
    # A checkpoint brings its own, and nothing is computed then.
    model.roi_heads.priors = ClassPriors(NUM_CLASSES, 1, compute)
    model.roi_heads.priors.load_state_dict(stored)
    model.train()
    assert len(calls) == 1
    with pytest.raises(ValueError, match=r"depth of shape \(2,\).*\(3,\)"):
        model.roi_heads.priors.set(priors()._replace(depth=torch.ones(2)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"head": {"pose_type": "6d"}}, "'6d' is learned from corners"),
        ({"head": {"pose_type": "euler"}}, "unknown pose_type 'euler'"),
        ({"head": {"num_classes": 4}}, "num_classes is 3, but the cube head has 4"),
        ({"loss": {"mode": "l2"}}, "unknown loss mode 'l2'"),
        ({"z_type": "inverse"}, "unknown Z_TYPE 'inverse'"),
        ({"yaw_residual": "degrees"}, "degrees"),
        ({"train_on_pred_boxes": True}, "trains on proposals"),
        ({"proposals": {"objectness": "centerness"}}, "unknown objectness 'centerness'"),
        ({"proposals": {"box_reg_loss_type": "giou"}}, "box_reg_loss_type is 'giou'"),
    ],
    ids=str,
)
def test_options_that_do_not_go_together(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_mono3d(**options)
