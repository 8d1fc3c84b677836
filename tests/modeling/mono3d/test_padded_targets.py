"""Targets of anchors and proposals: padding, ignored regions, sampling, degenerate batches."""

import math
from typing import Any

import pytest
import torch
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.matcher import Matcher
from hypothesis import given, settings
from hypothesis import strategies as st

from modeling.mono3d.random_batches import (
    CLASSES,
    CODEC,
    random_boxes2d,
    random_images,
    random_proposals,
    spoiled,
)
from roca_nocs.geometry.box3d_codec import ImageBoxes3D
from roca_nocs.modeling.mono3d.padding import pad_ground_truth
from roca_nocs.modeling.mono3d.targets import (
    covered_by_ignore,
    make_align,
    make_auxi,
    make_feature,
)

Tensors = dict[str, torch.Tensor]
TRANSFORM = Box2BoxTransform((1.0, 1.0, 1.0, 1.0))
RULES = {
    "anchor_matcher": Matcher([0.3, 0.7], [0, -1, 1], allow_low_quality_matches=True),
    "proposal_matcher": Matcher([0.5], [0, 1]),
    "box2box_transform": TRANSFORM,
    "codec": CODEC,
}
COUNTS, SIZE = [4, 0, 2], 6
PROPOSALS, ROWS = [9, 5, 12], 12


def batch(seed: int = 0) -> tuple[Tensors, torch.Tensor, Tensors]:
    images = random_images(COUNTS, seed)
    anchors = random_boxes2d(200, torch.Generator().manual_seed(seed + 1))
    return pad_ground_truth(images, SIZE), anchors, random_proposals(images, PROPOSALS, ROWS, seed)


def auxi(gt: Tensors, anchors: torch.Tensor, proposals: Tensors, **options: Any) -> Tensors:
    """All targets in one flat dictionary."""
    focal = torch.linspace(400, 900, len(gt["valid"]))
    torch.manual_seed(5)
    groups = make_auxi(
        gt,
        anchors,
        proposals["rpn_bbox2d"],
        proposals["rpn_valid"],
        focal=focal,
        **RULES,
        **options,
    )
    assert set(groups) == {"gt_feature", "gt_aligned", "valid"}
    return {f"{group}.{name}": t for group, part in groups.items() for name, t in part.items()}


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([math.nan, math.inf, -3e30, 7.0]))
def test_padded_rows_change_nothing(seed: int, garbage: float) -> None:
    gt, anchors, proposals = batch(seed)
    expected = auxi(gt, anchors, proposals)
    valid, rows_valid = gt["valid"], proposals["rpn_valid"]
    gt = {
        name: value if name == "valid" else spoiled(value, valid, garbage)
        for name, value in gt.items()
    }
    proposals["rpn_bbox2d"] = spoiled(proposals["rpn_bbox2d"], rows_valid, garbage)
    ours = auxi(gt, anchors, proposals)
    assert ours.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(ours[name], value), name


def test_encoded_boxes_belong_to_the_proposal_of_their_row() -> None:
    gt, anchors, proposals = batch()
    aligned = auxi(gt, anchors, proposals)
    encoded = {name.split(".")[1]: t for name, t in aligned.items() if "gt_aligned" in name}
    usable = encoded["has3d"].squeeze(2)
    assert usable.any() and (encoded["object"].squeeze(2)[~usable] == 1).any()
    assert not encoded["bbox3d_logit"][~usable].any()
    image, row = usable.nonzero(as_tuple=True)
    focal = torch.linspace(400, 900, 3)[image]
    index = encoded["index"][image, row].squeeze(1)
    numbers = gt["bbox3d"][image, index]
    assert torch.equal(encoded["bbox3d"][image, row], numbers)
    classes = gt["category"][image, index].squeeze(1)
    assert torch.equal(encoded["category"][image, row].squeeze(1), classes)
    decoded = CODEC.decode(
        encoded["bbox3d_logit"][image, row], proposals["rpn_bbox2d"][image, row], classes, focal
    )
    wanted = ImageBoxes3D(numbers[:, :2], numbers[:, 2], numbers[:, 3:])
    for ours, expected in zip(decoded, wanted, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-4)


def test_batch_equals_single_images() -> None:
    gt, anchors, proposals = batch(3)
    together = auxi(gt, anchors, proposals, num_sampled=None)
    focal = torch.linspace(400, 900, 3)
    for image in range(3):
        own = {name: value[image : image + 1] for name, value in gt.items()}
        single = make_auxi(
            own,
            anchors,
            proposals["rpn_bbox2d"][image : image + 1],
            proposals["rpn_valid"][image : image + 1],
            focal=focal[image : image + 1],
            num_sampled=None,
            **RULES,
        )
        for group, part in single.items():
            for name, value in part.items():
                assert torch.equal(value[0], together[f"{group}.{name}"][image]), name


def test_background_padding_and_foreground() -> None:
    gt, anchors, proposals = batch()
    ours = auxi(gt, anchors, proposals)
    label, category = ours["gt_aligned.object"], ours["gt_aligned.category"]
    assert (label[~proposals["rpn_valid"]] == -1).all()
    assert (category[~proposals["rpn_valid"]] == -1).all()
    assert ((label == 0) == (category == CLASSES)).all() and (label == 0).any()
    foreground = label == 1
    assert (
        foreground.any() and ((0 <= category[foreground]) & (category[foreground] < CLASSES)).all()
    )
    assert (ours["gt_aligned.iou"][foreground] >= 0.5).all()
    assert (ours["gt_aligned.index"][~foreground] == -1).all()
    # The second image has no ground truth.
    assert (label[1][proposals["rpn_valid"][1]] == 0).all()
    assert not ours["gt_aligned.iou"][1].any()
    # The deltas lead from the anchor to its ground truth.
    positive = ours["gt_feature.object"].squeeze(2) == 1
    image, anchor = positive.nonzero(as_tuple=True)
    boxes = TRANSFORM.apply_deltas(ours["gt_feature.bbox2d_logit"][image, anchor], anchors[anchor])
    torch.testing.assert_close(boxes, ours["gt_feature.bbox2d"][image, anchor], atol=1e-3, rtol=0)


def test_sampling() -> None:
    gt, anchors, proposals = batch()
    everything = auxi(gt, anchors, proposals, num_sampled=None)["gt_feature.object"]
    ours = auxi(gt, anchors, proposals, num_sampled=40, positive_fraction=0.1)["gt_feature.object"]
    drawn = ours >= 0
    assert torch.equal(ours[drawn], everything[drawn])
    assert drawn.sum(dim=(1, 2)).tolist() == [40, 40, 40]
    assert (ours == 1).sum(dim=(1, 2)).max() <= 4 and (ours[0] == 1).any()
    again = auxi(gt, anchors, proposals, num_sampled=40, positive_fraction=0.1)["gt_feature.object"]
    assert torch.equal(ours, again)


def test_ground_truth_that_no_anchor_meets() -> None:
    """It is matched with none of the anchors, not with all of them; and another one keeps its."""
    (image,) = random_images([2], seed=0)
    image["bbox2d"][0] = torch.tensor([900.0, 900, 950, 950])
    gt = pad_ground_truth([image])
    anchors = torch.tensor([[0.0, 0, 8, 8], [100, 100, 108, 108], *image["bbox2d"][1:].tolist()])
    ours = make_feature(gt, anchors, RULES["anchor_matcher"], TRANSFORM, num_sampled=None)
    assert ours["object"].flatten().tolist()[1:] == [0, 1]
    assert ours["index"].flatten().tolist()[2] == 1
    gt["valid"][:] = torch.tensor([True, False])[:, None]
    ours = make_feature(gt, anchors, RULES["anchor_matcher"], TRANSFORM, num_sampled=None)
    assert not ours["object"].any() and (ours["index"] == -1).all()


def test_low_quality_match_is_positive_only() -> None:
    (image,) = random_images([1], seed=0)
    image["bbox2d"][:] = torch.tensor([0.0, 0, 100, 100])
    anchors = torch.tensor([[0.0, 0, 40, 40], [0, 0, 10, 10]])
    gt = pad_ground_truth([image])
    ours = make_feature(gt, anchors, RULES["anchor_matcher"], TRANSFORM, num_sampled=None)
    assert ours["object"].flatten().tolist() == [1, 0]


def test_ignored_regions() -> None:
    boxes = torch.tensor([[0.0, 0, 10, 10], [5, 0, 15, 10], [6, 0, 16, 10], [50, 50, 60, 60]])
    regions = torch.tensor([[0.0, 0, 10, 20], [50, 50, 54, 60]])
    assert covered_by_ignore(boxes, regions).tolist() == [True, True, False, False]
    assert covered_by_ignore(boxes, regions[:0]).tolist() == [False] * 4
    gt, anchors, proposals = batch()
    expected = auxi(gt, anchors, proposals, num_sampled=None)
    ignore = [torch.tensor([[0.0, 0, 60, 120]]), torch.zeros(0, 4), torch.zeros(0, 4)]
    ours = auxi(gt, anchors, proposals, num_sampled=None, ignore_boxes=ignore)
    for group, own in (
        ("gt_feature", anchors.expand(3, -1, -1)),
        ("gt_aligned", proposals["rpn_bbox2d"]),
    ):
        before, after = (which[f"{group}.object"].squeeze(2) for which in (expected, ours))
        covered = torch.stack([covered_by_ignore(b, i) for b, i in zip(own, ignore, strict=True)])
        changed = covered & (before == 0)
        assert changed.any() and torch.equal(after, torch.where(changed, -1, before))
    changed = ours["gt_aligned.object"] != expected["gt_aligned.object"]
    assert (ours["gt_aligned.category"][changed] == -1).all()


@pytest.mark.parametrize("num_proposals", [0, 5])
def test_no_ground_truth_and_no_proposals(num_proposals: int) -> None:
    gt = pad_ground_truth(random_images([0, 0], seed=0))
    proposals = torch.zeros(2, num_proposals, 4)
    valid = torch.zeros(2, num_proposals, 1, dtype=torch.bool)
    aligned = make_align(gt, proposals, valid, RULES["proposal_matcher"], CODEC, torch.ones(2))
    assert (aligned["object"] == -1).all() and (aligned["category"] == -1).all()
    feature = make_feature(gt, torch.zeros(0, 4), RULES["anchor_matcher"], TRANSFORM)
    assert feature["bbox2d_logit"].shape == (2, 0, 4)


def test_targets_have_no_gradient() -> None:
    gt, anchors, proposals = batch()
    proposals["rpn_bbox2d"].requires_grad_()
    assert not any(value.requires_grad for value in auxi(gt, anchors, proposals).values())
