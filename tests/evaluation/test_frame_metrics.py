"""Metrics of single images in cases that can be worked out by hand."""

from __future__ import annotations

import numpy as np
import pycocotools.mask as mask_util
import pytest

from roca_nocs.evaluation.frame_metrics import (
    AveragePrecision,
    FrameObjects,
    average_precision,
    box_iou,
    depth_error,
    match_frames,
)

BOX = (0, 0, 10, 10)
ELSEWHERE = (20, 20, 30, 30)


def objects(*rows: tuple[int, int, tuple[int, ...], float]) -> FrameObjects:
    """(image, class, box, score) of each object; its mask is its box."""
    masks = []
    for _, _, (x0, y0, x1, y1), _ in rows:
        mask = np.zeros((32, 32), np.uint8, order="F")
        mask[y0:y1, x0:x1] = 1
        masks.append(mask_util.encode(mask))
    return FrameObjects(
        np.array([row[0] for row in rows], np.int64),
        np.array([row[1] for row in rows], np.int64),
        np.array([row[2] for row in rows], np.float64).reshape(-1, 4),
        np.array([row[3] for row in rows], np.float64),
        masks,
    )


def precision(
    predictions: FrameObjects, annotations: FrameObjects, by_mask: bool
) -> AveragePrecision:
    matched = match_frames(predictions, annotations, by_mask=by_mask)
    return average_precision(predictions, annotations, matched, num_classes=3)


def test_box_iou() -> None:
    boxes = np.array([BOX, BOX, BOX, (5, 5, 5, 5)], np.float64)
    others = np.array([BOX, (5, 0, 15, 10), ELSEWHERE, (5, 5, 5, 5)], np.float64)
    np.testing.assert_allclose(box_iou(boxes, others), [1, 1 / 3, 0, 0])


@pytest.mark.parametrize("by_mask", [False, True])
def test_area_under_the_envelope(by_mask: bool) -> None:
    annotations = objects((0, 0, BOX, 1), (1, 0, BOX, 1))
    predictions = objects((1, 0, BOX, 0.7), (0, 0, BOX, 0.9), (1, 0, ELSEWHERE, 0.8))
    # Precision 1, 1/2, 2/3 at recall 1/2, 1/2, 1.
    result = precision(predictions, annotations, by_mask)
    assert result.classes[0] == pytest.approx(1 / 2 + 1 / 2 * 2 / 3)
    assert result.mean == result.pooled == result.classes[0]


@pytest.mark.parametrize("by_mask", [False, True])
def test_classes_without_predictions_or_annotations(by_mask: bool) -> None:
    annotations = objects((0, 0, BOX, 1), (0, 1, ELSEWHERE, 1))
    predictions = objects((0, 2, BOX, 0.9), (0, 0, BOX, 0.8))
    result = precision(predictions, annotations, by_mask)
    np.testing.assert_array_equal(result.classes, [1.0, 0.0, np.nan])
    assert result.mean == 0.5
    assert result.unannotated == (2,)
    # Pooled: a false positive before the only hit of two annotations.
    assert result.pooled == pytest.approx(1 / 2 * 1 / 2)


@pytest.mark.parametrize("by_mask", [False, True])
def test_false_positives_count_for_their_own_class(by_mask: bool) -> None:
    # All annotations of the image are taken when the two false positives have their turn.
    annotations = objects((0, 0, BOX, 1), (1, 1, BOX, 1))
    predictions = objects(
        (0, 0, BOX, 0.9), (0, 1, BOX, 0.8), (0, 1, ELSEWHERE, 0.7), (1, 1, BOX, 0.6)
    )
    result = precision(predictions, annotations, by_mask)
    np.testing.assert_allclose(result.classes[:2], [1.0, 1 / 3])


@pytest.mark.parametrize("by_mask", [False, True])
def test_the_first_free_annotation_is_taken(by_mask: bool) -> None:
    annotations = objects((0, 0, (0, 0, 10, 6), 1), (0, 0, BOX, 1), (1, 0, BOX, 1))
    predictions = objects((0, 0, BOX, 0.8), (0, 0, BOX, 0.9), (0, 0, BOX, 0.7))
    matched = match_frames(predictions, annotations, by_mask=by_mask)
    assert matched.tolist() == [1, 0, -1]


def test_nothing_predicted_or_annotated() -> None:
    nothing = precision(objects(), objects((0, 1, BOX, 1)), True)
    assert (nothing.classes[1], nothing.mean, nothing.pooled) == (0.0, 0.0, 0.0)
    undefined = precision(objects((0, 1, BOX, 0.9)), objects(), True)
    assert np.isnan([*undefined.classes, undefined.mean, undefined.pooled]).all()
    assert undefined.unannotated == (1,)


def test_equal_scores_in_any_order() -> None:
    rng = np.random.default_rng(0)
    corners = rng.integers(0, 12, (40, 2))
    rows = [
        (int(rng.integers(0, 4)), int(rng.integers(0, 3)), (x, y, x + 12, y + 12), 0.5)
        for x, y in corners.tolist()
    ]
    annotations = objects(*rows[:15])
    straight = precision(objects(*rows[15:]), annotations, False)
    reverse = precision(objects(*rows[:14:-1]), annotations, False)
    np.testing.assert_array_equal(straight.classes, reverse.classes)
    assert 0 < straight.pooled == reverse.pooled < 1


def test_depth_error() -> None:
    truth = np.array([[0, 1.0], [2.0, 1e-6]], np.float32)
    assert depth_error(np.array([[9, 1.5], [1.0, 9]], np.float32), truth) == pytest.approx(0.75)
    assert np.isnan(depth_error(np.ones((2, 2), np.float32), np.zeros((2, 2), np.float32)))
    with pytest.raises(ValueError, match=r"\(2, 3\).*\(2, 2\)"):
        depth_error(np.ones((2, 3), np.float32), truth)
