"""ROCA on AlignDETR: joint training on one backbone, alignment of what AlignDETR detects."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from detectron2.modeling import PROPOSAL_GENERATOR_REGISTRY, ROI_HEADS_REGISTRY
from detectron2.structures import Boxes, Instances, pairwise_iou
from detectron2.utils.events import EventStorage

from modeling.tiny_roca import HEIGHT, NUM_CLASSES, WIDTH, build_roca, make_database, make_input
from modeling.tiny_roca_align_detr import build_roca_align_detr
from roca_nocs.geometry.boxes import xyxy_to_cxcywh
from roca_nocs.losses import class_weights_from_counts
from roca_nocs.modeling.meta_arch import ROCA
from roca_nocs.modeling.proposal_generator import AlignDETRProposals
from roca_nocs.modeling.roi_heads.roca_region_heads import ROCARegionHeads

DETECTION = {
    f"loss_{name}{suffix}"
    for name in ("class", "bbox", "giou")
    for suffix in ("", "_0", "_enc", "_dn", "_dn_0")
}
REGIONS = {
    *("loss_image_depth", "loss_mask", "loss_mask_iou"),
    *("loss_roi_depth", "loss_mean_depth", "loss_depth_min", "loss_depth_max"),
    *("loss_scale", "loss_trans", "loss_noc", "loss_proc", "loss_trans_proc"),
}
OUTPUT = {
    *("pred_boxes", "pred_classes", "scores", "pred_masks", "pred_translations"),
    *("pred_rotations", "pred_scales", "pred_nocs", "has_alignment", "pred_indices"),
}
SIZES = [(HEIGHT, WIDTH), (WIDTH, HEIGHT), (HEIGHT - 11, WIDTH - 30)]


def make_batch(*counts: int) -> list[dict[str, Any]]:
    """Images with so many objects, of different sizes."""
    return [
        make_input(count, size=size, seed=row)
        for row, (count, size) in enumerate(zip(counts, SIZES, strict=False))
    ]


def train(model: ROCA, inputs: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    """Losses of one step."""
    torch.manual_seed(0)
    model.zero_grad()
    with EventStorage():
        return model.train()(inputs)


def infer(model: ROCA, inputs: list[dict[str, Any]], **options: Any) -> list[Any]:
    with torch.no_grad():
        return model.eval().inference(inputs, **options)


def assert_gradients(model: ROCA) -> None:
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name


def test_parts_are_registered() -> None:
    assert PROPOSAL_GENERATOR_REGISTRY.get("AlignDETRProposals") is AlignDETRProposals
    assert ROI_HEADS_REGISTRY.get("ROCARegionHeads") is ROCARegionHeads


@pytest.mark.parametrize("counts", [(2,), (0, 3), (3, 0, 12), (0,), (0, 0)], ids=str)
def test_every_batch_trains_every_parameter(counts: tuple[int, ...]) -> None:
    """Also images without objects, batches without any, and padded ones."""
    model = build_roca_align_detr()
    losses = train(model, make_batch(*counts))
    assert losses.keys() == DETECTION | REGIONS
    assert all(loss.shape == () and loss.isfinite() for loss in losses.values())
    sum(losses.values()).backward()
    assert_gradients(model)
    # The classes of queries are learned from the background too.
    everywhere = {"loss_class", "loss_class_0", "loss_class_enc"}
    of_objects = losses.keys() - everywhere
    assert all(losses[name] > 0 for name in everywhere)
    assert all((losses[name] > 0) == (sum(counts) > 0) for name in of_objects)


def test_both_parts_train_the_backbone() -> None:
    """And only their own parts besides: the boxes that regions are taken from have no gradient."""
    model = build_roca_align_detr()
    # Without this a prediction head has no influence on the layers before it.
    for head in model.proposal_generator.bbox_embed:
        torch.nn.init.normal_(head.layers[-1].weight)
    parts = ("proposal_generator", "roi_heads")
    for names, own, other in ((DETECTION, *parts), (REGIONS, *parts[::-1])):
        losses = train(model, make_batch(2, 3))
        sum(losses[name] for name in names).backward()
        trained = {
            name
            for name, parameter in model.named_parameters()
            if parameter.grad is not None and parameter.grad.abs().sum() > 0
        }
        assert any(name.startswith(f"{own}.") for name in trained)
        assert not any(name.startswith(f"{other}.") for name in trained)
        assert {"backbone.bottom_up.stem.conv1.weight", "backbone.fpn_output4.weight"} <= trained


def test_proposals_are_the_boxes_of_the_queries() -> None:
    model = build_roca_align_detr()
    generator = model.proposal_generator
    for head in generator.bbox_embed:
        torch.nn.init.normal_(head.layers[-1].weight, std=0.3)
    inputs = make_batch(2, 0, 4)
    images = model.preprocess_image(inputs)
    features = model.backbone(images.tensor)
    targets = [each["instances"] for each in inputs]
    torch.manual_seed(1)
    proposals, _ = generator.train()(images, features, targets)
    torch.manual_seed(1)
    expected = generator.predict_from_features(features, images, generator.prepare_targets(targets))
    outside = 0
    for row, (found, (height, width)) in enumerate(zip(proposals, images.image_sizes, strict=True)):
        assert found.image_size == (height, width)
        boxes = expected["pred_boxes"][row] * torch.tensor([width, height] * 2)
        corners = torch.cat([boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, :2] + boxes[:, 2:] / 2], 1)
        clipped = Boxes(corners.detach())
        clipped.clip((height, width))
        outside += (clipped.tensor != corners).any(dim=1).sum()
        torch.testing.assert_close(found.proposal_boxes.tensor, clipped.tensor)
        assert torch.equal(found.objectness_logits, expected["pred_logits"][row].max(dim=1).values)
        assert not found.proposal_boxes.tensor.requires_grad
        assert not found.objectness_logits.requires_grad
    assert outside > 0


def test_regions_are_foreground(monkeypatch: pytest.MonkeyPatch) -> None:
    """Regions are annotated boxes and those of queries that overlap one."""
    model = build_roca_align_detr()
    generator = model.proposal_generator
    inputs = make_batch(3, 0, 2)
    original = generator.forward

    def with_good_boxes(*args: Any) -> tuple[list[Instances], dict[str, torch.Tensor]]:
        """Each object is found once, a pixel off."""
        proposals, losses = original(*args)
        for each, record in zip(proposals, inputs, strict=True):
            truth = record["instances"].gt_boxes.tensor
            each.proposal_boxes.tensor[: len(truth)] = truth + 1
        return proposals, losses

    seen = []
    head = model.roi_heads.alignment_head
    losses_of_head = head.losses

    def spy(regions: Any, *args: Any, **kwargs: Any) -> dict[str, torch.Tensor]:
        seen.append(regions)
        return losses_of_head(regions, *args, **kwargs)

    monkeypatch.setattr(generator, "forward", with_good_boxes)
    monkeypatch.setattr(head, "losses", spy)
    train(model, inputs)
    (regions,) = seen
    for row, record in enumerate(inputs):
        truth = record["instances"]
        own = regions.image_indices == row
        overlap = pairwise_iou(truth.gt_boxes, Boxes(regions.boxes[own]))
        assert own.sum() >= 2 * len(truth)
        assert (own.sum() == 0) == (len(truth) == 0)
        if len(truth):
            best, rows = overlap.max(dim=0)
            assert (best >= 0.5).all()
            assert torch.equal(regions.classes[own], truth.gt_classes[rows])


def test_output_is_that_of_roca() -> None:
    """In a padded batch too: every image has its own size and its own scene."""
    model = build_roca_align_detr(
        cad_database=lambda: make_database(range(NUM_CLASSES), {"a": range(NUM_CLASSES)})
    )
    inputs = [{**each, "scene_id": "a"} for each in make_batch(0, 0, 0)]
    inputs[0].update(height=2 * HEIGHT, width=2 * WIDTH)
    for record, output in zip(inputs, infer(model, inputs), strict=True):
        found, size = output["instances"], (record["height"], record["width"])
        count = len(found)
        assert 0 < count <= 30
        assert found.get_fields().keys() == OUTPUT
        assert found.image_size == size and found.pred_masks.shape == (count, *size)
        assert output["depth"].shape == record["image"].shape[1:]
        boxes = found.pred_boxes.tensor
        assert (boxes >= 0).all() and (boxes <= torch.tensor(size[::-1] * 2)).all()
        assert (boxes[:, 2:] > boxes[:, :2]).all()
        assert found.has_alignment.all()
        assert torch.equal(found.pred_indices, found.pred_classes)
        assert output["cad_ids"] == [
            (f"synset_{row}", f"model_{row}") for row in found.pred_classes.tolist()
        ]
        for name in ("pred_translations", "pred_rotations", "pred_scales", "pred_nocs"):
            assert found.get(name).isfinite().all()
        assert torch.equal(found.scores.sort(descending=True).values, found.scores)


def test_detections_are_those_of_align_detr() -> None:
    """The heads align what the detector gives, above the threshold and within the image."""
    model = build_roca_align_detr()
    generator = model.proposal_generator
    for head in generator.bbox_embed:
        torch.nn.init.normal_(head.layers[-1].weight, std=0.3)
    inputs = make_batch(0, 0)
    images = model.eval().preprocess_image(inputs)
    with torch.no_grad():
        features = model.backbone(images.tensor)
        outputs = generator.predict_from_features(features, images)
    expected = generator.detections(outputs, images.image_sizes)
    threshold = float(torch.cat([each.scores for each in expected]).median())
    model.roi_heads.score_threshold = threshold
    found = infer(model, inputs, do_postprocess=False)
    assert sum(len(each) for each in found) < sum(len(each) for each in expected)
    for each, all_of_image in zip(found, expected, strict=True):
        all_of_image.pred_boxes.clip(all_of_image.image_size)
        kept = (all_of_image.scores >= threshold) & all_of_image.pred_boxes.nonempty()
        assert torch.equal(each.pred_boxes.tensor, all_of_image.pred_boxes.tensor[kept])
        assert torch.equal(each.scores, all_of_image.scores[kept])
        assert torch.equal(each.pred_classes, all_of_image.pred_classes[kept])
    again = infer(model, inputs, detected_instances=expected, do_postprocess=False)
    for each, other in zip(found, again, strict=True):
        torch.testing.assert_close(each.pred_translations, other.pred_translations)


def test_no_detection() -> None:
    model = build_roca_align_detr(
        cad_database=lambda: make_database([0], {"a": [0]}), score_threshold=0.99
    )
    for output in infer(model, make_batch(0, 2)):
        found = output["instances"]
        assert len(found) == 0 and output["cad_ids"] == []
        assert found.pred_masks.shape == (0, *found.image_size)
        assert output["depth"].shape == found.image_size


def test_boxes_outside_the_image_are_left_out() -> None:
    """A query may answer with a box in the padding."""
    model = build_roca_align_detr()
    generator = model.proposal_generator
    small = make_input(0, size=(32, 40))
    images = model.eval().preprocess_image([small])
    outside = xyxy_to_cxcywh(torch.tensor([[1.1, 0.2, 1.4, 0.6], [0.5, 0.5, 1.5, 1.0]]))
    outputs = {"pred_boxes": outside[None], "pred_logits": torch.zeros(1, 2, NUM_CLASSES)}
    generator.predict_from_features = lambda features, images: outputs
    (found,), losses = generator(images, {})
    assert losses == {}
    assert len(found) == NUM_CLASSES
    assert torch.equal(found.pred_boxes.tensor, torch.tensor([[20.0, 16, 40, 32]] * NUM_CLASSES))


def test_class_weights_come_with_the_first_step() -> None:
    def counts() -> torch.Tensor:
        return torch.arange(2, 2 + NUM_CLASSES) ** 2

    batch = make_batch(3, 4)
    equal, weighted = (
        train(build_roca_align_detr(class_counts=each), batch) for each in (None, counts)
    )
    assert equal["loss_mask"] != weighted["loss_mask"]
    assert all(equal[name] == weighted[name] for name in DETECTION)
    model = build_roca_align_detr(class_counts=counts)
    train(model, batch)
    assert torch.equal(model.roi_heads.class_weights, class_weights_from_counts(counts()))


def test_bfloat16() -> None:
    model = build_roca_align_detr()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = train(model, make_batch(3, 0))
    assert all(loss.dtype == torch.float32 and loss.isfinite() for loss in losses.values())
    sum(losses.values()).backward()
    assert_gradients(model)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        outputs = infer(model, make_batch(0, 0))
    for output in outputs:
        assert len(output["instances"]) and output["instances"].pred_translations.isfinite().all()


def test_generators_that_do_not_fit() -> None:
    model, record = build_roca_align_detr(), make_input(1)
    with pytest.raises(ValueError, match="needs gt_instances in training"):
        model.proposal_generator.train()(model.preprocess_image([record]), {})
    with pytest.raises(ValueError, match="give it no backbone"):
        AlignDETRProposals(backbone=model.backbone)
    model.proposal_generator = build_roca().proposal_generator
    model.proposal_generator.in_features = ["p2", "p3", "p4", "p5", "p5"]
    with pytest.raises(ValueError, match="gives no pred_boxes, scores, pred_classes: ROCARegion"):
        infer(model, [record])
