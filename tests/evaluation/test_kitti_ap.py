"""Rules of the KITTI evaluation on a few objects."""

from __future__ import annotations

from dataclasses import replace

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from roca_nocs.evaluation.kitti_ap import KittiPrecision, kitti_precision, recall_thresholds
from roca_nocs.evaluation.kitti_overlaps import KittiObjects, covered_share


def objects(count: int, kind: str = "car", **fields: object) -> KittiObjects:
    """Objects in an image each, at different depths."""
    depth = np.linspace(10, 30, count)
    middle = np.full((count, 2), (600.0, 180.0))
    values = {
        "images": np.arange(count),
        "types": np.array([kind] * count, dtype=np.str_),
        "boxes": np.concatenate([middle - 50, middle + 50], axis=1),
        "scores": np.linspace(0.9, 0.5, count),
        "centers": np.stack([0 * depth, 1 + 0 * depth, depth], axis=1),
        "dimensions": np.full((count, 3), (1.6, 1.5, 3.9)),
        "rotation_y": np.linspace(-3, 3, count),
        "alphas": np.linspace(-3, 3, count),
        "truncation": np.zeros(count),
        "occlusion": np.zeros(count, np.int64),
    }
    return KittiObjects(**(values | fields))


def joined(*parts: KittiObjects) -> KittiObjects:
    names = KittiObjects.__dataclass_fields__
    return KittiObjects(**{n: np.concatenate([getattr(p, n) for p in parts]) for n in names})


def moderate_car(result: KittiPrecision, metric: str) -> float:
    return result.average(metric, 40)[0, 1]


@pytest.mark.parametrize("count", [1, 2, 40, 41, 57])
def test_few_annotations_cannot_reach_100(count: int) -> None:
    truth = objects(count)
    result = kitti_precision(truth, truth)
    assert result.num_annotated.tolist() == [[count] * 3, [0] * 3, [0] * 3]
    expected = 100 * (min(count, 41) - 1) / 40
    for metric in result.precision:
        np.testing.assert_allclose(result.average(metric, 40)[0], expected, err_msg=metric)
        assert (result.average(metric, 40)[1:] == 0).all()
    if count >= 41:
        np.testing.assert_allclose(result.average("3d_strict", 11)[0], 100)


def test_nothing_detected_and_nothing_annotated() -> None:
    for pred, gt in ((objects(0), objects(3)), (objects(3), objects(0)), (objects(0), objects(0))):
        result = kitti_precision(pred, gt)
        assert all((values == 0).all() for values in result.precision.values())
    with pytest.raises(ValueError, match=r"no classes \['truck'\]"):
        kitti_precision(objects(1), objects(1), ["Car", "Truck"])


def test_difficulties_and_neighbours() -> None:
    truth = joined(
        objects(3, truncation=np.array([0.15, 0.3, 0.5])),
        objects(3, occlusion=np.array([1, 2, 3])),
        objects(2, boxes=np.array([[0.0, 0, 90, 40], [0, 0, 90, 25]])),
        objects(2, "van"),
    )
    # A height of exactly the limit counts.
    assert kitti_precision(objects(0), truth).num_annotated[0].tolist() == [2, 5, 7]
    # A van in the place of a car is no error; without annotations it would be.
    cars = joined(objects(50), replace(objects(2), images=np.array([50, 51])))
    with_vans = joined(objects(50), replace(objects(2, "van"), images=np.array([50, 51])))
    assert moderate_car(kitti_precision(cars, with_vans), "3d_strict") == pytest.approx(100)
    high = replace(cars, scores=cars.scores[::-1].copy())
    assert moderate_car(kitti_precision(high, with_vans), "3d_strict") == pytest.approx(100)
    assert moderate_car(kitti_precision(high, objects(50)), "3d_strict") < 98


def test_areas_to_be_ignored_hide_false_detections_in_the_image_only() -> None:
    truth = objects(50)
    false = replace(objects(20), boxes=np.full((20, 4), (10.0, 10, 90, 90)), scores=np.ones(20))
    false = replace(false, centers=false.centers + np.array([30, 0, 0]))
    pred = joined(objects(50), false)
    plain = kitti_precision(pred, truth)
    area = objects(20, "dontcare", boxes=np.full((20, 4), (0.0, 0, 100, 100)))
    hidden = kitti_precision(pred, joined(truth, area))
    assert moderate_car(plain, "2d") < 80
    assert moderate_car(hidden, "2d") == pytest.approx(100)
    assert moderate_car(hidden, "3d_strict") == moderate_car(plain, "3d_strict") < 80
    assert covered_share(pred, area).tolist() == [0] * 50 + [1] * 20


def test_low_detections_of_any_class_absorb_annotations() -> None:
    # The annotations are 25 pixels high, the integer part of the height of the detections is 24.
    truth = objects(50, boxes=np.full((50, 4), (100.0, 100, 180, 125.5)))
    low = objects(50, "pedestrian", boxes=np.full((50, 4), (100.0, 100.4, 180, 125.3)))
    cars = objects(50, boxes=truth.boxes)
    alone = kitti_precision(cars, truth)
    assert moderate_car(alone, "2d") == pytest.approx(100)
    # In the first pass the higher score wins, whatever the class.
    both = kitti_precision(joined(replace(low, scores=low.scores + 1), cars), truth)
    assert moderate_car(both, "2d") == 0
    assert (
        moderate_car(
            kitti_precision(joined(replace(low, scores=low.scores - 1), cars), truth), "2d"
        )
        > 99
    )


def test_the_counting_pass_prefers_overlap_and_the_first_pass_scores() -> None:
    truth = objects(50)
    near = replace(truth, boxes=truth.boxes + 5, alphas=truth.alphas + np.pi)
    exact = replace(truth, scores=truth.scores - 0.004)
    result = kitti_precision(joined(near, exact), truth)
    # At the score of the last of the nearly right ones, the exact ones of all objects before it
    # are there too, and are taken; only its own object is left with the wrong orientation.
    np.testing.assert_allclose(result.precision["aos"][0, 1], 49 / 99)
    assert result.precision["2d"][0, 1, 0] == 1
    assert result.precision["2d"][0, 1, 40] == 50 / 99


def test_orientation_needs_angles() -> None:
    truth = objects(45)
    pred = replace(truth, alphas=np.append(truth.alphas[:-1], -10))
    result = kitti_precision(pred, truth)
    assert np.isnan(result.average("aos", 40)).all()
    assert moderate_car(result, "2d") == pytest.approx(100)
    quarter = replace(truth, alphas=truth.alphas + np.pi / 2)
    assert moderate_car(kitti_precision(quarter, truth), "aos") == pytest.approx(50)


@settings(max_examples=60)
@given(st.data())
def test_thresholds_are_those_of_the_walk(data: st.DataObject) -> None:
    count = data.draw(st.integers(0, 130))
    missed = data.draw(st.integers(0, 90))
    scores = np.random.default_rng(count).permutation(np.arange(count) / 200)
    walked, current = [], 0.0
    falling = sorted(scores.tolist(), reverse=True)
    for i, score in enumerate(falling):
        left = (i + 1) / (count + missed)
        last = i == count - 1
        right = left if last else (i + 2) / (count + missed)
        if right - current < current - left and not last:
            continue
        walked.append(score)
        current += 1 / 40
    assert recall_thresholds(scores, count + missed).tolist() == walked
    assert len(walked) <= 41
