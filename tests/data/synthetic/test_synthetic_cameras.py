"""Intrinsics and viewpoints."""

from __future__ import annotations

import logging

import numpy as np
import pytest

from roca_nocs.data.published_cameras import scannet_intrinsics
from roca_nocs.data.synthetic import cameras
from roca_nocs.data.synthetic.cameras import (
    look_at,
    sample_views,
)
from roca_nocs.data.synthetic.raycast import NEAR, RayCaster, pixel_directions
from roca_nocs.data.synthetic.types import Scene


def test_look_at() -> None:
    pose = look_at(np.array([1.0, 2.0, 3.0]), np.array([1.0, 7.0, 3.0]))
    camera = pose @ [1.5, 7.0, 3.25, 1.0]
    np.testing.assert_allclose(camera, [0.5, -0.25, 5.0, 1.0], atol=1e-12)
    rolled = look_at(np.zeros(3), np.array([0.3, 2.0, -0.7]), roll=0.3)
    np.testing.assert_allclose(rolled[:3, :3] @ rolled[:3, :3].T, np.eye(3), atol=1e-12)
    assert np.linalg.det(rolled[:3, :3]) == pytest.approx(1.0)


def test_views_of_rooms(rooms: list[Scene], caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        for scene in rooms:
            half = scene.surfaces[0].vertices[:, :2].max(axis=0)
            views = sample_views(scene, 2, (48, 64), "rooms")
            assert [view.index for view in views] == [0, 1]
            for view in views:
                rotation, shift = view.world_to_camera[:3, :3], view.world_to_camera[:3, 3]
                eye = -rotation.T @ shift
                assert 1.1 <= eye[2] <= 1.9
                assert (np.abs(eye[:2]) <= half - 0.25).all()
                assert rotation[1, 2] < 0.0  # image down is world down
                centres = np.stack([o.translation for o in scene.objects if o.annotated])
                assert (np.linalg.norm(centres - eye, axis=1) > 0.8).any()
    assert not caplog.records


def test_the_best_of_several_views_is_taken(
    rooms: list[Scene], monkeypatch: pytest.MonkeyPatch
) -> None:
    size = (48, 64)

    def merits() -> list[float]:
        # With equal shares: how little of the objects is cut off.
        return [
            cameras._merit(
                scene,
                sample_views(scene, 1, size, "rooms")[0].world_to_camera,
                scannet_intrinsics(cameras._PROBE),
                np.full(len(scene.objects), 1.0) * [each.annotated for each in scene.objects],
            )
            for scene in rooms
        ]

    best = merits()
    rules = cameras._Rules
    monkeypatch.setattr(cameras, "_Rules", lambda *args: rules(*args[:3], 1, args[4]))
    first = merits()
    assert np.mean(best) > np.mean(first)


def test_poses_do_not_depend_on_the_size(rooms: list[Scene]) -> None:
    small = sample_views(rooms[0], 2, (48, 64), "rooms")
    large = sample_views(rooms[0], 2, (360, 480), "rooms")
    for a, b in zip(small, large, strict=True):
        np.testing.assert_array_equal(a.world_to_camera, b.world_to_camera)
        assert b.size == (360, 480)


def test_views_of_tabletops(tabletops: list[Scene]) -> None:
    for scene in tabletops:
        centre = np.mean([placed.translation for placed in scene.objects], axis=0)
        for view in sample_views(scene, 1, (48, 64), "tabletop", "real"):
            assert view.intrinsics[0, 0] == pytest.approx(59.10125)
            eye = -view.world_to_camera[:3, :3].T @ view.world_to_camera[:3, 3]
            assert 0.25 < np.linalg.norm(eye - centre) < 1.3
            assert eye[2] > centre[2]


def test_errors(rooms: list[Scene]) -> None:
    with pytest.raises(ValueError, match="kind is 'street'"):
        sample_views(rooms[0], 1, (48, 64), "street")


def test_ray_caster_by_hand() -> None:
    vertices = np.array([[-1.0, -1, 2], [1, -1, 2], [1, 1, 2], [-1, 1, 2]])
    caster = RayCaster(vertices, np.array([[0, 1, 2], [0, 2, 3]]))
    rays = np.array([[0.2, -0.1, 1.0], [-0.1, 0.2, 1.0], [3.0, 0.0, 1.0]], dtype=np.float32)
    faces, depth = caster.first_hit(np.zeros(3), rays)
    assert faces.tolist() == [0, 1, -1]
    np.testing.assert_allclose(depth, [2.0, 2.0, 0.0], atol=1e-6)
    # Seen from behind as well, and not at all within the near distance.
    faces, depth = caster.first_hit(np.array([0.1, 0.0, 5.0]), -rays[:1])
    assert faces.tolist() == [1]
    np.testing.assert_allclose(depth, [3.0], atol=1e-6)
    close = np.array([0.0, 0.0, 2.0 - 0.9 * NEAR])
    assert caster.first_hit(close, rays[:1])[0].tolist() == [-1]
    origins = np.zeros((3, 3))
    assert caster.occluded(origins, rays).tolist() == [True, True, False]
    assert caster.occluded(origins, rays, limit=1.9).tolist() == [False] * 3
    none = np.zeros((0, 3), dtype=np.float32)
    assert caster.occluded(none, none).shape == (0,)
    assert [array.shape for array in caster.first_hit(np.zeros(3), none)] == [(0,), (0,)]


def test_pixel_directions_invert_the_projection() -> None:
    intrinsics = np.array([[50.0, 2.0, 30.0], [0.0, 60.0, 20.0], [0.0, 0.0, 1.0]])
    rays = pixel_directions(intrinsics, np.arange(64)[None], np.arange(48)[:, None])
    assert rays.shape == (48, 64, 3)
    projected = rays @ intrinsics.T
    np.testing.assert_allclose(projected[7, 9], [9.0, 7.0, 1.0])
