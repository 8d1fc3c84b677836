"""The padded outputs of the region proposal network, and its IoU objectness."""

from __future__ import annotations

import pytest
import torch
from detectron2.structures import ImageList
from detectron2.utils.events import EventStorage

from modeling.tiny_mono3d import HEIGHT, WIDTH, build_mono3d, make_input


def test_padded_outputs() -> None:
    model = build_mono3d().eval()
    rpn = model.proposal_generator
    sizes = [(HEIGHT, WIDTH), (HEIGHT - 20, WIDTH - 50), (10, 12)]
    images = model.preprocess_image([make_input(0, size=size) for size in sizes])
    with torch.no_grad():
        features = model.backbone(images.tensor)
        proposals, losses, padded = rpn.forward_padded(images, features)
        same, none = rpn(images, features)
    assert losses == none == {}
    for each, other in zip(proposals, same, strict=True):
        assert torch.equal(each.proposal_boxes.tensor, other.proposal_boxes.tensor)
    dense, head = padded["dense"], padded["head"]
    cells = sum((images.tensor.shape[2] // s) * (images.tensor.shape[3] // s) for s in (4, 8, 16))
    assert dense["anchors"].shape == (6 * cells, 4)
    assert dense["rpn_bbox2d_logit"].shape == (3, 6 * cells, 4)
    assert dense["rpn_object_logit"].shape == (3, 6 * cells, 1)

    size = rpn.post_nms_topk[False]
    assert head["rpn_valid"].shape == (3, size, 1) and head["rpn_valid"].dtype == torch.bool
    for row, each in enumerate(proposals):
        count = len(each)
        valid = head["rpn_valid"][row, :, 0]
        assert torch.equal(valid, torch.arange(size) < count)
        torch.testing.assert_close(head["rpn_bbox2d"][row, :count], each.proposal_boxes.tensor)
        torch.testing.assert_close(head["rpn_object_logit"][row, :count, 0], each.objectness_logits)
        assert not head["rpn_bbox2d"][row, count:].any()
        assert not head["rpn_object_logit"][row, count:].any()
        limit = torch.tensor([*sizes[row][::-1], *sizes[row][::-1]])
        assert (head["rpn_bbox2d"][row] >= 0).all() and (head["rpn_bbox2d"][row] <= limit).all()
    assert len(proposals[2]) < size, "the smallest image has padded rows"
    # The dense logits are in the order of the anchors: the best one is the first proposal's.
    best = dense["rpn_object_logit"][0, :, 0].argmax()
    deltas = dense["rpn_bbox2d_logit"][0, best]
    box = rpn.box2box_transform.apply_deltas(deltas[None], dense["anchors"][best][None])
    limit = torch.tensor([WIDTH, HEIGHT, WIDTH, HEIGHT])
    torch.testing.assert_close(box[0].clamp(min=0).minimum(limit), head["rpn_bbox2d"][0, 0])


def test_padded_outputs_of_a_training_step_are_those_of_its_losses() -> None:
    model = build_mono3d().train()
    record = make_input(3, seed=1)
    images = model.preprocess_image([record])
    with EventStorage():
        proposals, losses, padded = model.proposal_generator.forward_padded(
            images, model.backbone(images.tensor), [record["instances"]]
        )
    assert losses.keys() == {"loss_rpn_cls", "loss_rpn_loc"}
    assert padded["head"]["rpn_valid"].sum() == len(proposals[0])
    assert padded["dense"]["rpn_object_logit"].requires_grad


def test_training_needs_ground_truth() -> None:
    model = build_mono3d().train()
    images = ImageList(torch.zeros(1, 3, 32, 32), [(32, 32)])
    with EventStorage(), pytest.raises(ValueError, match="needs gt_instances"):
        model.proposal_generator(images, model.backbone(images.tensor))


def test_anchors_are_drawn_by_their_iou() -> None:
    rpn = build_mono3d(proposals={"objectness": "iou"}).proposal_generator
    rpn.batch_size_per_image, rpn.positive_fraction = 40, 0.5
    iou = torch.full((1000,), 0.1)
    iou[:100] = 0.9
    iou[500:] = 0.01
    drawn = torch.zeros(1000)
    torch.manual_seed(0)
    for _ in range(100):
        labels = torch.where(iou > 0.05, 1, 0)
        labels[900:] = -1
        rpn._sample_by_iou(labels, iou)
        assert (labels == 1).sum() == 20 and (labels == 0).sum() == 20
        assert not (labels[:500] == 0).any() and not (labels[500:] == 1).any()
        assert (labels[900:] == -1).all()
        drawn += labels == 1
    # Odds of nine to one, four times as many of the others, less what is drawn already.
    assert 1.8 < drawn[:100].sum() / drawn[100:].sum() < 2.6
    labels = torch.cat([torch.ones(5, dtype=torch.int64), torch.zeros(10, dtype=torch.int64)])
    rpn._sample_by_iou(labels, torch.ones(15))
    assert labels.tolist() == [1] * 5 + [0] * 10, "fewer than wanted: all of them"


def test_losses_of_iou_objectness() -> None:
    model = build_mono3d(proposals={"objectness": "iou", "positive_fraction": 1.0}).train()
    rpn = model.proposal_generator
    record = make_input(3, seed=1)
    images = model.preprocess_image([record])
    anchors, logits, deltas = rpn._dense_outputs(model.backbone(images.tensor))
    targets = rpn.anchor_targets(anchors, [record["instances"]])
    logits, deltas = torch.cat(logits, dim=1), torch.cat(deltas, dim=1)
    with EventStorage():
        losses = rpn._losses(logits, deltas, targets)
    expected = torch.zeros(2)
    for row in (targets["object"][0, :, 0] >= 0).nonzero()[:, 0].tolist():
        iou, probability = targets["iou"][0, row, 0], logits[0, row].detach().sigmoid()
        entropy = iou * probability.log() + (1 - iou) * (1 - probability).log()
        expected[0] -= iou * entropy
        if targets["object"][0, row, 0] == 1:
            distance = (deltas[0, row] - targets["bbox2d_logit"][0, row]).abs().detach()
            beta = rpn.smooth_l1_beta
            smooth = torch.where(distance < beta, distance**2 / (2 * beta), distance - beta / 2)
            expected[1] += iou * smooth.sum()
    expected /= rpn.batch_size_per_image
    assert (expected > 0).all()
    found = torch.stack([losses["loss_rpn_cls"], losses["loss_rpn_loc"]]).detach()
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)
