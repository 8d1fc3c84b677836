"""The protocol of alignment accuracy in cases that can be worked out by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from roca_nocs.evaluation.alignment import (
    SCALE_ERRORS,
    PlacedModels,
    accuracy,
    evaluate_alignment,
    limit_counts,
    match_annotations,
    remove_duplicates,
    to_scene,
)

NONE, TWO, FOUR, INFINITE = range(4)
BENCHMARK = np.array([True, True, False])


def yaw_rotations(degrees: np.ndarray) -> np.ndarray:
    return Rotation.from_rotvec(np.radians(degrees)[:, None] * (0, 1, 0)).as_matrix()


def models(*rows: dict[str, Any]) -> PlacedModels:
    """Models from what differs from an upright model of class 0 at the origin of scene 0."""

    def column(name: str, default: Any, dtype: Any, *shape: int) -> np.ndarray:
        return np.array([row.get(name, default) for row in rows], dtype).reshape(-1, *shape)

    return PlacedModels(
        scenes=column("scene", 0, np.int64),
        categories=column("category", 0, np.int64),
        translations=column("at", (0, 0, 0), np.float64, 3),
        rotations=yaw_rotations(column("yaw", 0, np.float64)),
        scales=column("scale", (1, 1, 1), np.float64, 3),
        symmetries=column("symmetry", NONE, np.int64),
        cads=column("cad", 0, np.int64),
    )


def falling(count: int) -> np.ndarray:
    return np.linspace(0.9, 0.6, count)


def is_correct(predicted: dict[str, Any], annotated: dict[str, Any], **options: Any) -> bool:
    matched = match_annotations(models(predicted), falling(1), models(annotated), **options)
    return matched.tolist() == [0]


def test_thresholds() -> None:
    assert is_correct({"at": (0.2, 0, 0)}, {})
    assert not is_correct({"at": (0.15, 0.15, 0)}, {})
    assert is_correct({"yaw": 19.9}, {})
    assert not is_correct({"yaw": 20.1}, {})
    assert is_correct({"scale": (1.19, 1.19, 1.19)}, {})
    assert not is_correct({"scale": (0.79, 0.79, 0.79)}, {})
    assert not is_correct({"category": 1}, {})
    assert not is_correct({"scene": 1}, {})


def test_scale_errors_may_cancel_in_one_variant_only() -> None:
    stretched = {"scale": (1.4, 0.6, 1.0)}
    assert is_correct(stretched, {}, scale_variant="mean_ratio")
    assert not is_correct(stretched, {}, scale_variant="per_axis")
    # The ratio is predicted over annotated: 1 / 0.82 is off by more than a fifth, 0.82 is not.
    for variant in SCALE_ERRORS:
        assert is_correct({"scale": (0.82,) * 3}, {}, scale_variant=variant)
        assert not is_correct({}, {"scale": (0.82,) * 3}, scale_variant=variant)


def test_symmetry_counts_where_both_models_have_it() -> None:
    assert is_correct({"yaw": 185, "symmetry": TWO}, {"symmetry": TWO})
    assert not is_correct({"yaw": 95, "symmetry": TWO}, {"symmetry": TWO})
    assert is_correct({"yaw": 95, "symmetry": FOUR}, {"symmetry": FOUR})
    assert is_correct({"yaw": 133, "symmetry": INFINITE}, {"symmetry": INFINITE})
    for predicted, annotated in ((NONE, TWO), (TWO, NONE), (FOUR, TWO), (INFINITE, FOUR)):
        assert not is_correct({"yaw": 180, "symmetry": predicted}, {"symmetry": annotated})


def test_exact_cad() -> None:
    assert is_correct({"cad": 3}, {"cad": 4})
    assert not is_correct({"cad": 3}, {"cad": 4}, exact_cad=True)
    assert is_correct({"cad": 4}, {"cad": 4}, exact_cad=True)


def test_the_first_free_annotation_is_taken() -> None:
    annotated = models({"at": (0.15, 0, 0)}, {"at": (0, 0, 0)})
    matched = match_annotations(models({}, {"at": (0.3, 0, 0)}), np.array([0.6, 0.9]), annotated)
    # The better one takes annotation 0, although the other alone would have taken it too.
    assert matched.tolist() == [1, 0]
    matched = match_annotations(models({}, {"at": (0.3, 0, 0)}), np.array([0.9, 0.6]), annotated)
    assert matched.tolist() == [0, -1]


def test_duplicates() -> None:
    near, chain = {"at": (0.4, 0, 0)}, {"at": (0.7, 0, 0)}
    assert remove_duplicates(models({}, near, chain), falling(3)).tolist() == [True, False, True]
    assert remove_duplicates(models({}, near), np.array([0.6, 0.7])).tolist() == [False, True]
    for different in ({"at": (0.41, 0, 0)}, {"yaw": 61}, {"category": 1}, {"scene": 1}):
        assert remove_duplicates(models({}, different), falling(2)).all()
    assert remove_duplicates(models({"scale": (2, 2, 2)}, {}), falling(2)).all()
    # The symmetry is that of the model with the higher score.
    turned = {"yaw": 180}
    kept = remove_duplicates(models({"symmetry": TWO}, turned), falling(2))
    assert kept.tolist() == [True, False]
    assert remove_duplicates(models({}, turned | {"symmetry": TWO}), falling(2)).all()


def test_count_limit() -> None:
    apart = [{"at": (float(i), 0, 0)} for i in range(3)]
    annotated = models({}, {"category": 1}, {"scene": 1})
    kept = limit_counts(models(*apart), np.array([0.6, 0.8, 0.7]), annotated)
    assert kept.tolist() == [False, True, False]
    assert not limit_counts(models({"category": 2}), falling(1), annotated).any()


def test_averages() -> None:
    # Class 0: 1 of 3 in two scenes; class 1: annotated, never predicted; class 2 (no class of the
    # benchmark): predicted, not annotated in scene 0, right in scene 1.
    annotated = models(
        {}, {"at": (3, 0, 0)}, {"scene": 1}, {"category": 1}, {"scene": 1, "category": 2}
    )
    predicted = models({}, {"category": 2}, {"scene": 1, "category": 2})
    result = evaluate_alignment(predicted, falling(3), annotated, BENCHMARK)["mean_ratio", False]
    assert result.classes.tolist() == [33.3, 0.0, 100.0]
    assert (result.correct.tolist(), result.annotated.tolist()) == ([1, 0, 1], [3, 1, 1])
    assert (result.category, result.benchmark) == (44.4, 16.6)
    assert (result.instance, result.instance_benchmark) == (40.0, 25.0)


def test_classes_without_annotation_are_left_out() -> None:
    annotated = models({}, {"category": 1})
    predicted = models({}, {"category": 2})
    result = evaluate_alignment(predicted, falling(2), annotated, BENCHMARK)["per_axis", True]
    np.testing.assert_array_equal(result.classes, [100.0, 0.0, np.nan])
    assert (result.category, result.instance) == (50.0, 50.0)


@pytest.mark.parametrize("scores", [falling(0), np.array([0.5, 0.3])])
def test_no_predictions(scores: np.ndarray) -> None:
    predicted = models(*({} for _ in scores))
    for result in evaluate_alignment(predicted, scores, models({}), BENCHMARK).values():
        assert (result.classes[0], result.category, result.instance) == (0.0, 0.0, 0.0)


def test_no_annotations() -> None:
    results = evaluate_alignment(models({}), falling(1), models(), BENCHMARK)
    assert all(np.isnan(result.instance) for result in results.values())
    empty = accuracy(np.zeros(0, np.int64), models(), BENCHMARK)
    assert np.isnan(empty.classes).all()


def random_models(rng: np.random.Generator, count: int) -> PlacedModels:
    return PlacedModels(
        scenes=rng.integers(0, 3, count),
        categories=rng.integers(0, 3, count),
        translations=rng.uniform(0, 0.8, (count, 3)),
        rotations=yaw_rotations(rng.uniform(0, 90, count)),
        scales=rng.uniform(0.8, 1.2, (count, 3)),
        symmetries=rng.integers(0, 4, count),
        cads=rng.integers(0, 3, count),
    )


@pytest.mark.parametrize("seed", range(3))
def test_order_of_predictions_with_equal_scores(seed: int) -> None:
    rng = np.random.default_rng(seed)
    predicted, annotated = random_models(rng, 80), random_models(rng, 30)
    scores = rng.choice([0.6, 0.7, 0.8], 80)
    kept = remove_duplicates(predicted, scores)
    matched = match_annotations(predicted, scores, annotated)
    assert 0 < kept.sum() < 80 and (matched >= 0).any()
    order = rng.permutation(80)
    shuffled = predicted[order], scores[order]
    np.testing.assert_array_equal(remove_duplicates(*shuffled), kept[order])
    np.testing.assert_array_equal(match_annotations(*shuffled, annotated), matched[order])


def test_floating_point_settings_are_left_alone() -> None:
    before = np.geterr()
    annotated = models({}, {"category": 1})
    with np.errstate(all="raise"):
        result = evaluate_alignment(models({}), falling(1), annotated, BENCHMARK)
    assert result["mean_ratio", False].instance == 50.0
    assert np.geterr() == before


def test_to_scene_scales_first() -> None:
    turn = np.eye(4)[None]
    turn[0, :3, :3] = Rotation.from_euler("z", 90, degrees=True).as_matrix()
    turn[0, :3, 3] = (1, 2, 3)
    rotation = Rotation.from_euler("x", 90, degrees=True).as_matrix()
    translations, rotations, scales = to_scene(
        turn, np.array([[1.0, 0, 0]]), rotation[None], np.array([[1.0, 2, 3]])
    )
    np.testing.assert_allclose(translations, [[1, 3, 3]], atol=1e-12)
    np.testing.assert_allclose(rotations[0], turn[0, :3, :3] @ rotation, atol=1e-12)
    np.testing.assert_allclose(scales, [[1, 2, 3]], atol=1e-12)
