"""The NOCS evaluation against the published code and independent overlaps."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from roca_nocs.data.datasets.nocs_poses import split_transform
from roca_nocs.evaluation.nocs_metrics import (
    PosedObjects,
    SymmetryRule,
    box_overlaps,
    coordinate_distances,
    pose_errors,
)
from roca_nocs.evaluation.nocs_precision import (
    MIN_IOU,
    average_precision,
    class_mean,
    find_pairs,
    pose_precision,
    take,
)

# The published code calls "official" what is the mode "nocs" here.
MODES = {"nocs": "official", "aabb": "aabb", "obb": "obb"}
DETAIL_THRESHOLDS = (MIN_IOU, 0.25, 0.5, 0.75)
DETAIL_IMAGE = 1
Arrays = dict[str, np.ndarray]


def load(golden_dir: Path, name: str) -> Arrays:
    with np.load(golden_dir / "nocs" / f"{name}.npz", allow_pickle=False) as golden:
        return dict(golden)


def objects(
    transforms: np.ndarray,
    extents: np.ndarray,
    categories: np.ndarray,
    images: np.ndarray | None = None,
    scores: np.ndarray | None = None,
    visible: np.ndarray | None = None,
) -> PosedObjects:
    rotations, translations, scales = split_transform(transforms)
    count = len(transforms)
    return PosedObjects(
        images=np.zeros(count, np.int64) if images is None else images,
        categories=np.asarray(categories, np.int64),
        scores=np.ones(count) if scores is None else scores,
        rotations=rotations,
        translations=translations,
        sizes=extents * scales[:, None],
        posed=np.ones(count, bool),
        handle_visible=np.ones(count, bool) if visible is None else visible.astype(bool),
    )


def test_pose_errors(golden_dir: Path) -> None:
    data = load(golden_dir, "pose_error")
    rule = SymmetryRule.of_classes(data["synset_names"])
    extents = np.ones((len(data["class_id"]), 3))
    pred, gt = (
        objects(data[f"RT_{which}"], extents, data["class_id"], visible=data["handle_visibility"])
        for which in ("pred", "gt")
    )
    kinds = rule.of_objects(gt.categories, gt.handle_visible)
    assert len(np.unique(kinds)) == 3
    degrees, centimetres = pose_errors(pred, gt, kinds)
    np.testing.assert_allclose(degrees, data["degree_clipped"], atol=1e-4)
    np.testing.assert_allclose(centimetres, data["cm"], atol=1e-7)


@pytest.mark.parametrize(("mode", "name"), MODES.items())
def test_overlaps(golden_dir: Path, mode: str, name: str) -> None:
    data = load(golden_dir, "iou3d")
    names = sorted({*data["class_pred"].tolist(), *data["class_gt"].tolist()})
    rule = SymmetryRule.of_classes(names)
    pred, gt = (
        objects(
            data[f"RT_{which}"],
            data[f"size_{which}"],
            np.array([names.index(each) for each in data[f"class_{which}"].tolist()]),
            visible=data["handle_visibility"],
        )
        for which in ("pred", "gt")
    )
    same = pred.categories == gt.categories
    kinds = np.where(same, rule.of_objects(gt.categories, gt.handle_visible), 0)
    overlaps = box_overlaps(pred, gt, kinds, mode)
    atol = 1e-5 if mode == "obb" else 1e-6
    np.testing.assert_allclose(overlaps, data[f"iou_{name}"], atol=atol, equal_nan=True)


def test_average_precision(golden_dir: Path) -> None:
    data = load(golden_dir, "average_precision")
    cases = sorted(name.removeprefix("ap_") for name in data if name.startswith("ap_"))
    assert cases
    for case in cases:
        value = average_precision(
            data[f"pred_match_{case}"] > -1,
            data[f"pred_scores_{case}"],
            len(data[f"gt_match_{case}"]),
        )
        np.testing.assert_allclose(value, data[f"ap_{case}"], atol=1e-12)


def evaluated(data: Arrays) -> tuple[PosedObjects, PosedObjects, SymmetryRule]:
    """Predictions, annotations and symmetries; class ids are 0-based without the background."""
    pred = objects(
        data["pred_RTs"],
        data["pred_scales"],
        data["pred_class_ids"] - 1,
        data["pred_image_index"],
        data["pred_scores"],
    )
    gt = objects(
        data["gt_RTs"],
        data["gt_scales"],
        data["gt_class_ids"] - 1,
        data["gt_image_index"],
        visible=data["gt_handle_visibility"],
    )
    return pred, gt, SymmetryRule.of_classes(data["synset_names"][1:])


@pytest.mark.parametrize(("mode", "name"), MODES.items())
def test_whole_evaluation(golden_dir: Path, mode: str, name: str) -> None:
    data = load(golden_dir, "map_eval")
    pred, gt, rule = evaluated(data)
    precision = pose_precision(
        pred,
        gt,
        rule,
        modes=[mode],
        iou_thresholds=data["iou_thresholds"],
        degrees=data["degree_thresholds"],
        centimetres=data["shift_thresholds_cm"],
    )
    atol = 1e-6 if mode == "obb" else 1e-9
    found = {
        f"iou_ap_{name}": precision.iou[mode],
        f"pose_ap_{name}_matched": precision.matched[mode],
        f"pose_ap_{name}_detection": precision.detection,
    }
    for key, values in found.items():
        # Row 0 is the background, the last one the mean.
        expected = data[key]
        np.testing.assert_allclose(values, expected[1:-1], atol=atol, err_msg=key)
        np.testing.assert_allclose(class_mean(values), expected[-1], atol=atol, err_msg=key)


@pytest.mark.parametrize(("mode", "name"), MODES.items())
def test_overlaps_and_matches_of_one_image(golden_dir: Path, mode: str, name: str) -> None:
    data = load(golden_dir, "map_eval")
    pred, gt, rule = evaluated(data)
    order = np.flatnonzero(pred.images == DETAIL_IMAGE)[data["img1_pred_order"]]
    pred, gt = take(pred, order), take(gt, np.flatnonzero(gt.images == DETAIL_IMAGE))
    assert len(pred) and len(gt)
    assert (np.diff(pred.scores) < 0).all()

    first, second = (each.ravel() for each in np.indices((len(pred), len(gt))))
    same = pred.categories[first] == gt.categories[second]
    kinds = np.where(same, rule.of_objects(gt.categories, gt.handle_visible)[second], 0)
    overlaps = box_overlaps(take(pred, first), take(gt, second), kinds, mode)
    expected = data[f"img1_overlaps_{name}"]
    np.testing.assert_allclose(overlaps.reshape(expected.shape), expected, atol=1e-6)

    pairs = find_pairs(pred, gt, rule)
    overlaps = box_overlaps(take(pred, pairs.pred), take(gt, pairs.gt), pairs.kinds, mode)
    for row, threshold in enumerate(DETAIL_THRESHOLDS):
        partners = pairs.match(overlaps > threshold, -overlaps)
        np.testing.assert_array_equal(partners, data[f"img1_pred_match_{name}"][row])
        inverse = np.full(len(gt), -1)
        inverse[partners[partners >= 0]] = np.flatnonzero(partners >= 0)
        np.testing.assert_array_equal(inverse, data[f"img1_gt_match_{name}"][row])


def test_coordinate_distances(golden_dir: Path) -> None:
    data = load(golden_dir, "coord_diff")
    rule = SymmetryRule.of_classes(data["synset_names"][1:])
    count = len(rule.kinds)
    common = torch.from_numpy((data["mask_pred"] > 0) & (data["mask_gt"] > 0))
    maps = (
        torch.from_numpy(data[f"coord_{which}"]).permute(2, 0, 1).expand(count, -1, -1, -1)
        for which in ("pred", "gt")
    )
    distances = coordinate_distances(
        *maps, common.expand(count, -1, -1), torch.from_numpy(rule.kinds)
    )
    expected = data["mean_coord_dist_class1to6"]
    np.testing.assert_allclose(distances.numpy(), expected, atol=1e-5)
