"""The k-to-one assignment against the published implementation, run image by image."""

from pathlib import Path

import numpy as np
import pytest
import torch

from parity.aligndetr_arrays import Arrays, cases, load, targets
from roca_nocs.geometry.boxes import cxcywh_to_xyxy, pairwise_iou_giou
from roca_nocs.modeling.criteria.matcher import Matches, MixedMatcher, Predictions


@pytest.fixture(scope="module")
def golden(golden_dir: Path) -> Arrays:
    return load(golden_dir / "aligndetr" / "mixed_matcher.npz")


def match(case: Arrays) -> Matches:
    outputs = Predictions("outputs", case["pred_logits"], case["pred_boxes"], int(case["k"]))
    return MixedMatcher()([outputs], targets(case))


def total_costs(case: Arrays, matches: Matches) -> list[float]:
    """Cost of the pairs of each image, by the formula written out for single images."""
    totals = []
    for image, target in enumerate(targets(case)):
        p = case["pred_logits"][image].double().sigmoid()[:, target["labels"]]
        positive = 0.25 * (1 - p) ** 2 * -(p + 1e-8).log()
        negative = 0.75 * p**2 * -(1 - p + 1e-8).log()
        boxes, wanted = case["pred_boxes"][image].double(), target["boxes"].double()
        _, giou = pairwise_iou_giou(cxcywh_to_xyxy(boxes), cxcywh_to_xyxy(wanted))
        cost = 2 * (positive - negative) + 5 * torch.cdist(boxes, wanted, p=1) - 2 * giou
        of_image = matches.image == image
        totals.append(float(cost[matches.query[of_image], matches.target[of_image]].sum()))
    return totals


def check(case: Arrays) -> Matches:
    matches = match(case)
    np.testing.assert_array_equal(matches.image, case["img_idx"])
    np.testing.assert_array_equal(matches.target, case["tgt_idx"])
    np.testing.assert_array_equal(matches.query, case["src_idx"])
    expected = case["total_cost_per_image"].tolist()
    assert total_costs(case, matches) == pytest.approx(expected, abs=1e-4)
    return matches


def test_assignment(golden: Arrays) -> None:
    for _, case in cases(golden):
        matches = check(case)
        counts = case["num_targets"].numpy()
        pairs = np.bincount(matches.image, minlength=len(counts))
        effective_k = case["effective_k_per_image"].numpy()
        np.testing.assert_array_equal(pairs, effective_k * counts)


def test_more_targets_than_half_the_queries(golden: Arrays) -> None:
    check({k.removeprefix("over_"): v for k, v in golden.items() if k.startswith("over_")})
