"""Targets of anchors and proposals, and padded proposals, against detectron2's own functions."""

from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.modeling.anchor_generator import DefaultAnchorGenerator
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.matcher import Matcher
from detectron2.modeling.proposal_generator.proposal_utils import find_top_rpn_proposals

from roca_nocs.geometry.box3d_codec import Box3DCodec, uninformed_priors
from roca_nocs.modeling.mono3d.padding import pad_proposals
from roca_nocs.modeling.mono3d.targets import make_auxi

Arrays = dict[str, torch.Tensor]


def load(golden_dir: Path, name: str) -> Arrays:
    with np.load(golden_dir / "mono3d" / name) as arrays:
        return {key: torch.from_numpy(arrays[key]) for key in arrays.files}


@pytest.fixture(scope="module")
def golden(golden_dir: Path) -> Arrays:
    return load(golden_dir, "targets_alignment.npz")


@pytest.fixture(scope="module")
def targets(golden: Arrays) -> dict[str, Arrays]:
    batch, size = golden["gt_valid"].shape[:2]
    gt = {
        "bbox2d": golden["gt_bbox2d"],
        "bbox3d": golden["gt_bbox3d"],
        "rotation": torch.eye(3).expand(batch, size, 3, 3),
        "rotation_y": golden["gt_yaw"],
        "alpha": golden["gt_yaw"],
        "category": golden["gt_category"],
        # The six numbers are no boxes: some lengths are negative.
        "has3d": torch.zeros(batch, size, 1, dtype=torch.bool),
        "valid": golden["gt_valid"] > 0,
    }
    return make_auxi(
        gt,
        golden["anchors"],
        golden["roi_proposals"],
        golden["roi_proposal_valid"] > 0,
        anchor_matcher=Matcher([0.3, 0.7], [0, -1, 1], allow_low_quality_matches=True),
        proposal_matcher=Matcher([0.5], [0, 1]),
        box2box_transform=Box2BoxTransform((1.0, 1.0, 1.0, 1.0)),
        codec=Box3DCodec(uninformed_priors(int(golden["num_classes"]))),
        focal=torch.full((batch,), 500.0),
        num_sampled=None,
    )


def close(ours: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-5)


def test_anchors(golden: Arrays) -> None:
    height, width = golden["image_hw"].tolist()
    strides = golden["strides"].tolist()
    generator = DefaultAnchorGenerator(
        sizes=golden["anchor_sizes"].tolist(),
        aspect_ratios=[golden["anchor_aspect_ratios"].tolist()],
        strides=strides,
        offset=0.0,
    )
    levels = generator([torch.zeros(1, 1, height // s, width // s) for s in strides])
    assert [len(level) for level in levels] == golden["anchors_per_level"].tolist()
    close(torch.cat([level.tensor for level in levels]), golden["anchors"])


def test_anchor_targets(golden: Arrays, targets: dict[str, Arrays]) -> None:
    ours = targets["gt_feature"]
    label = golden["rpn_label"].long()
    assert torch.equal(ours["object"].squeeze(2), label)
    positive = label == 1
    index = golden["rpn_matched_gt_index"].long()
    assert torch.equal(ours["index"].squeeze(2), torch.where(positive, index, -1))
    close(ours["iou"].squeeze(2), golden["rpn_matched_iou"])
    deltas = golden["rpn_target_deltas_on_positives"]
    close(ours["bbox2d_logit"], torch.where(positive[..., None], deltas, 0.0))
    image, anchor = positive.nonzero(as_tuple=True)
    row = index[image, anchor]
    for name, source in (("bbox2d", "bbox2d"), ("bbox3d", "bbox3d"), ("alpha", "yaw")):
        assert torch.equal(ours[name][image, anchor], golden[f"gt_{source}"][image, row])
        assert not ours[name][~positive].any()
    assert torch.equal(ours["category"][image, anchor], golden["gt_category"][image, row])


def test_proposal_targets(golden: Arrays, targets: dict[str, Arrays]) -> None:
    ours = targets["gt_aligned"]
    assert torch.equal(ours["object"].squeeze(2), golden["roi_aligned_label"])
    assert torch.equal(ours["index"].squeeze(2), golden["roi_aligned_index"])
    assert torch.equal(ours["category"], golden["roi_aligned_category"])
    close(ours["iou"].squeeze(2), golden["roi_aligned_iou"])
    for name, source in (("bbox2d", "bbox2d"), ("bbox3d", "bbox3d"), ("rotation_y", "yaw")):
        close(ours[name], golden[f"roi_aligned_{source}"])


def test_padded_proposals(golden_dir: Path) -> None:
    golden = load(golden_dir, "rpn_padded_proposals.npz")
    levels = range(sum(name.endswith("_logits") for name in golden))
    size = int(golden["num_head"])
    proposals = find_top_rpn_proposals(
        [golden[f"level{level}_boxes"] for level in levels],
        [golden[f"level{level}_logits"] for level in levels],
        [tuple(row) for row in golden["image_hw"].tolist()],
        float(golden["nms_thresh"]),
        int(golden["pre_nms_topk_per_level"]),
        # More than fit, so that the padding has to choose.
        2 * size,
        float(golden["min_box_size"]),
        False,
    )
    ours = pad_proposals(
        [each.proposal_boxes.tensor for each in proposals],
        [each.objectness_logits for each in proposals],
        size,
    )
    assert torch.equal(ours["rpn_valid"], golden["rpn_valid"] > 0)
    torch.testing.assert_close(ours["rpn_bbox2d"], golden["rpn_bbox2d"], rtol=0, atol=1e-4)
    assert torch.equal(ours["rpn_object_logit"], golden["rpn_object_logit"])
