"""Alignment accuracy against the numbers of the published evaluation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch

from roca_nocs.evaluation.alignment import (
    PlacedModels,
    accuracy,
    evaluate_alignment,
    limit_counts,
    match_annotations,
    remove_duplicates,
    to_scene,
)
from roca_nocs.geometry.pose import compose_pose
from roca_nocs.geometry.rotation import quaternion_to_matrix
from roca_nocs.geometry.symmetry import symmetry_ids

Golden = Mapping[str, np.ndarray]


@pytest.fixture(scope="module")
def golden(golden_dir: Path) -> Golden:
    with np.load(golden_dir / "roca" / "alignment_accuracy.npz", allow_pickle=False) as arrays:
        return dict(arrays)


def rotation_matrices(quaternions: np.ndarray) -> np.ndarray:
    return quaternion_to_matrix(torch.from_numpy(quaternions).double()).numpy()


def cad_symmetries(golden: Golden) -> dict[tuple[str, str], int]:
    """The table of CAD models: (synset, model id) to symmetry."""
    keys = zip(golden["annot_model_catid"], golden["annot_model_id"], strict=True)
    ids = symmetry_ids(golden["annot_model_sym"].tolist()).tolist()
    return dict(zip(keys, ids, strict=True))


def annotated_models(golden: Golden) -> PlacedModels:
    """Annotated models of the classes, moved from the frame of Scan2CAD to that of the scan."""
    classes = golden["class_catids"].tolist()
    chosen = np.isin(golden["annot_model_catid"], classes)
    scenes = golden["annot_model_scene"][chosen]
    scan_to_world = compose_pose(
        torch.from_numpy(golden["annot_scan_translation"]),
        torch.from_numpy(rotation_matrices(golden["annot_scan_rotation_wxyz"])),
        torch.from_numpy(golden["annot_scan_scale"]),
    )
    pose = to_scene(
        scan_to_world.inverse().numpy()[scenes],
        golden["annot_model_translation"][chosen],
        rotation_matrices(golden["annot_model_rotation_wxyz"][chosen]),
        golden["annot_model_scale"][chosen],
    )
    keys = list(
        zip(golden["annot_model_catid"][chosen], golden["annot_model_id"][chosen], strict=True)
    )
    numbers = list(cad_symmetries(golden))
    return PlacedModels(
        scenes,
        np.array([classes.index(synset) for synset, _ in keys]),
        *pose,
        symmetry_ids(golden["annot_model_sym"][chosen].tolist()).numpy(),
        np.array([numbers.index(key) for key in keys]),
    )


def predicted_models(golden: Golden) -> tuple[PlacedModels, np.ndarray]:
    table = cad_symmetries(golden)
    keys = list(zip(golden["pred_catid"], golden["pred_id_cad"], strict=True))
    models = PlacedModels(
        golden["pred_scene"],
        np.array([golden["class_catids"].tolist().index(synset) for synset, _ in keys]),
        golden["pred_t"].astype(np.float64),
        rotation_matrices(golden["pred_q_wxyz"]),
        golden["pred_s"].astype(np.float64),
        np.array([table[key] for key in keys]),
        np.array([list(table).index(key) for key in keys]),
    )
    return models, golden["pred_score"]


def test_annotations_in_the_scan(golden: Golden) -> None:
    models = annotated_models(golden)
    np.testing.assert_array_equal(models.scenes, golden["out_gt_world_scene"])
    np.testing.assert_allclose(models.translations, golden["out_gt_world_t"], atol=1e-9)
    np.testing.assert_allclose(models.scales, golden["out_gt_world_s"], atol=1e-9)
    expected = rotation_matrices(golden["out_gt_world_q"])
    np.testing.assert_allclose(models.rotations, expected, atol=1e-9)


@pytest.mark.parametrize("seed", [None, 0, 1])
@pytest.mark.parametrize("exact", [False, True])
def test_every_step_in_any_order(golden: Golden, seed: int | None, exact: bool) -> None:
    annotations = annotated_models(golden)
    predictions, scores = predicted_models(golden)
    order = np.arange(len(scores))
    if seed is not None:
        order = np.random.default_rng(seed).permutation(order)
    predictions, scores = predictions[order], scores[order]

    alive = remove_duplicates(predictions, scores)
    np.testing.assert_array_equal(alive, golden["out_kept_after_nms"][order])
    limited = np.zeros_like(alive)
    limited[alive] = limit_counts(predictions[alive], scores[alive], annotations)
    np.testing.assert_array_equal(limited, golden["out_kept_after_count_limit"][order])

    matched = np.full(len(order), -1)
    matched[limited] = match_annotations(
        predictions[limited], scores[limited], annotations, exact_cad=exact
    )
    prefix = "out_exact_" if exact else "out_"
    np.testing.assert_array_equal(matched >= 0, golden[f"{prefix}correct"][order])
    if not exact:
        first_of_scene = np.searchsorted(annotations.scenes, annotations.scenes[matched])
        in_scene = np.where(matched >= 0, matched - first_of_scene, -1)
        np.testing.assert_array_equal(in_scene, golden["out_matched_gt_index_in_scene"][order])

    benchmark = golden["class_names"] != "bed"
    result = accuracy(matched, annotations, benchmark)
    np.testing.assert_array_equal(result.annotated, golden["out_gt_count_per_class"])
    if not exact:
        np.testing.assert_array_equal(result.correct, golden["out_correct_count_per_class"])
    expected = golden[f"{prefix}accuracy_per_class"]
    np.testing.assert_array_equal(np.nan_to_num(result.classes, nan=-1.0), expected)
    names = golden["metric_names"].tolist()
    assert names == ["category", "benchmark", "instance (all)", "instance (benchmark)"]
    averages = [result.category, result.benchmark, result.instance, result.instance_benchmark]
    np.testing.assert_array_equal(averages, golden[f"{prefix}metrics"])

    # The whole protocol starts with a threshold on the scores: move them above it.
    whole = evaluate_alignment(predictions, 0.5 + scores / 2, annotations, benchmark)
    np.testing.assert_equal(asdict(whole["mean_ratio", exact]), asdict(result))
