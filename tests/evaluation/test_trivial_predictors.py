"""Predictions that need no image."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from roca_nocs.evaluation.alignment import PlacedModels
from roca_nocs.evaluation.collected import Detections
from roca_nocs.evaluation.trivial_predictors import (
    class_means,
    identity_rotation,
    mean_pose,
    random_cad,
)


def annotation(category: int, yaw: float, depth: float, scale: float, **fields: int) -> dict:
    x, y, z, w = Rotation.from_rotvec([0, np.radians(yaw), 0]).as_quat()
    pose = {"q": [w, x, y, z], "t": [5.0, 5.0, depth], "s": [scale, 1.0, 1.0]}
    return {"category_id": category, "iscrowd": 0, **pose, **fields}


def detections(categories: list[int], boxes: list[tuple[int, ...]]) -> Detections:
    count = len(categories)
    return Detections(
        images=np.zeros(count, np.int64),
        categories=np.array(categories, np.int64),
        boxes=np.array(boxes, np.float64).reshape(-1, 4),
        scores=np.ones(count),
        translations=np.full((count, 3), 7.0),
        rotations=np.full((count, 3, 3), 7.0),
        scales=np.full((count, 3), 7.0),
        cads=np.full(count, 7),
        has_alignment=np.ones(count, bool),
    )


def test_class_means() -> None:
    records = [
        {"annotations": [annotation(0, 40, 2.0, 1.0), annotation(2, 30, 6.0, 1.0)]},
        {"annotations": [annotation(0, -20, 4.0, 2.0), annotation(0, 9, 9.0, 9.0, iscrowd=1)]},
    ]
    means = class_means(records, 3)
    np.testing.assert_allclose(means.depths, [3.0, 4.0, 6.0])
    np.testing.assert_allclose(means.scales[:, 0], [1.5, 4 / 3, 1.0])
    yaws = Rotation.from_matrix(means.rotations).as_rotvec(degrees=True)
    np.testing.assert_allclose(yaws[[0, 2]], [[0, 10, 0], [0, 30, 0]], atol=1e-9)
    # Class 1 has no annotation: the mean of all objects.
    assert 10 < yaws[1, 1] < 30
    with pytest.raises(ValueError, match="dataset with annotations"):
        class_means([{"annotations": []}], 3)


def test_mean_pose_is_at_the_centre_of_the_box() -> None:
    means = class_means([{"annotations": [annotation(0, 40, 2.0, 1.5)]}], 1)
    intrinsics = np.array([[[100.0, 0, 50], [0, 200, 40], [0, 0, 1]]])
    # The columns 40..80 and rows 30..70 of pixels: the centre is pixel (60, 50).
    found = mean_pose(detections([0], [(40, 30, 81, 71)]), means, intrinsics)
    np.testing.assert_allclose(found.translations, [[0.2, 0.1, 2.0]])
    np.testing.assert_allclose(found.scales, [[1.5, 1, 1]])
    np.testing.assert_allclose(found.rotations, means.rotations)
    assert found.cads.tolist() == [7]


def test_identity_rotation_replaces_nothing_else() -> None:
    found = identity_rotation(detections([0, 1], [(0, 0, 1, 1)] * 2))
    np.testing.assert_array_equal(found.rotations, [np.eye(3)] * 2)
    assert (found.translations == 7).all() and (found.scales == 7).all()


def test_random_cad_is_one_of_the_scene_and_class() -> None:
    zeros = np.zeros((4, 3))
    pool = PlacedModels(
        scenes=np.array([0, 0, 0, 1]),
        categories=np.array([0, 0, 1, 0]),
        translations=zeros,
        rotations=np.zeros((4, 3, 3)),
        scales=zeros,
        symmetries=np.zeros(4, np.int64),
        cads=np.array([3, 5, 6, 4]),
    )
    categories = [0] * 50 + [1, 2, 0]
    scenes = np.array([0] * 52 + [1])
    objects = detections(categories, [(0, 0, 1, 1)] * 53)
    found = random_cad(objects, scenes, pool)
    assert set(found.cads[:50].tolist()) == {3, 5}
    assert found.cads[50:].tolist() == [6, -1, 4]
    assert found.has_alignment.tolist() == [True] * 51 + [False, True]
    np.testing.assert_array_equal(random_cad(objects, scenes, pool).cads, found.cads)
    assert random_cad(objects, scenes, pool, seed=1).cads.tolist() != found.cads.tolist()
    nothing = random_cad(objects, scenes, pool[:0])
    assert not nothing.has_alignment.any()


def test_no_detections() -> None:
    means = class_means([{"annotations": [annotation(0, 0, 1, 1)]}], 1)
    assert len(mean_pose(detections([], []), means, np.zeros((0, 3, 3)))) == 0
    assert len(identity_rotation(detections([], []))) == 0
